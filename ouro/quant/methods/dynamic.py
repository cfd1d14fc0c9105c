"""Dynamic per-token quantization: every sample and time step brings its own range, measured as it runs.

The strongest simple baseline, and the costliest at run time: no calibration image is needed for its activations. What
has no time steps that bring a range of their own (constants, the recurrence) is rounded as by `MinMax`.
"""

from __future__ import annotations

from dataclasses import dataclass

from torch import Tensor

from ouro.quant import observers
from ouro.quant.bits import Bits
from ouro.quant.method import Method, Seen
from ouro.quant.quantizer import RECURRENT_SITES, WEIGHT_SITES
from ouro.taps import Tap
from ouro.types import QuantSpec


@dataclass(frozen=True, slots=True)
class DynamicToken(Method):
    """Asymmetric min-max per sample and time step; weights per output channel, clipped as in `Clipped`."""

    norm: float = 2.4
    candidates: int = 100

    def spec(self, tap: Tap, bits: Bits) -> QuantSpec:
        if tap.site in WEIGHT_SITES | RECURRENT_SITES:
            # named: a dataclass with slots is a new class, which super() without names does not know
            return Method.spec(self, tap, bits)
        return QuantSpec(bits.activations, signed=False, granularity="token")

    def fit_weight(self, seen: Seen) -> dict[str, Tensor]:
        return observers.clipped_weight(seen.chunks[0], seen.spec, norm=self.norm, candidates=self.candidates)

    def fit_activation(self, seen: Seen) -> dict[str, Tensor]:
        return {}
