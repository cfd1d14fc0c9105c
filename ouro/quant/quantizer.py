"""What every quantizer is: pure, per sample, never in place; its state dict is all that a `Calibration` stores of it.

A quantizer's steps are parameters, so that they can learn; what does not learn is a buffer. A tensor may be rounded in
another basis than its own: `inside` leads there, `outside` back. Where an input is divided by `smooth` its weight is
multiplied by it, and both are rotated by the same matrix, so that a packed model can leave out the way back
(`ouro.quant.packed.lower`).
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from ouro.quant.bits import FLOAT
from ouro.quant.grid import Grid, asymmetric, fake_quantize, positive, symmetric
from ouro.quant.observers import Rows
from ouro.quant.rotation import rotation
from ouro.taps import SITES, Tap
from ouro.types import QuantSpec

WEIGHT_SITES = frozenset(site for site in SITES if site.endswith(".weight"))
"""Sites whose tensor is a parameter with output channels in front."""
RECURRENT_SITES = frozenset({"scan.h", "scan.A_bar", "scan.B_bar"})
"""Sites inside the recurrence: their quantizer states a rule, and the scan applies it."""


def has_channels(tap: Tap) -> bool:
    """Whether channels of a tensor can be kept apart: it is an activation outside the recurrence."""
    return "b" in tap.axes and tap.site not in WEIGHT_SITES | RECURRENT_SITES


@dataclass(frozen=True, slots=True)
class ScaleGroups:
    """Elements of a quantized tensor that share steps: equal numbers in `group` share one, -1 is left in float.

    At most 2^bits different values may occur in a group.
    """

    group: Tensor
    bits: int


class Quantizer(nn.Module):
    """Base of all quantizers. While `counting`, `counts` adds up how many inliers, outliers and kept elements there were.

    Tensors of a state named in `learnable` become parameters, all others buffers. Channels that the spec keeps apart have
    a symmetric grid of their own each, with the static step `kept` [k]; the method's rounding, whatever it is, sees zeros
    in their place, in calibration and as the model runs.
    """

    learnable: tuple[str, ...] = ("scale", "smooth", "rounding")
    counts: Tensor
    scale: Tensor
    zero: Tensor
    kept: Tensor
    places: Tensor

    def __init__(self, tap: Tap, spec: QuantSpec, state: Mapping[str, Tensor]) -> None:
        super().__init__()
        self.spec = spec
        self.counting = False
        self.is_weight = tap.site in WEIGHT_SITES
        self.channel_axis = 1 if self.is_weight else channel_axis(tap.axes)
        self.rows = Rows(tap.axes)
        self.register_buffer("counts", torch.zeros(3, dtype=torch.int64), persistent=False)
        self.register_buffer("places", torch.tensor([channel for channel, _ in spec.channels]).long(), persistent=False)
        for name, tensor in state.items():
            value = tensor.detach().clone()
            if name in self.learnable:
                self.register_parameter(name, nn.Parameter(value))
            else:
                self.register_buffer(name, value)

    def forward(self, x: Tensor) -> Tensor:
        rest = self.rest(x)
        return self.with_kept(self.outside(self.rounded(self.inside(rest)), rest), x)

    def rest(self, x: Tensor) -> Tensor:
        """x with zeros in place of the channels that are kept apart.

        Raises:
            ValueError: x does not have one of them.
        """
        if not self.spec.channels:
            return x
        last, size = max(channel for channel, _ in self.spec.channels), x.shape[self.channel_axis]
        if last >= size:
            raise ValueError(f"channel {last} is to be kept apart, the tensor has channels 0 to {size - 1}")
        return x.index_fill(self.channel_axis, self.places.to(x.device), 0)

    def with_kept(self, y: Tensor, x: Tensor) -> Tensor:
        """What became of `rest(x)`, with the channels of x that are kept apart in their places."""
        for width in sorted({bits for _, bits in self.spec.channels}):
            own = [place for place, (_, bits) in enumerate(self.spec.channels) if bits == width]
            values = x.index_select(self.channel_axis, self.places[own])
            if width != FLOAT:
                column = self.kept[own].view(-1, *[1] * (x.dim() - 1 - self.channel_axis))
                values = fake_quantize(values, column, symmetric(width))
            y = y.index_copy(self.channel_axis, self.places[own], values.to(y.dtype))
            if self.counting:
                # they were counted as zeros among the inliers
                self.counts += torch.tensor([-1, 0, 1], device=self.counts.device) * values.numel()
        return y

    def kept_steps(self, chunks: Sequence[Tensor]) -> dict[str, Tensor]:
        """The part of a state that the channels kept apart need: steps that clip nothing of these tensors."""
        if not self.spec.channels:
            return {}
        places = self.places.to(chunks[0].device)
        peaks = [x.index_select(self.channel_axis, places).movedim(self.channel_axis, 0).flatten(1) for x in chunks]
        highs = torch.tensor([symmetric(bits).high for _, bits in self.spec.channels], device=places.device)
        return {"kept": positive(torch.stack([x.abs().amax(1) for x in peaks]).amax(0) / highs)}

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
            large = 0 if outliers is None else outliers.sum()
            self.counts[0] += x.numel() - large
            self.counts[1] += large

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


def channel_axis(axes: tuple[str, ...]) -> int:
    """Where the channels of an activation are; of several such axes the last."""
    return max((place for place, axis in enumerate(axes) if axis in "cegn"), default=len(axes) - 1)
