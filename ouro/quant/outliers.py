"""Which channels are outliers at which time step, and how a tensor is rounded in two precisions because of it.

Source: OuroMamba (arXiv 2503.10959, section on OuroMamba-Quant). A list of outlier channels grows over a window of
`refresh` steps and is then cleared. At a step where the channels not yet listed do not fit the static inlier range,
those among them with |x| > mean + kappa std (of these very channels) join the list. Listed channels are rounded
with one dynamic step per sample and time step, the others with the static step of their time step.
Unlike in the official code, one sample's list never depends on another sample, nor on channels already listed.
"""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn import functional as F

from ouro.quant.grid import dequantize, positive, quantize, range_of, rounding_gradients
from ouro.quant.rules import OutlierRule
from ouro.scan.devices import compiles


def outlier_list(x: Tensor, rule: OutlierRule, *, scale: Tensor | None = None, theta: Tensor | None = None) -> Tensor:
    """The list at every step: bool, of the shape of x [b l c]; compiled on CPUs.

    Args:
        scale: static inlier step per time step [l]; the list grows only where it does not suffice. None: always.
        theta: threshold per time step [l] fixed beforehand; None computes mean + kappa std on the spot.

    Raises:
        ValueError: x is not [b l c], or scale or theta is not [l].
    """
    if x.dim() != 3:
        raise ValueError(f"x is {tuple(x.shape)}, expected (b, l, c)")
    for name, given in (("scale", scale), ("theta", theta)):
        if given is not None and given.shape != x.shape[1:2]:
            raise ValueError(f"{name} is {tuple(given.shape)}, expected ({x.shape[1]},), one per time step of x")
    if compilable(x):
        return _compiled(x, rule, scale, None, theta)[1]
    return outlier_list_reference(x, rule, scale=scale, theta=theta)


