"""Quamba: static per tensor, the scan's input clipped at a percentile, the input of out_proj rotated.

Source: Chiang et al. 2024 (quamba/{observer,modelutils_mamba}.py). A few channels of the scan's output are outliers;
in the basis of a Hadamard matrix they are spread over all channels, and the weight takes the rotation along.
"""

from __future__ import annotations

from dataclasses import dataclass, replace

from torch import Tensor

from ouro.quant import observers
from ouro.quant.bits import Bits
from ouro.quant.grid import range_of
from ouro.quant.method import Method, Seen
from ouro.taps import Tap
from ouro.types import QuantSpec


@dataclass(frozen=True, slots=True)
class Quamba(Method):
    """keep: share of the scan input's values inside its range. rotate: whether out_proj is rotated.

    Raises:
        ValueError: a share that is no share.
    """

    title = "Quamba"

    keep: float = 0.9995
    rotate: bool = True

    def __post_init__(self) -> None:
        Method.__post_init__(self)
        if not 0.5 < self.keep <= 1:
            raise ValueError(f"keep is {self.keep}, expected more than 0.5 and at most 1")

    def spec(self, tap: Tap, bits: Bits) -> QuantSpec:
        spec = Method.spec(self, tap, bits)
        return replace(spec, rotate=True) if self.rotate and tap.role == "out_proj" else spec

    def fit_weight(self, seen: Seen) -> dict[str, Tensor]:
        return {"scale": observers.max_channel_scale(seen.chunks[0], seen.spec.bits)}

    def fit_activation(self, seen: Seen) -> dict[str, Tensor]:
        # x_proj reads the scan's input as well
        clipped = seen.tap.site == "scan.u" or seen.tap.role == "x_proj"
        low, high = (
            observers.percentiles(seen.rows, self.keep) if clipped else observers.ranges(seen.rows, per_step=False)
        )
        scale, zero = range_of(low, high, seen.spec.bits)
        return {"scale": scale, "zero": zero}
