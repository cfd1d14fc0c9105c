"""The transition of a scan: how much of what enters at step j is still there at step i, averaged over channels.

    T[b, i, j, n] = mean over e of exp(A[e, n] (S_i - S_j)) delta_j[e]   for j <= i, else 0
    S_i = delta_1 + .. + delta_i

B and C do not depend on the channel, so the channel mean of implicit attention is sum_n C_i[n] B_j[n] T[i, j, n], and
that of the patched state is a window sum over i before C is applied (`ouro.scan.contract`): one T serves every window
and every weight.

The compiled form replaces e l^2 n / 2 exponentials by a recurrence down the rows. Forward: a task owns COLUMNS columns
j and walks the channels. Backward: a task owns LANES channels and walks the columns. Neither stores b e l l or b e l n.
"""

from __future__ import annotations

from functools import cache
from types import SimpleNamespace

import numpy as np
import torch
from numba import njit, prange
from torch import Tensor
from torch.utils.checkpoint import checkpoint

from ouro.scan.cpu import FAST, LANES, as_array, by_lane, decays, load_tile, run_kernel
from ouro.scan.devices import compiles

COLUMNS = 16
"""Columns that move together; a multiple of 4, and LANES one of 8."""
FLOOR = {"float32": 1e-20, "float64": 1e-200}
"""Added at every step of the recurrence. It keeps old contributions out of the denormals, which cost a hundred times
as much, and is far below the rounding error of T."""
CHUNK = 16
"""Channels that `closed_form` holds at a time."""


def transition(delta: Tensor, A: Tensor, groups: int | None = None) -> Tensor:
    """T [b l l n], the channel mean of exp(A (S_i - S_j)) delta_j; differentiable in delta [b e l] and A [e n].

    Source: OuroMamba, section 3, after Ali et al. 2024 (the hidden attention of Mamba models).

    Args:
        groups: average within this many equal groups of channels instead, for B and C that differ between groups;
            T is then [b g l l n].

    Raises:
        ValueError: A does not fit delta, or the groups do not divide the channels.
    """
    if delta.dim() != 3 or 0 in delta.shape:
        raise ValueError(f"delta is {tuple(delta.shape)}, expected a non-empty (b, e, l)")
    channels = delta.shape[1]
    if A.dim() != 2 or A.shape[0] != channels:
        raise ValueError(f"A is {tuple(A.shape)}, expected (e, n) with e = {channels}")
    if groups is not None and (groups < 1 or channels % groups):
        raise ValueError(f"{groups} groups do not divide {channels} channels")
    parts = 1 if groups is None else groups
    T = _Transition.apply(delta, A, parts) if compiles(delta) else closed_form(delta, A, parts)
    return T[:, 0] if groups is None else T


def closed_form(delta: Tensor, A: Tensor, groups: int) -> Tensor:
    """T [b g l l n] by its definition, on any device: b e l^2 n exponentials, CHUNK channels at a time.

    Gradients recompute each chunk, so memory stays at b CHUNK l^2 n numbers.
    """
    per_group = delta.shape[1] // groups
    means = []
    for start in range(0, delta.shape[1], per_group):
        total = delta.new_zeros(())
        for first in range(start, start + per_group, CHUNK):
            chunk = slice(first, min(first + CHUNK, start + per_group))
            total = total + checkpoint(
                _channel_sum, delta[:, chunk], A[chunk], use_reentrant=False, preserve_rng_state=False
            )
        means.append(total / per_group)
    return torch.stack(means, dim=1)


def _channel_sum(delta: Tensor, A: Tensor) -> Tensor:
    gap = elapsed(delta)
    states = [((A[:, n, None, None] * gap).exp() * delta.unsqueeze(-2)).sum(1).tril() for n in range(A.shape[1])]
    return torch.stack(states, dim=-1)


def elapsed(delta: Tensor) -> Tensor:
    """S_i - S_j for j <= i, else 0: delta [b e l] -> [b e l l]."""
    # in float64: the rounding of a long sum would show in a short difference
    S = delta.double().cumsum(-1)
    return (S.unsqueeze(-1) - S.unsqueeze(-2)).clamp(min=0).to(delta.dtype)


@njit(error_model="numpy")
def _zeros(rows, columns, zero):
    """A zero tile of the type of `zero` that begins on a cache line; off it, every vector access touches two."""
    room = np.full(rows * columns + 16, zero)
    skip = (-room.ctypes.data % 64) // room.itemsize
    return room[skip : skip + rows * columns].reshape(rows, columns)