def outlier_list_reference(
    x: Tensor, rule: OutlierRule, *, scale: Tensor | None = None, theta: Tensor | None = None
) -> Tensor:
    """The definition of `outlier_list`."""
    batch, steps, channels = x.shape
    limit = None if scale is None else scale * rule.reach
    listed = torch.zeros(x.shape, dtype=torch.bool, device=x.device)
    current = listed.new_zeros(batch, -(-steps // rule.refresh), channels)
    # windows are independent: step `phase` of all of them at once
    for phase in range(min(rule.refresh, steps)):
        now = x[:, phase :: rule.refresh]  # [b w c]
        current = current[:, : now.shape[1]]
        rest = now.masked_fill(current, 0)
        bound = threshold(rest, current, rule.kappa) if theta is None else theta[phase :: rule.refresh, None].double()
        joins = rest.abs() > bound
        if limit is not None:
            joins &= (span(rest, rule.signed) > limit[phase :: rule.refresh])[..., None]
        current = current | joins
        listed[:, phase :: rule.refresh] = current
    return listed


def threshold(x: Tensor, listed: Tensor, kappa: float) -> Tensor:
    """mean + kappa std of |x| over the channels not listed, [... 1]; NaN, which nothing exceeds, for fewer than two."""
    # float64: no float32 value is close enough for the order of summation to decide whether it exceeds the threshold
    size = x.abs().double()
    count = (~listed).sum(-1, keepdim=True)
    mean = size.masked_fill(listed, 0).sum(-1, keepdim=True) / count
    squares = (size - mean).square().masked_fill(listed, 0).sum(-1, keepdim=True)
    return mean + kappa * (squares / (count - 1)).sqrt()


def span(x: Tensor, signed: bool) -> Tensor:
    """What a grid has to reach for x [... c]: max |x|, or the distance from the lowest to the highest value and 0."""
    if signed:
        return x.abs().amax(-1)
    return x.amax(-1).clamp(min=0) - x.amin(-1).clamp(max=0)


def round_two_ways(x: Tensor, listed: Tensor, rule: OutlierRule, scale: Tensor, zero: Tensor | None = None) -> Tensor:
    """x [b l c] with listed channels on a dynamic grid per sample and step, the others on the static one per step."""
    column = None if zero is None else zero[:, None]
    inliers = dequantize(quantize(x, scale[:, None], rule.grid, column), scale[:, None], column)
    grid = rule.outlier_grid
    if grid is None:
        return torch.where(listed, x, inliers)
    step, own_zero = outlier_steps(x, listed, rule)
    large = x.masked_fill(~listed, 0)
    return torch.where(listed, dequantize(quantize(large, step, grid, own_zero), step, own_zero), inliers)


def outlier_steps(x: Tensor, listed: Tensor, rule: OutlierRule) -> tuple[Tensor, Tensor | None]:
    """Dynamic step of the listed channels of x [b l c], and its zero point unless the rule is signed; [b l 1] or [b l c].

    The step is 1 where nothing is listed. Only for rules that round outliers at all.
    """
    assert rule.outlier_grid is not None
    low, high = _ends(x.masked_fill(~listed, 0), rule)
    if rule.signed:
        return positive(torch.maximum(high, -low) / rule.outlier_grid.high), None
    return range_of(low, high, rule.outlier_bits)


def _ends(large: Tensor, rule: OutlierRule) -> tuple[Tensor, Tensor]:
    """Least and greatest outlier among those that share a step, both broadcastable to [b l c]."""
    if not rule.per_channel:
        return large.amin(-1, keepdim=True), large.amax(-1, keepdim=True)
    steps = large.shape[1]
    windows = F.pad(large, (0, 0, 0, -steps % rule.refresh)).unflatten(1, (-1, rule.refresh))  # [b w r c]
    ends = windows.amin(2), windows.amax(2)
    low, high = (end.repeat_interleave(rule.refresh, 1)[:, :steps] for end in ends)
    return low, high


def quantize_with_outliers(
    x: Tensor, rule: OutlierRule, scale: Tensor, zero: Tensor | None = None, theta: Tensor | None = None
) -> tuple[Tensor, Tensor]:
    """(x rounded in two precisions, its outlier list), both [b l c]; x itself stays as it is.

    Inliers have the gradients of `grid.fake_quantize`; outliers pass theirs on, their dynamic step gets none.
    On CPUs a compiled kernel computes what `outlier_list_reference` and `round_two_ways` define.
    """
    return _QuantizeWithOutliers.apply(x, scale, zero, theta, rule)


def compilable(x: Tensor) -> bool:
    """Whether compiled code takes x; everything else goes through the definitions."""
    return compiles(x) and x.dtype == torch.float32


def _compiled(
    x: Tensor, rule: OutlierRule, scale: Tensor | None, zero: Tensor | None, theta: Tensor | None
) -> tuple[Tensor, Tensor]:
    # numba takes a moment to import: only when something is quantized
    from ouro.quant.compiled_outliers import run

    return run(x, rule, scale, zero, theta)


class _QuantizeWithOutliers(torch.autograd.Function):
    @staticmethod
    def forward(ctx, x, scale, zero, theta, rule):
        if compilable(x):
            y, listed = _compiled(x, rule, scale, zero, theta)
            if rule.per_channel:
                y = round_two_ways(x, listed, rule, scale, zero)
        else:
            listed = outlier_list_reference(x, rule, scale=scale, theta=theta)
            y = round_two_ways(x, listed, rule, scale, zero)
        ctx.save_for_backward(x, scale, zero, listed)
        ctx.rule = rule
        ctx.mark_non_differentiable(listed)
        return y, listed

    @staticmethod
    def backward(ctx, upstream, _):
        x, scale, zero, listed = ctx.saved_tensors
        column = None if zero is None else zero[:, None]
        to_x, to_scale = rounding_gradients(upstream, x, scale[:, None], ctx.rule.grid, column)
        to_scale = to_scale.masked_fill(listed, 0).sum((0, 2))
        return torch.where(listed, upstream, to_x), to_scale, None, None, None
