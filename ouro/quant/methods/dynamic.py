"""Dynamic per-token quantization: every sample and time step brings its own range, measured as it runs.

The strongest simple baseline, and the costliest at run time: no calibration image is needed for its activations.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from torch import Tensor

from ouro.quant import observers
from ouro.quant.bits import Bits
from ouro.quant.modules import WEIGHT_SITES, Quantizer, build
from ouro.quant.plan import Learning
from ouro.taps import Tap
from ouro.types import QuantSpec


@dataclass(frozen=True, slots=True)
class DynamicToken:
    """Asymmetric min-max per sample and time step; weights per output channel, clipped as in `Clipped`."""

    norm: float = 2.4
    candidates: int = 100

    has_outliers = False
    learning = Learning()

    def spec(self, site: str, bits: Bits) -> QuantSpec:
        if site in WEIGHT_SITES:
            return QuantSpec(bits.weights, signed=True, granularity="channel")
        return QuantSpec(bits.activations, signed=False, granularity="token")

    def fit(self, tap: Tap, spec: QuantSpec, chunks: Sequence[Tensor]) -> dict[str, Tensor]:
        if spec.granularity == "token":
            return {}
        scale = observers.best_channel_scale(chunks[0], spec.bits, norm=self.norm, candidates=self.candidates)
        return {"scale": scale}

    def build(self, tap: Tap, spec: QuantSpec, state: Mapping[str, Tensor]) -> Quantizer:
        return build(tap, spec, state)
