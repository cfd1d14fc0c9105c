"""How far float32 arithmetic may stray from a definition, element by element: what the gates of the scans allow.

A running error analysis: beside every exact intermediate goes the largest error that it can have, to first order. An
operation rounds to nearest; exp2 and division of a GPU are within two units in the last place.
Source: Higham 2002, Accuracy and Stability of Numerical Algorithms, section 3.3; CUDA C++ Programming Guide, table of
intrinsic functions (exp2f: 2 ulp); PTX ISA, ex2.approx and div.full.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass

import torch
from torch import Tensor
from torch.nn import functional as F

from ouro.kernels.launch import interpreted

HALF = 2.0**-24
"""Of a result: what one rounding to float32 costs."""
APPROXIMATE = 2 * 2.0**-23
"""Of a result: what exp2 or a division of a GPU costs."""
FLUSHED = 2.0**-126
"""Smaller numbers may count as zero."""
SLACK = 1.001
"""For products of errors, which the first order leaves out."""


@dataclass(frozen=True, slots=True)
class Known:
    """An exact value in float64, and how far float32 may be from it."""

    value: Tensor
    error: Tensor


def stored(value: Tensor, dtype: torch.dtype) -> Tensor:
    """What it costs to write a value in this dtype."""
    kept = torch.finfo(dtype)
    # Triton's interpreter cuts bfloat16 off, a GPU rounds it
    part = 1 if dtype == torch.bfloat16 and interpreted() else 0.5
    return value.abs() * kept.eps * part + kept.tiny * kept.eps


def exponential(exponent: Tensor, roundings: int) -> Tensor:
    """The part by which exp(exponent) may be off, if so many roundings lie before exp2."""
    return APPROXIMATE + roundings * HALF * exponent.abs()


def walk(
    u: Tensor, delta: Tensor, A: Tensor, B: Tensor, *, reverse: bool = False, chunk: int = 0
) -> Iterator[tuple[int, Known]]:
    """(t, h [b e n]) of a scan, step after step; nothing is kept, so that large calls can be bounded too.

    Args:
        u, delta: [b e l]. A: [e n]. B: [b n l] or [b g n l].
        chunk: steps whose deltas are summed before a single exponential of all of them.
    """
    u, delta, A, B = (x.double() for x in (u, delta, A, B))
    B = per_channel(B, u.shape[1])
    h = torch.zeros(*u.shape[:2], A.shape[1], dtype=torch.float64, device=u.device)
    error = torch.zeros_like(h)
    for t in reversed(range(u.shape[2])) if reverse else range(u.shape[2]):
        exponent = delta[..., t, None] * A
        a, entering = exponent.exp(), delta[..., t, None] * u[..., t, None] * B[..., t]
        # A in units of ln 2, that constant itself, and the product with delta are rounded before the exponential
        error = a * (error + exponential(exponent, 3 + chunk) * h.abs()) + FLUSHED * h.abs()
        h, before = a * h + entering, a * h
        error = error + HALF * (before.abs() + h.abs() + 3 * entering.abs())
        yield t, Known(h, error)


def states(u: Tensor, delta: Tensor, A: Tensor, B: Tensor, *, reverse: bool = False, chunk: int = 0) -> Known:
    """Every h of `walk` at its place in time, [b e n l]."""
    return _in_time(dict(walk(u, delta, A, B, reverse=reverse, chunk=chunk)))


def scan(
    u: Tensor,
    delta: Tensor,
    A: Tensor,
    B: Tensor,
    C: Tensor,
    D: Tensor | None,
    *,
    reverse: bool = False,
    chunk: int = 0,
) -> Known:
    """y [b e l] of `selective_scan`."""
    read = per_channel(C.double(), u.shape[1])
    y = _in_time({t: _read(h, read[..., t]) for t, h in walk(u, delta, A, B, reverse=reverse, chunk=chunk)})
    if D is None:
        return y
    skipped = D.double()[:, None] * u.double()
    value = y.value + skipped
    return Known(value, y.error + HALF * (skipped.abs() + value.abs()))


def _read(h: Known, C: Tensor) -> Known:
    """sum_n C h [b e] of one step, C [b e|1 n]; the sum may have any order."""
    terms = C * h.value
    rounded = (C.shape[-1] + 1) * HALF * terms.abs().sum(-1)
    return Known(terms.sum(-1), (C.abs() * h.error).sum(-1) + rounded)


def _in_time(steps: Mapping[int, Known]) -> Known:
    """What is known of each step, side by side along a last axis of time."""
    ordered = [steps[t] for t in range(len(steps))]
    return Known(*(torch.stack([getattr(step, name) for step in ordered], dim=-1) for name in ("value", "error")))


def silu(x: Tensor, scale: float = 1.0) -> Known:
    """scale SiLU(x) of an exact x."""
    x = x.double()
    value = scale * F.silu(x)
    # exp2, one more, the division, and the factor
    relative = exponential(x, 2) + APPROXIMATE + 3 * HALF
    return Known(value, relative * value.abs() + FLUSHED)


def product(a: Known, b: Known) -> Known:
    """a b, rounded once."""
    value = a.value * b.value
    return Known(value, a.value.abs() * b.error + b.value.abs() * a.error + HALF * value.abs())


def per_channel(x: Tensor, channels: int) -> Tensor:
    """B or C of [b n l] or [b g n l] as [b e|1 n l]."""
    return x.unsqueeze(1) if x.dim() == 3 else x.repeat_interleave(channels // x.shape[1], dim=1)
