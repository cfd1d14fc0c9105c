"""The selective scan with the patched output of OuroMamba: y, and y_p = C h_p over a window on the image.

    h_p(p) = sum over the cells k of the window around p of w_k h_k;    y_p(p) = C_p h_p(p)

Cells outside the grid count as nothing, steps that read no patch (a class token) are in no window.
Source: OuroMamba (arXiv 2503.10959), section 3; `ouro.scan.window` is the same.
"""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor
from torch.nn import functional as F

from ouro.kernels import rounding
from ouro.kernels.launch import choose, first, on, wrong_dtype
from ouro.kernels.selective_scan import op as plain

NAME = "patched_scan"
WIDEST = 7


class Patched(NamedTuple):
    """y [b e l] in time, y_p [b e p] in raster order."""

    y: Tensor
    y_p: Tensor


def patched_scan(
    u: Tensor,
    delta: Tensor,
    A: Tensor,
    B: Tensor,
    C: Tensor,
    D: Tensor | None,
    weights: Tensor,
    steps: Tensor,
    *,
    grid: tuple[int, int],
    size: int,
    reverse: bool = False,
    backend: str = "auto",
) -> Patched:
    """y and y_p in u's dtype; state and sums are float32. Its gradient costs a scan per cell of the window.

    Args:
        u, delta, A, B, C, D: as in `selective_scan`.
        weights: w [b l], per step.
        steps: int64 [p], the step that reads each cell of the grid in raster order; no step twice.
        grid: (height, width) with p cells.
        size: of the window, an odd number from 1 up; Triton up to 7.
        reverse: from the last step to the first.
        backend: "auto", "triton" or "reference".

    Raises:
        KernelError: operands that do not fit together, or a backend that cannot serve them.
    """
    operands = {"u": u, "delta": delta, "A": A, "B": B, "C": C, "D": D, "weights": weights, "steps": steps}
    invalid = plain.misfit(u, delta, A, B, C, D) or _misfit(u, weights, steps, grid, size)
    unsupported = first(
        plain.unsupported(u, delta, A, B, C, D),
        wrong_dtype({"weights": weights}, *plain.FLOATS),
        f"a window of {size} is wider than {WIDEST}" if size > WIDEST else None,
    )
    if choose(NAME, backend, operands, invalid=invalid, unsupported=unsupported, strided=True) == "reference":
        return reference(u, delta, A, B, C, D, weights, steps, grid=grid, size=size, reverse=reverse)
    return Patched(*_Patched.apply(u, delta, A, B, C, D, weights, steps, grid, size, reverse))


def reference(
    u: Tensor,
    delta: Tensor,
    A: Tensor,
    B: Tensor,
    C: Tensor,
    D: Tensor | None,
    weights: Tensor,
    steps: Tensor,
    *,
    grid: tuple[int, int],
    size: int,
    reverse: bool = False,
) -> Patched:
    """The definition: every state, summed over windows, in plain torch, in float32 or float64; b e l n numbers."""
    real = torch.float64 if u.dtype == torch.float64 else torch.float32
    wide = [None if x is None else x.to(real) for x in (u, delta, A, B, C, D)]
    y = plain.reference(*wide, reverse=reverse)
    # a state is the output of a scan with a unit vector for C
    states = []
    for n in range(A.shape[1]):
        unit = torch.zeros_like(wide[4])
        unit[..., n, :] = 1
        states.append(plain.reference(*wide[:4], unit, reverse=reverse))
    h_p = _windows(torch.stack(states, dim=2), weights.to(real), steps, grid, size)
    read = rounding.per_channel(wide[4][..., steps], u.shape[1])
    return Patched(y.to(u.dtype), (h_p * read).sum(2).to(u.dtype))


def bounds(
    u: Tensor,
    delta: Tensor,
    A: Tensor,
    B: Tensor,
    C: Tensor,
    D: Tensor | None,
    weights: Tensor,
    steps: Tensor,
    *,
    grid: tuple[int, int],
    size: int,
    reverse: bool = False,
) -> dict[str, Tensor]:
    """How far float32 may be from the definition, per element."""
    h = rounding.states(u, delta, A, B, reverse=reverse)
    read = rounding.per_channel(C.double()[..., steps].abs(), u.shape[1])
    magnitude, error = (_windows(x, weights.double().abs(), steps, grid, size) * read for x in (h.value.abs(), h.error))
    # one product for C, one for the weight, and the sums over states and cells
    rounded = (A.shape[1] + size * size + 2) * rounding.HALF * magnitude
    return {"y": rounding.scan(u, delta, A, B, C, D, reverse=reverse).error, "y_p": (error + rounded).sum(2)}


