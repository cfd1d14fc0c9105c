"""Channel-mean implicit attention from a transition T: B and C put back, rows optionally summed over a window.

    alpha[i, j] = sum_n C_i[n] B_j[n] T[i, j, n]
    alpha_p[p, j] = sum_n C_p[n] B_j[n] (sum over k in the window of p of w_k T[k, j, n])

Source: OuroMamba, section 3 (patched hidden state), with T of `ouro.scan.transition`. The compiled form takes LANES
columns j at a time and keeps one tile per state in cache.
"""

from __future__ import annotations

from functools import cache
from types import SimpleNamespace
from typing import Any

import numpy as np
import torch
from numba import njit, prange
from torch import Tensor

from ouro.scan.cpu import FAST, LANES, as_array, box_tile, run_kernel, sum_of, tile
from ouro.scan.devices import compiles
from ouro.scan.order import raster_steps, to_raster
from ouro.scan.window import box_sum
from ouro.types import PatchWindow


def contract(T: Tensor, B: Tensor, C: Tensor, window: PatchWindow | None = None) -> Tensor:
    """alpha [b l l] from T [b l l n], B and C [b n l]; with a window alpha_p [b p l], rows in raster order.

    Columns stay in scan order, class token and padding included. Grouped operands (T [b g l l n], B and C [b g n l])
    are averaged over their groups. Differentiable in T, B, C and the window's weights.

    Raises:
        ValueError: T, B and C do not fit together.
    """
    if T.dim() == 4:
        T = T.unsqueeze(1)
    B, C = (matrix.unsqueeze(1) if matrix.dim() == 3 else matrix for matrix in (B, C))
    batch, groups, L, _, N = T.shape
    for name, matrix in (("B", B), ("C", C)):
        if tuple(matrix.shape) != (batch, groups, N, L):
            raise ValueError(f"{name} is {tuple(matrix.shape)}, T {tuple(T.shape)} needs {(batch, groups, N, L)}")
    if not compiles(T):
        return by_definition(T, B, C, window)
    return _Contract.apply(T, B, C, None if window is None else window.weights, window).mean(1)


def by_definition(T: Tensor, B: Tensor, C: Tensor, window: PatchWindow | None) -> Tensor:
    """The same for grouped operands in plain torch, on any device."""
    if window is None:
        return torch.einsum("bgijn,bgnj,bgni->bgij", T, B, C).mean(1)
    weighted = to_raster(T * window.weights[:, None, :, None, None], window.order, dim=2)  # [b g p j n]
    patched = box_sum(weighted.movedim(2, -1).unflatten(-1, window.order.grid), window.size).flatten(-2)  # [b g j n p]
    return torch.einsum("bgjnp,bgnj,bgnp->bgpj", patched, B, to_raster(C, window.order)).mean(1)


