"""Inner loops of the scale searches of arXiv 2501.16738, compiled for CPUs with numba.

`ouro.quant.search.kscale` and `ouro.quant.search.reparam` say what is searched; here every candidate is tried. All loops run over
channels, which are adjacent in memory, so that they vectorize; sums over samples have a fixed order.
"""

from __future__ import annotations

import numpy as np
import torch
from numba import njit, prange
from torch import Tensor

from ouro.quant.grid import Grid
from ouro.scan.cpu import FAST, exp32, run_kernel
from ouro.types import ScanInputs

# float32 numbers around 1.5 * 2^23 are whole: adding and subtracting it rounds half to even
_WHOLE = np.float32(1.5 * 2**23)
# scores are compared, not kept: their sums may be added in the order that is fastest
ANY_ORDER = FAST | {"reassoc"}


@njit(error_model="numpy", cache=True)
def _codes(row, step, low, high, out):
    """out = round(clamp(row / step))."""
    for c in range(len(row)):
        ratio = row[c] / step
        ratio = low if ratio < low else ratio
        ratio = high if ratio > high else ratio
        out[c] = (ratio + _WHOLE) - _WHOLE


@njit(error_model="numpy", cache=True)
def _round(row, unit, step, low, high, out):
    """out = step unit round(clamp(row / (step unit)))."""
    for c in range(len(row)):
        scale = step * unit[c]
        ratio = row[c] / scale
        ratio = low if ratio < low else ratio
        ratio = high if ratio > high else ratio
        out[c] = ((ratio + _WHOLE) - _WHOLE) * scale


@njit(fastmath=ANY_ORDER, error_model="numpy", cache=True)
def _dot(a, b):
    total = np.float32(0)
    for c in range(len(a)):
        total += a[c] * b[c]
    return total


@njit(fastmath=ANY_ORDER, error_model="numpy", cache=True)
def _add_product(a, b, out):
    for c in range(len(out)):
        out[c] += a[c] * b[c]


@njit(error_model="numpy", parallel=True, cache=True)
def _code_sums(x, steps, low, high, dots, squares):
    tokens, channels = x.shape
    for t in prange(tokens):
        codes = np.empty(channels, np.float32)
        for i in range(len(steps)):
            _codes(x[t], steps[i], low, high, codes)
            dots[t, i] = _dot(x[t], codes)
            squares[t, i] = _dot(codes, codes)


def code_sums(x: Tensor, steps: Tensor, grid: Grid) -> tuple[Tensor, Tensor]:
    """(x . q, q . q) over the channels of tokens x [t c], both [t i] float64, for the codes q of every step [i]."""
    shape = (len(x), len(steps))
    dots, squares = np.empty(shape, np.float32), np.empty(shape, np.float32)
    run_kernel(
        _code_sums, x.contiguous().numpy(), steps.float().contiguous().numpy(),
        np.float32(grid.low), np.float32(grid.high), dots, squares,
    )  # fmt: skip
    return torch.from_numpy(dots).double(), torch.from_numpy(squares).double()


@njit(fastmath=ANY_ORDER, error_model="numpy", cache=True)
def _decays(dt, a, out):
    for c in range(len(out)):
        out[c] = exp32(dt[c] * a[c])


@njit(fastmath=ANY_ORDER, error_model="numpy", cache=True)
def _advance(decay, drive, b, exact, rounded):
    """h = decay h + b drive for the float state and for the rounded one, in place."""
    for c in range(len(decay)):
        exact[c] = decay[c] * exact[c] + b * drive[c]
        rounded[c] = decay[c] * rounded[c] + b * drive[c]


@njit(fastmath=ANY_ORDER, error_model="numpy", cache=True)
def _look_ahead(decay, drive, b, c_out, exact, wanted, base, gain):
    """Adds one state's share of the next y and of the part that the rounded state has no say in; gain = C A_bar."""
    for c in range(len(decay)):
        base[c] += c_out * b * drive[c]
        gain[c] = c_out * decay[c]
        wanted[c] += gain[c] * exact[c] + c_out * b * drive[c]


@njit(error_model="numpy", cache=True)
def _peak(h, unit):
    """Greatest |h| / unit."""
    greatest = np.float32(0)
    for c in range(len(h)):
        greatest = max(greatest, abs(h[c]) / unit[c])
    return greatest


