"""PTQ4VM: per-token static activations, and learning of smoothing factors and step sizes together.

Source: arXiv 2412.20386 and its released code (ptq4vm/{jlss,quantizer}.py). Unlike there, what learns are the factors
and steps of every linear layer, both directions of x_proj and dt_proj among them. Beyond the linear layers, where the
paper rounds nothing, activations get the same static step per time step.
"""

from __future__ import annotations

from dataclasses import dataclass

from torch import Tensor

from ouro.quant import observers
from ouro.quant.bits import Bits
from ouro.quant.method import Block, Learning, Method, Seen
from ouro.quant.methods.smooth import check_alpha, smoothing
from ouro.quant.quantizer import RECURRENT_SITES, WEIGHT_SITES
from ouro.taps import Tap
from ouro.types import QuantSpec


@dataclass(frozen=True, slots=True)
class PTQ4VM(Method):
    """alpha: of the smoothing that learning starts from (the code has 0.5 for Vim, 0.65 for VMamba).

    norm, candidates: of the search for the initial steps. steps_per_block, lr, lr_smooth: of learning, rates relative.
    """

    alpha: float = 0.5
    norm: float = 2.4
    candidates: int = 100
    steps_per_block: int = 100
    lr: float = 0.01
    lr_smooth: float = 0.01

    def __post_init__(self) -> None:
        check_alpha(self.alpha)

    @property
    def learning(self) -> Learning:
        return Learning(self.steps_per_block, self.lr, self.lr, self.lr_smooth)

    def spec(self, tap: Tap, bits: Bits) -> QuantSpec:
        if tap.site in WEIGHT_SITES | RECURRENT_SITES:
            return Method.spec(self, tap, bits)
        if "b" in tap.axes and "l" not in tap.axes:
            # an image or a pooled feature has no time steps
            return Method.spec(self, tap, bits)
        return QuantSpec(bits.activations, signed=False, granularity="step")

    def bases(self, block: Block) -> dict[str, Tensor]:
        return smoothing(block, self.alpha, floor=1e-3)

    def fit_weight(self, seen: Seen) -> dict[str, Tensor]:
        return observers.clipped_weight(seen.chunks[0], seen.spec, norm=self.norm, candidates=self.candidates)

    def fit_activation(self, seen: Seen) -> dict[str, Tensor]:
        return observers.clipped_range(
            seen.rows,
            seen.spec,
            norm=self.norm,
            candidates=self.candidates,
            per_step=seen.spec.granularity == "step",
        )