@njit(fastmath=FAST, error_model="numpy")
def _add_columns(dt, decay, floor, m, total):
    """total[t, j] += sum over lanes c of dt[j, c] decay[j + 1, c] .. decay[t, c], for the first COLUMNS columns.

    Above the diagonal `total` is left undefined. m is scratch [LANES COLUMNS], flat: with constant distances between
    its rows LLVM sees that writing one spares the others.
    """
    m[:] = 0
    for t in range(dt.shape[0]):
        for c in range(0, LANES, 8):
            k = c * COLUMNS
            d0, d1, d2, d3 = decay[t, c], decay[t, c + 1], decay[t, c + 2], decay[t, c + 3]
            d4, d5, d6, d7 = decay[t, c + 4], decay[t, c + 5], decay[t, c + 6], decay[t, c + 7]
            for j in range(COLUMNS):
                x0 = m[k + j] * d0 + floor
                x1 = m[k + COLUMNS + j] * d1 + floor
                x2 = m[k + 2 * COLUMNS + j] * d2 + floor
                x3 = m[k + 3 * COLUMNS + j] * d3 + floor
                x4 = m[k + 4 * COLUMNS + j] * d4 + floor
                x5 = m[k + 5 * COLUMNS + j] * d5 + floor
                x6 = m[k + 6 * COLUMNS + j] * d6 + floor
                x7 = m[k + 7 * COLUMNS + j] * d7 + floor
                m[k + j] = x0
                m[k + COLUMNS + j] = x1
                m[k + 2 * COLUMNS + j] = x2
                m[k + 3 * COLUMNS + j] = x3
                m[k + 4 * COLUMNS + j] = x4
                m[k + 5 * COLUMNS + j] = x5
                m[k + 6 * COLUMNS + j] = x6
                m[k + 7 * COLUMNS + j] = x7
                total[t, j] += ((x0 + x1) + (x2 + x3)) + ((x4 + x5) + (x6 + x7))
        if t < COLUMNS:
            # column t begins here
            entering = floor
            for c in range(LANES):
                entering += dt[t, c]
            for c in range(LANES):
                m[c * COLUMNS + t] = dt[t, c]
            total[t, t] += entering


@njit(fastmath=FAST, error_model="numpy")
def _collect(G, start, dt, decay, floor, m, sums, row):
    """Sums G[i, j] m[i, j] of COLUMNS columns from `start`, below the diagonal, over rows and over columns.

    m[i, j] = decay[j + 1] .. decay[i] per lane; `row` takes it times dt[j], `sums` without. G [l, COLUMNS] holds these
    columns, zero on the diagonal and above. m and sums are flat, [COLUMNS LANES].
    """
    m[:] = 0
    sums[:] = 0
    for t in range(start, G.shape[0]):
        for j in range(0, COLUMNS, 4):
            k = j * LANES
            g0, g1, g2, g3 = G[t, j], G[t, j + 1], G[t, j + 2], G[t, j + 3]
            for c in range(LANES):
                d = decay[t, c]
                x0 = m[k + c] * d + floor
                x1 = m[k + LANES + c] * d + floor
                x2 = m[k + 2 * LANES + c] * d + floor
                x3 = m[k + 3 * LANES + c] * d + floor
                m[k + c] = x0
                m[k + LANES + c] = x1
                m[k + 2 * LANES + c] = x2
                m[k + 3 * LANES + c] = x3
                sums[k + c] += g0 * x0
                sums[k + LANES + c] += g1 * x1
                sums[k + 2 * LANES + c] += g2 * x2
                sums[k + 3 * LANES + c] += g3 * x3
                left = g0 * (x0 * dt[start + j, c]) + g1 * (x1 * dt[start + j + 1, c])
                row[t, c] += left + (g2 * (x2 * dt[start + j + 2, c]) + g3 * (x3 * dt[start + j + 3, c]))
        if t < start + COLUMNS:
            for c in range(LANES):
                m[(t - start) * LANES + c] = 1


