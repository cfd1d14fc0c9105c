"""The quantizers that sit on taps: one class per granularity, pure, per sample, never in place.

A quantizer's steps are parameters, so that they can learn; what does not learn is a buffer. Its state dict is all
that a `Calibration` stores of it.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from ouro.quant.bits import FLOAT_OUTLIERS
from ouro.quant.grid import asymmetric, fake_quantize, range_of, symmetric
from ouro.quant.observers import Rows
from ouro.quant.outliers import OutlierRule, quantize_with_outliers
from ouro.taps import SITES, Tap
from ouro.types import QuantSpec

WEIGHT_SITES = frozenset(site for site in SITES if site.endswith(".weight"))
"""Sites whose tensor is a parameter with output channels in front."""


@dataclass(frozen=True, slots=True)
class ScaleGroups:
    """Elements of a quantized tensor that share steps: equal numbers in `group` share one, -1 is left in float.

    At most 2^bits different values may occur in a group.
    """

    group: Tensor
    bits: int


class Quantizer(nn.Module):
    """Base of all quantizers. While `counting`, `counts` adds up how many inliers and outliers were rounded."""

    counts: Tensor
    scale: nn.Parameter
    zero: Tensor

    def __init__(self, spec: QuantSpec, state: Mapping[str, Tensor]) -> None:
        super().__init__()
        self.spec = spec
        self.counting = False
        self.register_buffer("counts", torch.zeros(2, dtype=torch.int64), persistent=False)
        for name, tensor in state.items():
            if name == "scale":
                self.scale = nn.Parameter(tensor.detach().clone())
            else:
                self.register_buffer(name, tensor.detach().clone())

    def count(self, x: Tensor, outliers: Tensor | None = None) -> None:
        """Adds x to `counts` if somebody asked for that."""
        if self.counting:
            large = torch.zeros((), dtype=torch.int64) if outliers is None else outliers.sum().cpu()
            self.counts += torch.stack([x.numel() - large, large]).to(self.counts.device)

    def groups(self, x: Tensor) -> Iterator[ScaleGroups]:
        """Which elements of the quantizer's output for x share a step, one partition per width."""
        raise NotImplementedError

    def extra_repr(self) -> str:
        return f"{self.spec.bits} bits per {self.spec.granularity}"


class ChannelQuantizer(Quantizer):
    """Symmetric narrow grid, one static step per output channel: `scale` [o] of a weight [o ...]."""

    def forward(self, weight: Tensor) -> Tensor:
        if len(weight) != len(self.scale):
            raise ValueError(f"weight has {len(weight)} output channels, its quantizer {len(self.scale)} steps")
        self.count(weight)
        scale = self.scale.view(-1, *[1] * (weight.dim() - 1))
        return fake_quantize(weight, scale, symmetric(self.spec.bits))

    def groups(self, x: Tensor) -> Iterator[ScaleGroups]:
        rows = torch.arange(len(x), device=x.device).view(-1, *[1] * (x.dim() - 1))
        yield ScaleGroups(rows.expand_as(x), self.spec.bits)


class TensorQuantizer(Quantizer):
    """One static step (and zero point, unless signed) for the whole tensor: `scale` [1], `zero` [1]."""

    def forward(self, x: Tensor) -> Tensor:
        self.count(x)
        if self.spec.signed:
            return fake_quantize(x, self.scale, symmetric(self.spec.bits))
        return fake_quantize(x, self.scale, asymmetric(self.spec.bits), self.zero)

    def groups(self, x: Tensor) -> Iterator[ScaleGroups]:
        yield ScaleGroups(torch.zeros_like(x, dtype=torch.int64), self.spec.bits)


class TokenQuantizer(Quantizer):
    """Dynamic: every sample and time step gets the asymmetric grid of its own range; nothing is stored."""

    def __init__(self, spec: QuantSpec, state: Mapping[str, Tensor], axes: tuple[str, ...]) -> None:
        super().__init__(spec, state)
        self.rows = Rows(axes)

    def forward(self, x: Tensor) -> Tensor:
        self.count(x)
        rows = self.rows(x)
        bits = self.spec.bits
        with torch.no_grad():
            scale, zero = range_of(rows.amin(-1, keepdim=True), rows.amax(-1, keepdim=True), bits)
        return self.rows.back(fake_quantize(rows, scale, asymmetric(bits), zero), x)

    def groups(self, x: Tensor) -> Iterator[ScaleGroups]:
        yield ScaleGroups(self.rows.back(_tokens(self.rows(x)), x), self.spec.bits)


