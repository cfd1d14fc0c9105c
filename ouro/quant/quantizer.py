"""What every quantizer is: pure, per sample, never in place; its state dict is all that a `Calibration` stores of it.

A quantizer's steps are parameters, so that they can learn; what does not learn is a buffer. A tensor may be rounded in
another basis than its own: `inside` leads there, `outside` back. Where an input is divided by `smooth` its weight is
multiplied by it, and both are rotated by the same matrix, so that a packed model can leave out the way back
(`ouro.quant.packed.lower`).
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from ouro.quant.grid import Grid, asymmetric, symmetric
from ouro.quant.observers import Rows
from ouro.quant.rotation import rotation
from ouro.taps import SITES, Tap
from ouro.types import QuantSpec

WEIGHT_SITES = frozenset(site for site in SITES if site.endswith(".weight"))
"""Sites whose tensor is a parameter with output channels in front."""
RECURRENT_SITES = frozenset({"scan.h", "scan.A_bar", "scan.B_bar"})
"""Sites inside the recurrence: their quantizer states a rule, and the scan applies it."""


@dataclass(frozen=True, slots=True)
class ScaleGroups:
    """Elements of a quantized tensor that share steps: equal numbers in `group` share one, -1 is left in float.

    At most 2^bits different values may occur in a group.
    """

    group: Tensor
    bits: int


class Quantizer(nn.Module):
    """Base of all quantizers. While `counting`, `counts` adds up how many inliers and outliers were rounded.

    Tensors of a state named in `learnable` become parameters, all others buffers.
    """

    learnable: tuple[str, ...] = ("scale", "smooth", "rounding")
    counts: Tensor
    scale: Tensor
    zero: Tensor

    def __init__(self, tap: Tap, spec: QuantSpec, state: Mapping[str, Tensor]) -> None:
        super().__init__()
        self.spec = spec
        self.counting = False
        self.is_weight = tap.site in WEIGHT_SITES
        self.channel_axis = 1 if self.is_weight else _channel_axis(tap.axes)
        self.rows = Rows(tap.axes)
        self.register_buffer("counts", torch.zeros(2, dtype=torch.int64), persistent=False)
        for name, tensor in state.items():
            value = tensor.detach().clone()
            if name in self.learnable:
                self.register_parameter(name, nn.Parameter(value))
            else:
                self.register_buffer(name, value)

    def forward(self, x: Tensor) -> Tensor:
        return self.outside(self.rounded(self.inside(x)), x)

    def rounded(self, x: Tensor) -> Tensor:
        """Rounds what `inside` made of a tensor, and counts."""
        raise NotImplementedError

    def inside(self, x: Tensor) -> Tensor:
        """x in the basis in which it is rounded."""
        smooth = self._smooth(x)
        if smooth is not None:
            x = x * smooth if self.is_weight else x / smooth
        return x @ self._rotation(x) if self.spec.rotate else x

    def outside(self, x: Tensor, like: Tensor) -> Tensor:
        """The way back from `inside`."""
        if self.spec.rotate:
            x = x @ self._rotation(x).T
        smooth = self._smooth(like)
        if smooth is None:
            return x
        return x / smooth if self.is_weight else x * smooth

    def count(self, x: Tensor, outliers: Tensor | None = None) -> None:
        """Adds x to `counts` if somebody asked for that."""
        if self.counting:
            large = torch.zeros((), dtype=torch.int64) if outliers is None else outliers.sum().cpu()
            self.counts += torch.stack([x.numel() - large, large]).to(self.counts.device)

    def groups(self, x: Tensor) -> Iterator[ScaleGroups]:
        """Which elements of `rounded(x)` share a step, one partition per width."""
        raise NotImplementedError

    @property
    def grid(self) -> Grid:
        """Codes of inliers."""
        return symmetric(self.spec.bits, narrow=self.spec.narrow) if self.spec.signed else asymmetric(self.spec.bits)

    def extra_repr(self) -> str:
        return f"{self.spec.bits} bits per {self.spec.granularity}"

    def _smooth(self, x: Tensor) -> Tensor | None:
        smooth = getattr(self, "smooth", None)
        return None if smooth is None else smooth.view(-1, *[1] * (x.dim() - 1 - self.channel_axis))

    def _rotation(self, x: Tensor) -> Tensor:
        return rotation(x.shape[-1]).to(x)


def _channel_axis(axes: tuple[str, ...]) -> int:
    """Where the channels of an activation are; of several such axes the last."""
    return max((place for place, axis in enumerate(axes) if axis in "cegn"), default=len(axes) - 1)