@cache
def _kernels(dtype: str) -> SimpleNamespace:
    """Forward and backward for one dtype; delta comes as [b l e], T and its gradient as [b g n i j]."""
    # a flag and not the function: as a cell variable a compiled function makes numba's key new in every process
    real = np.float64 if dtype == "float64" else np.float32
    floor = real(FLOOR[dtype])
    # constants, on the contrary, belong into the key of the compiled code
    width, lanes = COLUMNS, LANES

    @njit(fastmath=FAST, error_model="numpy", parallel=True, cache=True)
    def forward(delta, A, T):
        batch, L, channels = delta.shape
        groups, N = T.shape[1], A.shape[1]
        per_group = channels // groups
        blocks = (L + width - 1) // width
        for task in prange(batch * groups * blocks):
            b = task // (groups * blocks)
            g = task // blocks % groups
            k = task % blocks
            # long and short columns take turns, so that neighboring tasks make even shares
            start = width * (k // 2 if k % 2 == 0 else blocks - 1 - k // 2)
            steps = L - start
            dt = _zeros(steps, lanes, real(0))
            decay = _zeros(steps, lanes, real(0))
            total = _zeros(N * steps, width, real(0)).reshape(N, steps, width)
            m = _zeros(lanes, width, real(0)).reshape(-1)
            lane = np.zeros(lanes, real)
            for first in range(g * per_group, (g + 1) * per_group, lanes):
                count = min(lanes, (g + 1) * per_group - first)
                load_tile(delta[b, start:], first, count, dt)
                for n in range(N):
                    for c in range(count):
                        lane[c] = A[first + c, n]
                    decays(dt, lane, decay)
                    _add_columns(dt, decay, floor, m, total[n])
            for n in range(N):
                T[b, g, n, :start, start : start + width] = 0
                for t in range(steps):
                    for j in range(min(width, steps)):
                        mean = total[n, t, j] / real(per_group)
                        T[b, g, n, start + t, start + j] = mean if j <= t else real(0)

    @njit(fastmath=FAST, error_model="numpy", parallel=True, cache=True)
    def backward(delta, A, dT, ddelta, dA):
        batch, L, channels = delta.shape
        groups, N = dT.shape[1], A.shape[1]
        per_group = channels // groups
        tiles = (per_group + lanes - 1) // lanes
        for task in prange(batch * groups * tiles):
            b = task // (groups * tiles)
            g = task // tiles % groups
            first = g * per_group + task % tiles * lanes
            count = min(lanes, (g + 1) * per_group - first)
            # rows for the columns that a last block has too many: they never begin
            dt = _zeros(L + width, lanes, real(0))
            decay = _zeros(L, lanes, real(0))
            into_delta = _zeros(L, lanes, real(0))
            # what column t collects below the diagonal, and what row t collects left of it
            column = _zeros(L + width, lanes, real(0))
            row = _zeros(L, lanes, real(0))
            G = _zeros(L, width, real(0))
            m = _zeros(width, lanes, real(0)).reshape(-1)
            lane = np.zeros(lanes, real)
            crossing = np.empty(lanes, real)
            into_A = np.empty(lanes, real)
            load_tile(delta[b], first, count, dt[:L])
            for n in range(N):
                for c in range(count):
                    lane[c] = A[first + c, n]
                decays(dt, lane, decay)
                row[:] = 0
                crossing[:] = 0
                into_A[:] = 0
                for start in range(0, L, width):
                    for t in range(start, L):
                        for j in range(min(width, L - start)):
                            G[t, j] = dT[b, g, n, t, start + j] if start + j < t else real(0)
                    _collect(G, start, dt, decay, floor, m, column[start : start + width].reshape(-1), row)
                for t in range(L):
                    diagonal = dT[b, g, n, t, t]
                    for c in range(lanes):
                        # gradient of log decay_t: all pairs j < t <= i, those of step t - 1 less row, plus column
                        into_delta[t, c] += lane[c] * crossing[c] + column[t, c] + diagonal
                        into_A[c] += dt[t, c] * crossing[c]
                        crossing[c] += column[t, c] * dt[t, c] - row[t, c]
                for c in range(count):
                    dA[b, first + c, n] = into_A[c] / real(per_group)
            for t in range(L):
                for c in range(count):
                    ddelta[b, t, first + c] = into_delta[t, c] / real(per_group)

    return SimpleNamespace(forward=forward, backward=backward)


class _Transition(torch.autograd.Function):
    """Bridges torch and the kernels; float64 stays float64, other types are computed in float32."""

    @staticmethod
    def forward(ctx, delta, A, groups):
        dtype = torch.float64 if delta.dtype == torch.float64 else torch.float32
        batch, _, L = delta.shape
        T = np.empty((batch, groups, A.shape[1], L, L), np.float64 if dtype == torch.float64 else np.float32)
        run_kernel(_kernels(T.dtype.name).forward, by_lane(delta, dtype), as_array(A, dtype), T)
        ctx.save_for_backward(delta, A)
        return torch.from_numpy(T).permute(0, 1, 3, 4, 2).to(delta.dtype)

    @staticmethod
    def backward(ctx, dT):
        delta, A = ctx.saved_tensors
        dtype = torch.float64 if delta.dtype == torch.float64 else torch.float32
        arrays = by_lane(delta, dtype), as_array(A, dtype), as_array(dT.permute(0, 1, 4, 2, 3), dtype)
        ddelta, dA = np.empty_like(arrays[0]), np.empty((len(delta), *A.shape), arrays[0].dtype)
        run_kernel(_kernels(dA.dtype.name).backward, *arrays, ddelta, dA)
        into_delta, into_A = torch.from_numpy(ddelta).transpose(1, 2), torch.from_numpy(dA).sum(0)
        return into_delta.to(delta.dtype), into_A.to(A.dtype), None