class StepQuantizer(Quantizer):
    """One static step per time step, `scale` [l] (and `zero` [l], unless signed), with or without dynamic outliers.

    `theta` [l], where given, is the outlier threshold fixed in calibration; without it, it is computed on the spot.
    """

    def __init__(
        self, spec: QuantSpec, state: Mapping[str, Tensor], axes: tuple[str, ...], *, kappa: float, refresh: int
    ) -> None:
        super().__init__(spec, state)
        self.rows = Rows(axes)
        self.rule = None
        if spec.outlier_bits is not None:
            self.rule = OutlierRule(spec.bits, spec.outlier_bits, spec.signed, kappa, refresh)

    def forward(self, x: Tensor) -> Tensor:
        y, listed = self._round(x)
        self.count(x, listed)
        return self.rows.back(y, x)

    def groups(self, x: Tensor) -> Iterator[ScaleGroups]:
        rows = self.rows(x)
        steps = torch.arange(rows.shape[1], device=x.device)[:, None].expand_as(rows)
        listed = self._round(x)[1]
        if listed is None or self.rule is None:
            yield ScaleGroups(self.rows.back(steps, x), self.spec.bits)
            return
        yield ScaleGroups(self.rows.back(steps.masked_fill(listed, -1), x), self.spec.bits)
        if self.rule.outlier_bits != FLOAT_OUTLIERS:
            tokens = _tokens(rows).masked_fill(~listed, -1)
            yield ScaleGroups(self.rows.back(tokens, x), self.rule.outlier_bits)

    def _round(self, x: Tensor) -> tuple[Tensor, Tensor | None]:
        """(rounded rows, their outlier list)."""
        rows = self.rows(x)
        if rows.shape[1] != len(self.scale):
            raise ValueError(
                f"the input has {rows.shape[1]} time steps, its quantizer was calibrated for {len(self.scale)}; "
                "calibrate at the size of the images that are to be seen"
            )
        zero = None if self.spec.signed else self.zero
        if self.rule is not None:
            return quantize_with_outliers(rows, self.rule, self.scale, zero, getattr(self, "theta", None))
        grid = symmetric(self.spec.bits) if self.spec.signed else asymmetric(self.spec.bits)
        return fake_quantize(rows, self.scale[:, None], grid, None if zero is None else zero[:, None]), None


def build(
    tap: Tap, spec: QuantSpec, state: Mapping[str, Tensor], *, kappa: float = 3.0, refresh: int = 10
) -> Quantizer:
    """The quantizer that a spec describes, holding a calibrated state; kappa and refresh serve the outlier rule.

    Raises:
        ValueError: unknown granularity, or a state that does not belong to the spec.
    """
    wanted = set() if spec.granularity == "token" else {"scale"} if spec.signed else {"scale", "zero"}
    shapes = {tuple(tensor.shape) for tensor in state.values()}
    if set(state) - {"theta"} != wanted or len(shapes) > 1:
        found = ", ".join(f"{name} {tuple(tensor.shape)}" for name, tensor in state.items()) or "nothing"
        raise ValueError(f"a quantizer per {spec.granularity} needs {' and '.join(sorted(wanted)) or 'nothing'} of one "
                         f"shape, its state holds {found}; quantize again")  # fmt: skip
    if spec.granularity == "channel":
        return ChannelQuantizer(spec, state)
    if spec.granularity == "tensor":
        return TensorQuantizer(spec, state)
    if spec.granularity == "token":
        return TokenQuantizer(spec, state, tap.axes)
    if spec.granularity == "step":
        return StepQuantizer(spec, state, tap.axes, kappa=kappa, refresh=refresh)
    raise ValueError(f"unknown granularity {spec.granularity!r}; known: channel, tensor, token, step")


def _tokens(rows: Tensor) -> Tensor:
    """A number per sample and time step, over the channels [b l c]."""
    batch, steps, _ = rows.shape
    return torch.arange(batch * steps, device=rows.device).view(batch, steps, 1).expand_as(rows)