def by_scans(
    u: Tensor,
    delta: Tensor,
    A: Tensor,
    B: Tensor,
    C: Tensor,
    D: Tensor | None,
    weights: Tensor,
    steps: Tensor,
    grid: tuple[int, int],
    size: int,
    reverse: bool,
) -> Patched:
    """The same from scans alone, with their gradient: one per place in the window, with the C of the neighbor there.

    What cell k gives to the cell at distance (i, j) is w_k C_{k + (i, j)} h_k: the output of a scan at k.
    """
    y = plain.selective_scan(u, delta, A, B, C, D, reverse=reverse, backend="triton")
    half = size // 2
    neighbors = F.pad(C[..., steps].unflatten(-1, grid), (half,) * 4)
    y_p = torch.zeros(*u.shape[:2], len(steps), device=u.device)
    for i in range(size):
        for j in range(size):
            read = torch.zeros_like(C).index_copy(-1, steps, _shifted(neighbors, i, j, grid).flatten(-2))
            given = plain.selective_scan(u, delta, A, B, read, reverse=reverse, backend="triton").float()
            given = F.pad((given * weights[:, None])[..., steps].unflatten(-1, grid), (half,) * 4)
            y_p = y_p + _shifted(given, size - 1 - i, size - 1 - j, grid).flatten(-2)
    return Patched(y, y_p.to(u.dtype))


def _windows(h: Tensor, weights: Tensor, steps: Tensor, grid: tuple[int, int], size: int) -> Tensor:
    """Weighted sums [b e n p] over the window around each cell, of h [b e n l]."""
    padded = F.pad((h * weights[:, None, None])[..., steps].unflatten(-1, grid), (size // 2,) * 4)
    return sum(_shifted(padded, i, j, grid) for i in range(size) for j in range(size)).flatten(-2)


def _shifted(padded: Tensor, i: int, j: int, grid: tuple[int, int]) -> Tensor:
    """The part [.. h w] of a padded grid that begins at line i and column j."""
    return padded[..., i : i + grid[0], j : j + grid[1]]


def _misfit(u: Tensor, weights: Tensor, steps: Tensor, grid: tuple[int, int], size: int) -> str | None:
    batch, L = u.shape[0], u.shape[2]
    if (why := wrong_dtype({"weights": weights}, *plain.FLOATS, torch.float64)) is not None:
        return why
    if tuple(weights.shape) != (batch, L):
        return f"weights is {tuple(weights.shape)}, expected (b, l) = {(batch, L)}"
    if size < 1 or size % 2 == 0:
        return f"size is {size}, expected an odd number from 1 up"
    if min(grid) < 1 or tuple(steps.shape) != (grid[0] * grid[1],) or steps.dtype != torch.int64 or len(steps) > L:
        return f"steps is {tuple(steps.shape)} {steps.dtype}, expected one int64 for each cell of grid {tuple(grid)}"
    return None


def _launch(u, delta, A, B, C, D, weights, steps, grid, size, reverse) -> tuple[Tensor, Tensor]:
    from ouro.kernels.patched_scan import kernel

    run = plain.Launch(u, delta, A, B, C, D, reverse)
    cells = torch.full((run.L,), -1, dtype=torch.int32, device=u.device)
    cells[steps] = torch.arange(len(steps), dtype=torch.int32, device=u.device)
    y = run.empty(run.batch, run.L, run.channels, dtype=u.dtype)
    y_p = torch.zeros(run.batch, len(steps), run.channels, device=u.device)
    with on(u.device):
        kernel.forward[run.grid](
            *run.operands(), weights, cells, steps.to(torch.int32), y, y_p, run.L, *run.strides, *weights.stride(),
            **run.constants, HEIGHT=grid[0], WIDTH=grid[1], HALF=size // 2, num_warps=max(1, run.block_n // 32),
        )  # fmt: skip
    return y.transpose(1, 2), y_p.to(u.dtype).transpose(1, 2)


class _Patched(torch.autograd.Function):
    """Forward in one kernel; backward through `by_scans`, made anew from the operands."""

    @staticmethod
    def forward(ctx, u, delta, A, B, C, D, weights, steps, grid, size, reverse):
        ctx.save_for_backward(u, delta, A, B, C, D, weights, steps)
        ctx.window = grid, size, reverse
        return _launch(u, delta, A, B, C, D, weights, steps, grid, size, reverse)

    @staticmethod
    @torch.autograd.function.once_differentiable
    def backward(ctx, dy, dy_p):
        *operands, steps = ctx.saved_tensors
        leaves = [None if x is None else x.detach().requires_grad_() for x in operands]
        with torch.enable_grad():
            out = by_scans(*leaves, steps, *ctx.window)
        tracked = [x for x in leaves if x is not None]
        grads = iter(torch.autograd.grad(out, tracked, (dy, dy_p)))
        return *(None if x is None else next(grads) for x in leaves), None, None, None, None
