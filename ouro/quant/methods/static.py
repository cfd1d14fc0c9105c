"""Static baselines: one grid per weight channel, one asymmetric grid per activation tensor, fixed in calibration.

`MinMax` is plain round-to-nearest. `Percentile` and `Clipped` shrink the ranges of activations, to a share of the
values or to the least L^2.4 error, as OuroMamba does: what is left between that and OuroMamba-Quant is what outlier
lists and learning are worth.
"""

from __future__ import annotations

from dataclasses import dataclass

from torch import Tensor

from ouro.quant import observers
from ouro.quant.grid import range_of
from ouro.quant.method import Learning, Method, Seen


@dataclass(frozen=True, slots=True)
class MinMax(Method):
    """Ranges that clip nothing of what calibration showed."""

    title = "MinMax"

    def fit_weight(self, seen: Seen) -> dict[str, Tensor]:
        return {"scale": observers.max_channel_scale(seen.chunks[0], seen.spec.bits)}


@dataclass(frozen=True, slots=True)
class Percentile(Method):
    """Activation ranges that leave out the outermost values: `keep` is the share between the two ends.

    Raises:
        ValueError: a share that is no share.
    """

    title = "percentile"

    keep: float = 0.9999

    def __post_init__(self) -> None:
        Method.__post_init__(self)
        if not 0.5 < self.keep <= 1:
            raise ValueError(f"keep is {self.keep}, expected more than 0.5 and at most 1")

    def fit_activation(self, seen: Seen) -> dict[str, Tensor]:
        low, high = observers.percentiles(seen.rows, self.keep)
        scale, zero = range_of(low, high, seen.spec.bits)
        return {"scale": scale, "zero": zero}


@dataclass(frozen=True, slots=True)
class Clipped(Method):
    """Ranges with the least mean |x - Q(x)|^norm among `candidates` shrunk ones.

    steps_per_block: optimizer steps for the step sizes of each block, 0 for none.
    """

    title = "clipped static"

    norm: float = 2.4
    candidates: int = 100
    steps_per_block: int = 0

    @property
    def learning(self) -> Learning:
        return Learning(self.steps_per_block)

    def fit_weight(self, seen: Seen) -> dict[str, Tensor]:
        return observers.clipped_weight(seen.chunks[0], seen.spec, norm=self.norm, candidates=self.candidates)

    def fit_activation(self, seen: Seen) -> dict[str, Tensor]:
        return observers.clipped_range(seen.rows, seen.spec, norm=self.norm, candidates=self.candidates)
