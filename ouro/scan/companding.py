"""Rounding on a grid that is dense at one end, for A_bar (near 1) and B_bar (near 0) inside the recurrence.

Source: QMamba (arXiv 2501.13624) quantizes the skewed A_bar on such a grid; the formulas here are a reconstruction.
"""

from __future__ import annotations

import torch
from torch import Tensor

from ouro.types import Companding


def levels(rule: Companding) -> int:
    """Steps from the dense end to the other."""
    return 2 ** (rule.bits - rule.signed) - 1


def bounds(rule: Companding) -> tuple[Tensor, Tensor]:
    """(low, high) of what is not clipped, without gradient."""
    high = rule.high.detach()
    return (-high if rule.signed else rule.low.detach()), high


def compand(x: Tensor, rule: Companding) -> Tensor:
    """x [... n] on the rule's grid; straight-through gradient to x where it is not clipped, none to the bounds.

    A range without extent holds one value: high, or zero where the rule is signed.
    """
    # half types are rounded in float32
    dtype = torch.promote_types(x.dtype, torch.float32)
    value, (low, high) = x.detach().to(dtype), (bound.to(dtype) for bound in bounds(rule))
    if rule.signed:
        rounded = torch.where(high > 0, value.sign() * high * _fraction(value.abs() / high, rule), 0)
    else:
        span = high - low
        rounded = torch.where(span > 0, high - span * _fraction((high - value) / span, rule), high)
    inside = x.clamp(low.to(x.dtype), high.to(x.dtype))
    # in this order the value is the rounded one to the last bit
    return rounded.to(x.dtype) + (inside - inside.detach())


def _fraction(v: Tensor, rule: Companding) -> Tensor:
    """The value on the grid over [0, 1] that is nearest to v after v^(1/power)."""
    root = v.clamp(0, 1) ** (1 / rule.power)
    return ((root * levels(rule)).round() / levels(rule)) ** rule.power