@njit(fastmath=ANY_ORDER, error_model="numpy", cache=True)
def _cosine(a, b):
    dot, left, right = 0.0, 0.0, 0.0
    for c in range(len(a)):
        x, y = np.float64(a[c]), np.float64(b[c])
        dot += x * y
        left += x * x
        right += y * y
    size = np.sqrt(left) * np.sqrt(right)
    return dot / size if size > 0 else 0.0


@njit(error_model="numpy", parallel=True, cache=True)
def _greedy(u, delta, A, B, C, unit, factors, low, high, step):
    """Fills step [l]. u, delta [b l e]; A, unit [n e]; B, C [b l g n]; factors [i], the first of which is 1."""
    batch, L, channels = u.shape
    groups, N = B.shape[2], B.shape[3]
    width = channels // groups
    tries = len(factors)
    exact = np.zeros((batch, N, channels), np.float32)
    rounded = np.zeros((batch, N, channels), np.float32)
    decay = np.zeros((batch, N, channels), np.float32)
    peaks = np.zeros(batch, np.float32)
    scores = np.zeros((batch, tries), np.float64)
    for t in range(L):
        for s in prange(batch):
            drive = np.empty(channels, np.float32)
            for c in range(channels):
                drive[c] = delta[s, t, c] * u[s, t, c]
            greatest = np.float32(0)
            for n in range(N):
                for g in range(groups):
                    part = slice(g * width, (g + 1) * width)
                    _advance(decay[s, n, part], drive[part], B[s, t, g, n], exact[s, n, part], rounded[s, n, part])
                greatest = max(greatest, _peak(exact[s, n], unit[n]))
            peaks[s] = greatest
        first = np.max(peaks) / (high + np.float32(0.5))
        step[t] = first if first > 0 else np.float32(1)
        if t + 1 == L:
            break
        for s in prange(batch):
            dt = np.empty(channels, np.float32)
            drive = np.empty(channels, np.float32)
            for c in range(channels):
                dt[c] = delta[s, t + 1, c]
                drive[c] = dt[c] * u[s, t + 1, c]
            wanted, base = np.zeros(channels, np.float32), np.zeros(channels, np.float32)
            gain = np.empty((N, channels), np.float32)
            for n in range(N):
                _decays(dt, A[n], decay[s, n])
                for g in range(groups):
                    part = slice(g * width, (g + 1) * width)
                    _look_ahead(
                        decay[s, n, part], drive[part], B[s, t + 1, g, n], C[s, t + 1, g, n], exact[s, n, part],
                        wanted[part], base[part], gain[n, part],
                    )  # fmt: skip
            y, q = np.empty(channels, np.float32), np.empty(channels, np.float32)
            for i in range(tries):
                y[:] = base
                for n in range(N):
                    _round(rounded[s, n], unit[n], step[t] * factors[i], low, high, q)
                    _add_product(gain[n], q, y)
                scores[s, i] = _cosine(wanted, y)
        best, greatest_score = 0, -np.inf
        for i in range(tries):
            score = 0.0
            for s in range(batch):
                score += scores[s, i]
            if score > greatest_score:
                best, greatest_score = i, score
        step[t] *= factors[best]
        for s in prange(batch):
            for n in range(N):
                _round(rounded[s, n], unit[n], step[t], low, high, rounded[s, n])


def greedy_steps(inputs: ScanInputs, unit: Tensor, factors: Tensor, grid: Grid) -> Tensor:
    """Step [l] of the state of every time step in units of `unit` [e n]: its initial step times the best factor [i].

    factors[0] has to be 1; equal scores go to the earlier factor. See `ouro.quant.search.reparam.search_steps`.
    """

    def by_step(matrix: Tensor) -> Tensor:
        grouped = matrix.unsqueeze(1) if matrix.dim() == 3 else matrix
        return grouped.permute(0, 3, 1, 2)

    tensors = (
        inputs.u.transpose(1, 2), inputs.delta.transpose(1, 2), inputs.A.T, by_step(inputs.B), by_step(inputs.C),
        unit.T, factors,
    )  # fmt: skip
    step = np.empty(inputs.u.shape[2], np.float32)
    arrays = [x.detach().to("cpu", torch.float32).contiguous().numpy() for x in tensors]
    run_kernel(_greedy, *arrays, np.float32(grid.low), np.float32(grid.high), step)
    return torch.from_numpy(step)