@cache
def _kernels(dtype: str) -> SimpleNamespace:
    """Forward and backward for one dtype; T comes as [b g n i j], `steps` lists the rows wanted."""
    real = np.float64 if dtype == "float64" else np.float32
    # as a cell variable the constant is part of the key under which numba keeps the compiled code
    lanes = LANES

    @njit(fastmath=FAST, error_model="numpy", parallel=True, cache=True)
    def forward(T, B, C, weights, steps, half, height, width, out):
        batch, groups, N, L, _ = T.shape
        blocks = (L + lanes - 1) // lanes
        rows = len(steps)
        for task in prange(batch * groups * blocks):
            b = task // (groups * blocks)
            g = task // blocks % groups
            first = task % blocks * lanes
            count = min(lanes, L - first)
            grid = np.zeros((rows, lanes), real)
            scratch = np.empty((rows, lanes), real)
            patched = np.empty((rows, lanes), real)
            total = np.zeros((rows, lanes), real)
            lane = np.zeros(lanes, real)
            for n in range(N):
                for c in range(count):
                    lane[c] = B[b, g, n, first + c]
                for p in range(rows):
                    w = weights[b, steps[p]]
                    for c in range(count):
                        grid[p, c] = w * T[b, g, n, steps[p], first + c]
                box_tile(grid, height, width, half, scratch, patched)
                for p in range(rows):
                    Ct = C[b, g, n, steps[p]]
                    for c in range(lanes):
                        total[p, c] += Ct * lane[c] * patched[p, c]
            for p in range(rows):
                for c in range(count):
                    out[b, g, p, first + c] = total[p, c]

    @njit(fastmath=FAST, error_model="numpy", parallel=True, cache=True)
    def backward(T, B, C, weights, steps, half, height, width, dout, dT, dB, dC, dweights):
        batch, groups, N, L, _ = T.shape
        blocks = dC.shape[2]
        rows = len(steps)
        for task in prange(batch * groups * blocks):
            b = task // (groups * blocks)
            g = task // blocks % groups
            k = task % blocks
            first = k * lanes
            count = min(lanes, L - first)
            grid = np.zeros((rows, lanes), real)
            scratch = np.empty((rows, lanes), real)
            patched = np.empty((rows, lanes), real)
            gout = np.zeros((rows, lanes), real)
            lane = np.zeros(lanes, real)
            into_B = np.empty(lanes, real)
            # read as one vector, which has to begin on a cache line
            products = tile(1, T)[0]
            for p in range(rows):
                for c in range(count):
                    gout[p, c] = dout[b, g, p, first + c]
            for n in range(N):
                for c in range(count):
                    lane[c] = B[b, g, n, first + c]
                into_B[:] = 0
                for p in range(rows):
                    w = weights[b, steps[p]]
                    for c in range(count):
                        grid[p, c] = w * T[b, g, n, steps[p], first + c]
                box_tile(grid, height, width, half, scratch, patched)
                for p in range(rows):
                    Ct = C[b, g, n, steps[p]]
                    for c in range(lanes):
                        products[c] = gout[p, c] * lane[c] * patched[p, c]
                        into_B[c] += gout[p, c] * Ct * patched[p, c]
                        grid[p, c] = gout[p, c] * Ct * lane[c]
                    dC[b, g, k, n, steps[p]] = sum_of(products)
                # a window sum is its own transpose
                box_tile(grid, height, width, half, scratch, patched)
                for p in range(rows):
                    t = steps[p]
                    w = weights[b, t]
                    products[:] = 0
                    for c in range(count):
                        products[c] = T[b, g, n, t, first + c] * patched[p, c]
                        dT[b, g, n, t, first + c] = w * patched[p, c]
                    dweights[b, g, k, t] += sum_of(products)
                for c in range(count):
                    dB[b, g, n, first + c] = into_B[c]

    return SimpleNamespace(forward=forward, backward=backward)


def _operands(T: Tensor, B: Tensor, C: Tensor, weights: Tensor | None, window: PatchWindow | None) -> list[Any]:
    """What both kernels start with; without a window every step is a row, and its window is that row."""
    dtype = torch.float64 if T.dtype == torch.float64 else torch.float32
    arrays: list[Any] = [as_array(x, dtype) for x in (T.permute(0, 1, 4, 2, 3), B, C)]
    if window is None:
        L = T.shape[2]
        return [*arrays, np.ones((len(T), L), arrays[0].dtype), np.arange(L), 0, L, 1]
    assert weights is not None
    arrays += [as_array(weights, dtype), raster_steps(window.order).numpy(), window.size // 2]
    return [*arrays, *window.order.grid]


class _Contract(torch.autograd.Function):
    """Bridges torch and the kernels; saves its inputs where `torch.utils.checkpoint` can drop them."""

    @staticmethod
    def forward(ctx, T, B, C, weights, window):
        operands = _operands(T, B, C, weights, window)
        batch, groups, L, _, _ = T.shape
        out = np.empty((batch, groups, len(operands[4]), L), operands[0].dtype)
        run_kernel(_kernels(out.dtype.name).forward, *operands, out)
        ctx.save_for_backward(T, B, C, weights)
        ctx.window = window
        return torch.from_numpy(out).to(T.dtype)

    @staticmethod
    def backward(ctx, dout):
        inputs = ctx.saved_tensors
        operands = _operands(inputs[0], inputs[1], inputs[2], inputs[3], ctx.window)
        T, B = operands[:2]
        batch, groups, N, L, _ = T.shape
        blocks = -(-L // LANES)
        # steps that are no row, such as the class token's, get no gradient
        dT, dB = np.zeros_like(T), np.empty_like(B)
        dC, dweights = np.zeros((batch, groups, blocks, N, L), T.dtype), np.zeros((batch, groups, blocks, L), T.dtype)
        dout = as_array(dout, torch.from_numpy(T).dtype)
        run_kernel(_kernels(T.dtype.name).backward, *operands, dout, dT, dB, dC, dweights)
        results = [dT.transpose(0, 1, 3, 4, 2), dB, dC.sum(2), dweights.sum((1, 2))]
        wanted = zip(results, inputs, strict=True)
        return *(None if x is None else torch.from_numpy(grad).to(x.dtype) for grad, x in wanted), None
