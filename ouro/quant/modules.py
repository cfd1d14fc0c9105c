"""The quantizers that sit on taps: one class per granularity, see `ouro.quant.quantizer` for what they share."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import cast

import torch
from torch import Tensor

from ouro.quant.bits import FLOAT_OUTLIERS
from ouro.quant.grid import asymmetric, fake_quantize, range_of
from ouro.quant.outliers import outlier_list, quantize_with_outliers
from ouro.quant.quantizer import Quantizer, ScaleGroups, has_channels
from ouro.quant.rules import OutlierRule
from ouro.taps import Tap
from ouro.types import Companding, QuantSpec, StateQuantizer


class ChannelQuantizer(Quantizer):
    """Symmetric narrow grid, one static step per output channel: `scale` [o] of a weight [o ...]."""

    def rounded(self, x: Tensor) -> Tensor:
        if len(x) != len(self.scale):
            raise ValueError(f"weight has {len(x)} output channels, its quantizer {len(self.scale)} steps")
        self.count(x)
        return fake_quantize(x, self._column(x), self.grid)

    def codes(self, x: Tensor) -> Tensor:
        """Whole numbers [o ...] that `rounded` makes a weight into, however a class computes them."""
        return (self.rounded(x) / self._column(x)).round()

    def groups(self, x: Tensor) -> Iterator[ScaleGroups]:
        rows = torch.arange(len(x), device=x.device).view(-1, *[1] * (x.dim() - 1))
        yield ScaleGroups(rows.expand_as(x), self.spec.bits)

    def _column(self, x: Tensor) -> Tensor:
        return self.scale.view(-1, *[1] * (x.dim() - 1))


class LearnedRounding(ChannelQuantizer):
    """As `ChannelQuantizer`, but whether an element goes up or down is learned (AdaRound, Nagel et al. 2020).

    `rounding` has the weight's shape: an element is rounded up where it is positive. While `soft` it counts as a share,
    clip(1.2 sigmoid(rounding) - 0.1, 0, 1), so that it has a gradient.
    """

    learnable = ("rounding",)
    rounding: Tensor

    def __init__(self, tap: Tap, spec: QuantSpec, state: Mapping[str, Tensor]) -> None:
        super().__init__(tap, spec, state)
        self.soft = False

    def share(self) -> Tensor:
        """How far every element is rounded up, 0..1."""
        return (torch.sigmoid(self.rounding) * 1.2 - 0.1).clamp(0, 1)

    def rounded(self, x: Tensor) -> Tensor:
        self.count(x)
        scale = self._column(x)
        up = self.share() if self.soft else (self.rounding > 0).to(x)
        return ((x / scale).floor() + up).clamp(self.grid.low, self.grid.high) * scale


class TensorQuantizer(Quantizer):
    """One static step (and zero point, unless signed) for the whole tensor: `scale` [1], `zero` [1]."""

    def rounded(self, x: Tensor) -> Tensor:
        self.count(x)
        return fake_quantize(x, self.scale, self.grid, None if self.spec.signed else self.zero)

    def groups(self, x: Tensor) -> Iterator[ScaleGroups]:
        yield ScaleGroups(torch.zeros_like(x, dtype=torch.int64), self.spec.bits)


class TokenQuantizer(Quantizer):
    """Dynamic: every sample and time step gets the asymmetric grid of its own range; nothing is stored."""

    def rounded(self, x: Tensor) -> Tensor:
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
        self, tap: Tap, spec: QuantSpec, state: Mapping[str, Tensor], *, rule: OutlierRule | None = None
    ) -> None:
        super().__init__(tap, spec, state)
        self.rule = rule

    def rounded(self, x: Tensor) -> Tensor:
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
            shared = _windows(rows, self.rule.refresh) if self.rule.per_channel else _tokens(rows)
            yield ScaleGroups(self.rows.back(shared.masked_fill(~listed, -1), x), self.rule.outlier_bits)

    def _round(self, x: Tensor) -> tuple[Tensor, Tensor | None]:
        """(rounded rows, their outlier list)."""
        rows = self.rows(x)
        _check_steps(rows, len(self.scale))
        zero = None if self.spec.signed else self.zero
        if self.rule is not None:
            return quantize_with_outliers(rows, self.rule, self.scale, zero, getattr(self, "theta", None))
        return fake_quantize(rows, self.scale[:, None], self.grid, None if zero is None else zero[:, None]), None


class ClippedTokenQuantizer(TokenQuantizer):
    """Dynamic in two precisions: outlier channels on a grid of their own, the rest on that of what is left, clipped.

    Both grids are asymmetric, and those of one sample's time step. `clip` [1] is the part of the range of the rest that its
    grid covers; `rule` [2] has kappa (0: no outliers) and the refresh period of `ouro.quant.outliers`.
    """

    learnable = ("clip",)
    clip: Tensor
    rule: Tensor

    def rounded(self, x: Tensor) -> Tensor:
        rows = self.rows(x)
        listed = self.listed(rows)
        self.count(x, listed)
        return self.rows.back(round_tokens(rows, listed, self.spec, self.clip), x)

    def groups(self, x: Tensor) -> Iterator[ScaleGroups]:
        rows = self.rows(x)
        listed, tokens = self.listed(rows), _tokens(rows)
        if listed is None:
            yield ScaleGroups(self.rows.back(tokens, x), self.spec.bits)
            return
        yield ScaleGroups(self.rows.back(tokens.masked_fill(listed, -1), x), self.spec.bits)
        if self.spec.outlier_bits != FLOAT_OUTLIERS:
            yield ScaleGroups(self.rows.back(tokens.masked_fill(~listed, -1), x), cast(int, self.spec.outlier_bits))

    def listed(self, rows: Tensor) -> Tensor | None:
        """Outlier channels at every step, bool [b l c]; None where the rule knows none."""
        kappa, refresh = self.rule.tolist()
        return None if kappa == 0 else token_outliers(rows, self.spec, kappa, int(refresh))


def token_outliers(rows: Tensor, spec: QuantSpec, kappa: float, refresh: int) -> Tensor:
    """The outlier list [b l c] that grows at every step, whether or not the rest would fit any range."""
    assert spec.outlier_bits is not None
    return outlier_list(rows.detach(), OutlierRule(spec.bits, spec.outlier_bits, False, kappa, refresh))


def round_tokens(rows: Tensor, listed: Tensor | None, spec: QuantSpec, clip: Tensor) -> Tensor:
    """Rows [b l c] on the grids that `ClippedTokenQuantizer` describes; the clip has the gradient of a step size."""
    rest = rows if listed is None else rows.masked_fill(listed, 0)
    with torch.no_grad():
        low, high = rest.amin(-1, keepdim=True), rest.amax(-1, keepdim=True)
        step, _ = range_of(low, high, spec.bits)
        zero = range_of(low * clip, high * clip, spec.bits)[1]
    small = fake_quantize(rows, step * clip, asymmetric(spec.bits), zero)
    if listed is None:
        return small
    if spec.outlier_bits == FLOAT_OUTLIERS:
        return torch.where(listed, rows, small)
    with torch.no_grad():
        large = rows.masked_fill(~listed, 0)
        step, zero = range_of(large.amin(-1, keepdim=True), large.amax(-1, keepdim=True), cast(int, spec.outlier_bits))
    return torch.where(listed, fake_quantize(rows, step, asymmetric(cast(int, spec.outlier_bits)), zero), small)


class ClusterQuantizer(Quantizer):
    """Static, symmetric, a few steps `scale` [k]: `labels` says which serves a time step [l], or a channel [c]."""

    labels: Tensor

    def rounded(self, x: Tensor) -> Tensor:
        self.count(x)
        rows = self.rows(x)
        return self.rows.back(fake_quantize(rows, self._spread(rows), self.grid), x)

    def groups(self, x: Tensor) -> Iterator[ScaleGroups]:
        rows = self.rows(x)
        labels = self.labels[:, None] if self._over_steps else self.labels
        yield ScaleGroups(self.rows.back(labels.expand_as(rows), x), self.spec.bits)

    @property
    def _over_steps(self) -> bool:
        return self.spec.granularity == "step clusters"

    def _spread(self, rows: Tensor) -> Tensor:
        if self._over_steps:
            _check_steps(rows, len(self.labels))
            return self.scale[self.labels][:, None]
        return self.scale[self.labels]


class StateRounding(Quantizer):
    """The rule by which the scan rounds h [b e l n]: `scale` [l] or [1], `channel` [e] and `state` [n] factors."""

    learnable = ()
    channel: Tensor
    state: Tensor

    def rule(self) -> StateQuantizer:
        """What the scan applies inside the recurrence."""
        return StateQuantizer(self.scale, self.spec.bits, self.channel, self.state)


class CompandedRounding(Quantizer):
    """The rule by which the scan rounds A_bar or B_bar [b e l n]: `low`, `high` [1] or [n], `power` [1]."""

    learnable = ()
    low: Tensor
    high: Tensor
    power: Tensor

    def rule(self) -> Companding:
        """What the scan applies inside the recurrence."""
        return Companding(self.spec.bits, self.low, self.high, int(self.power), self.spec.signed)


_CLASSES: dict[str, tuple[type[Quantizer], tuple[str, ...]]] = {
    "tensor": (TensorQuantizer, ("scale",)),
    "channel": (ChannelQuantizer, ("scale",)),
    "learned rounding": (LearnedRounding, ("scale", "rounding")),
    "step": (StepQuantizer, ("scale",)),
    "step clusters": (ClusterQuantizer, ("scale", "labels")),
    "channel clusters": (ClusterQuantizer, ("scale", "labels")),
    "token": (TokenQuantizer, ()),
    "clipped token": (ClippedTokenQuantizer, ("clip", "rule")),
    "state": (StateRounding, ("scale", "channel", "state")),
    "companded": (CompandedRounding, ("low", "high", "power")),
}
"""Granularity -> its quantizer, and what a state must hold (a "zero" beside every "scale" of an unsigned grid)."""
WHOLE = ("labels", "power")
"""Tensors of a state that are int64; all others are float32."""
GRANULARITIES = tuple(_CLASSES)
"""What `QuantSpec.granularity` may be."""
_OPTIONAL = {"theta", "smooth"}


def build(tap: Tap, spec: QuantSpec, state: Mapping[str, Tensor], *, rule: OutlierRule | None = None) -> Quantizer:
    """The quantizer that a spec describes, holding a calibrated state; the rule is for a spec with outliers.

    Raises:
        ValueError: unknown granularity, a state that does not belong to the spec, or channels of what has none.
    """
    if spec.granularity not in _CLASSES:
        raise ValueError(f"unknown granularity {spec.granularity!r}; known: {', '.join(_CLASSES)}")
    kind, names = _CLASSES[spec.granularity]
    wanted = (
        {*names}
        | ({"zero"} if "scale" in names and not spec.signed else set())
        | ({"kept"} if spec.channels else set())
    )
    shapes = {tuple(state[name].shape) for name in ("scale", "zero", "theta") if name in state}
    # one step for the whole tensor, and as many as it has been calibrated for otherwise
    alone = kind is not TensorQuantizer or shapes <= {(1,)}
    if set(state) - _OPTIONAL != wanted or len(shapes) > 1 or not alone:
        given = ", ".join(f"{name} {tuple(tensor.shape)}" for name, tensor in state.items()) or "nothing"
        raise ValueError(f"a quantizer per {spec.granularity} needs {' and '.join(sorted(wanted)) or 'nothing'} of one "
                         f"shape, its state holds {given}; quantize again")  # fmt: skip
    if spec.channels and not has_channels(tap):
        raise ValueError(f"channels are kept apart of activations outside the recurrence, {tap.site} is none of them")
    if spec.channels and state["kept"].shape != (len(spec.channels),):
        count, shape = len(spec.channels), tuple(state["kept"].shape)
        raise ValueError(f"{count} channels are kept apart with steps of shape {shape}, expected ({count},)")
    if kind is StepQuantizer:
        return StepQuantizer(tap, spec, state, rule=rule)
    return kind(tap, spec, state)


def _check_steps(rows: Tensor, steps: int) -> None:
    if rows.shape[1] != steps:
        raise ValueError(
            f"the input has {rows.shape[1]} time steps, its quantizer was calibrated for {steps}; "
            "calibrate at the size of the images that are to be seen"
        )


def _windows(rows: Tensor, refresh: int) -> Tensor:
    """A number per sample, refresh window and channel [b l c]."""
    batch, steps, channels = rows.shape
    window = torch.arange(steps, device=rows.device)[:, None] // refresh
    place = (torch.arange(batch, device=rows.device)[:, None, None] * steps + window) * channels
    return place + torch.arange(channels, device=rows.device)


def _tokens(rows: Tensor) -> Tensor:
    """A number per sample and time step, over the channels [b l c]."""
    batch, steps, _ = rows.shape
    return torch.arange(batch * steps, device=rows.device).view(batch, steps, 1).expand_as(rows)
