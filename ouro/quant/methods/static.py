"""Static baselines: one grid per weight channel, one asymmetric grid per activation tensor, fixed in calibration.

`MinMax` is plain round-to-nearest. `Clipped` shrinks every range to the least L^2.4 error, as OuroMamba does: what
is left between it and OuroMamba-Quant is what outlier lists and learning are worth.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from torch import Tensor

from ouro.quant import observers
from ouro.quant.bits import Bits
from ouro.quant.grid import range_of
from ouro.quant.modules import WEIGHT_SITES, Quantizer, build
from ouro.quant.observers import Rows
from ouro.quant.plan import Learning
from ouro.taps import Tap
from ouro.types import QuantSpec


@dataclass(frozen=True, slots=True)
class MinMax:
    """Ranges that clip nothing of what calibration showed."""

    has_outliers = False
    learning = Learning()

    def spec(self, site: str, bits: Bits) -> QuantSpec:
        return static_spec(site, bits)

    def fit(self, tap: Tap, spec: QuantSpec, chunks: Sequence[Tensor]) -> dict[str, Tensor]:
        if spec.granularity == "channel":
            return {"scale": observers.max_channel_scale(chunks[0], spec.bits)}
        low, high = observers.ranges([Rows(tap.axes)(chunk) for chunk in chunks], per_step=False)
        scale, zero = range_of(low, high, spec.bits)
        return {"scale": scale, "zero": zero}

    def build(self, tap: Tap, spec: QuantSpec, state: Mapping[str, Tensor]) -> Quantizer:
        return build(tap, spec, state)


@dataclass(frozen=True, slots=True)
class Clipped:
    """Ranges with the least mean |x - Q(x)|^norm among `candidates` shrunk ones.

    steps_per_block: optimizer steps for the step sizes of each block, 0 for none.
    """

    norm: float = 2.4
    candidates: int = 100
    steps_per_block: int = 0

    has_outliers = False

    @property
    def learning(self) -> Learning:
        return Learning(self.steps_per_block)

    def spec(self, site: str, bits: Bits) -> QuantSpec:
        return static_spec(site, bits)

    def fit(self, tap: Tap, spec: QuantSpec, chunks: Sequence[Tensor]) -> dict[str, Tensor]:
        if spec.granularity == "channel":
            return {
                "scale": observers.best_channel_scale(chunks[0], spec.bits, norm=self.norm, candidates=self.candidates)
            }
        rows = [Rows(tap.axes)(chunk) for chunk in chunks]
        seen = observers.histogram(rows, *observers.ranges(rows, per_step=False), spec.bits)
        scale, zero = observers.best_range(seen, spec.bits, signed=False, norm=self.norm, candidates=self.candidates)
        assert zero is not None
        return {"scale": scale, "zero": zero}

    def build(self, tap: Tap, spec: QuantSpec, state: Mapping[str, Tensor]) -> Quantizer:
        return build(tap, spec, state)


def static_spec(site: str, bits: Bits) -> QuantSpec:
    """Symmetric per output channel for weights, asymmetric per tensor for everything else."""
    if site in WEIGHT_SITES:
        return QuantSpec(bits.weights, signed=True, granularity="channel")
    return QuantSpec(bits.activations, signed=False, granularity="tensor")
