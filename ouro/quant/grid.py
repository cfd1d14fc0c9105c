"""Uniform grids: pure rounding to integer codes and back, with the gradients that let a step size learn.

Symmetric: q = clamp(round(x / s), low, high), x^ = s q. Asymmetric: q = clamp(round(x / s) + z, low, high),
x^ = s (q - z). Rounding is half to even. Gradients after Esser et al. 2020 (LSQ, eq. 3 and 5).
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor


@dataclass(frozen=True, slots=True)
class Grid:
    """The integer codes low..high."""

    low: int
    high: int


def symmetric(bits: int, *, narrow: bool = True) -> Grid:
    """-Q..Q with Q = 2^(bits-1) - 1; not narrow: one more code below, -2^(bits-1)."""
    high = 2 ** (bits - 1) - 1
    return Grid(-high if narrow else -high - 1, high)


def asymmetric(bits: int) -> Grid:
    """0..2^bits - 1."""
    return Grid(0, 2**bits - 1)


def quantize(x: Tensor, scale: Tensor, grid: Grid, zero: Tensor | None = None) -> Tensor:
    """Codes of x, as whole numbers in x's own dtype. No gradient: see `fake_quantize`."""
    codes = (x / scale).round_()
    if zero is not None:
        codes += zero
    return codes.clamp_(grid.low, grid.high)


def clipped(x: Tensor, scale: Tensor, grid: Grid, zero: Tensor | None = None) -> Tensor:
    """Where the code of x lies outside the grid, so that `quantize` moves it to an end, bool."""
    codes = (x / scale).round_()
    if zero is not None:
        codes += zero
    return (codes < grid.low) | (codes > grid.high)


def dequantize(codes: Tensor, scale: Tensor, zero: Tensor | None = None) -> Tensor:
    """What the codes stand for."""
    return codes * scale if zero is None else (codes - zero) * scale


def range_of(low: Tensor, high: Tensor, bits: int) -> tuple[Tensor, Tensor]:
    """Step and zero point of the asymmetric grid over [low, high] widened to hold 0, which keeps a code of its own."""
    low, high = low.clamp(max=0), high.clamp(min=0)
    scale = positive((high - low) / (2**bits - 1))
    return scale, -(low / scale).round()


def positive(scale: Tensor) -> Tensor:
    """Steps that can be divided by: 1 where a step is 0, because its tensor is 0 everywhere."""
    return torch.where(scale > 0, scale, 1.0)


def fake_quantize(x: Tensor, scale: Tensor, grid: Grid, zero: Tensor | None = None) -> Tensor:
    """dequantize(quantize(x)); the step and the zero point broadcast against x.

    d/dx is 1 where x is inside the grid, 0 where it is clipped. d/ds is round(x/s) - x/s inside, and the end of the
    grid that x was clipped to outside.
    """
    return _FakeQuantize.apply(x, scale, grid, zero)


def rounding_gradients(
    upstream: Tensor, x: Tensor, scale: Tensor, grid: Grid, zero: Tensor | None = None
) -> tuple[Tensor, Tensor]:
    """Gradients of fake_quantize with respect to x and, not yet summed over what shares a step, to the scale."""
    ratio = x / scale
    bounded = ratio.clamp(grid.low, grid.high) if zero is None else ratio.clamp(grid.low - zero, grid.high - zero)
    inside = ratio == bounded
    return upstream * inside, upstream * torch.where(inside, ratio.round() - ratio, bounded)


class _FakeQuantize(torch.autograd.Function):
    @staticmethod
    def forward(ctx, x, scale, grid, zero):
        ctx.save_for_backward(x, scale, zero)
        ctx.grid = grid
        return dequantize(quantize(x, scale, grid, zero), scale, zero)

    @staticmethod
    def backward(ctx, upstream):
        x, scale, zero = ctx.saved_tensors
        to_x, to_scale = rounding_gradients(upstream, x, scale, ctx.grid, zero)
        return to_x, to_scale.sum_to_size(scale.shape), None, None
