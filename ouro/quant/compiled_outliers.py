"""The outlier rule of `ouro.quant.outliers` compiled for CPUs with numba; equal to it, bit for bit.

A window of steps is walked one step after the other with the list in cache, instead of every step of all windows
with the list in memory: two passes over a row rather than a dozen over the tensor.
"""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor

import numpy as np
import torch
from numba import njit
from torch import Tensor

from ouro.quant.rules import OutlierRule

# float32 numbers around 1.5 * 2^23 are whole: adding and subtracting it rounds half to even
_WHOLE = np.float32(1.5 * 2**23)
_SIGN = np.int32(-(2**31))

# loops below read before they select, take maxima of integers and round by adding: each of them vectorizes


@njit(fastmath={"reassoc", "contract"}, error_model="numpy", nogil=True, cache=True)
def _threshold(row, listed, kappa):
    """mean + kappa std of |row| over the channels not listed; NaN for fewer than two."""
    count, total = 0, 0.0
    for c in range(len(row)):
        size = np.float64(abs(row[c]))
        total += 0.0 if listed[c] else size
        count += 1 - listed[c]
    mean, squares = total / count, 0.0
    for c in range(len(row)):
        gap = np.float64(abs(row[c])) - mean
        squares += 0.0 if listed[c] else gap * gap
    return mean + kappa * np.sqrt(squares / (count - 1))


@njit(error_model="numpy", nogil=True, cache=True)
def _reach(bits, listed, wanted, down_up):
    """How far the channels whose flag is `wanted` reach below and above 0, as bits of float32.

    Non-negative floats are ordered as their bits are.
    """
    down, up = np.int32(0), np.int32(0)
    for c in range(len(bits)):
        value = bits[c]
        value = value if listed[c] == wanted else np.int32(0)
        up = max(up, value)
        down = max(down, value ^ _SIGN)
    down_up[0], down_up[1] = down, up


@njit(error_model="numpy", nogil=True, cache=True)
def _round(row, scale, low, high, out):
    """out = scale * round(clamp(row / scale)); low and high are the ends of the grid less its zero point."""
    for c in range(len(row)):
        ratio = row[c] / scale
        ratio = low if ratio < low else ratio
        ratio = high if ratio > high else ratio
        out[c] = ((ratio + _WHOLE) - _WHOLE) * scale


@njit(error_model="numpy", nogil=True, cache=True)
def _merge(inlier, outlier, listed, out):
    for c in range(len(out)):
        small, large = inlier[c], outlier[c]
        out[c] = large if listed[c] else small


@njit(error_model="numpy", nogil=True, cache=True)
def grow(row, listed, count, ends, limit, theta, t, kappa, signed):
    """Adds to the list who joins at step t, and returns its length; ends is scratch [2]."""
    _reach(row.view(np.int32), listed, 0, ends.view(np.int32))
    if not (max(ends[0], ends[1]) if signed else ends[0] + ends[1]) > limit[t]:
        return count
    bound = np.float64(theta[t]) if len(theta) else _threshold(row, listed, kappa)
    count = 0
    for c in range(len(row)):
        listed[c] |= np.float64(abs(row[c])) > bound
        count += listed[c]
    return count


@njit(error_model="numpy", nogil=True, cache=True)
def own_grid(row, listed, ends, high, signed):
    """(step, lowest code less the zero point) of the grid over the channels whose flag is 1, with codes up to high."""
    _reach(row.view(np.int32), listed, 1, ends.view(np.int32))
    step = (max(ends[0], ends[1]) if signed else ends[0] + ends[1]) / high
    step = step if step > 0 else np.float32(1)
    return step, -high if signed else (-ends[0] / step + _WHOLE) - _WHOLE


@njit(error_model="numpy", nogil=True, cache=True)
def _walk(x, limit, theta, scale, zero, kappa, refresh, low, high, outlier_high, signed, y, lists):
    """Fills y and lists [b l c]; an empty theta asks for the threshold on the spot, outlier_high 0 keeps outliers."""
    batch, steps, channels = x.shape
    outlier, ends = np.zeros(channels, np.float32), np.zeros(2, np.float32)
    listed, count = np.zeros(channels, np.uint8), 0
    for b in range(batch):
        for t in range(steps):
            row, out = x[b, t], y[b, t]
            if t % refresh == 0:
                listed[:] = 0
                count = 0
            count = grow(row, listed, count, ends, limit, theta, t, kappa, signed)
            _round(row, scale[t], low - zero[t], high - zero[t], out)
            for c in range(channels):
                lists[b, t, c] = listed[c]
            if count == 0:
                continue
            if outlier_high == 0:
                _merge(out, row, listed, out)
                continue
            step, bottom = own_grid(row, listed, ends, outlier_high, signed)
            _round(row, step, bottom, outlier_high if signed else bottom + outlier_high, outlier)
            _merge(out, outlier, listed, out)


def run(
    x: Tensor, rule: OutlierRule, scale: Tensor | None, zero: Tensor | None, theta: Tensor | None
) -> tuple[Tensor, Tensor]:
    """(rounded x, outlier list) of a float32 tensor [b l c] on the CPU; without a scale only the list means anything.

    Raises:
        ValueError: a table does not have one entry per time step.
    """
    steps = x.shape[1]
    # without a scale, a span of 0 exceeds the limit already
    limit = torch.full((steps,), -1.0) if scale is None else scale.detach() * rule.reach
    scale = torch.ones(steps) if scale is None else scale.detach()
    per_step = [limit, torch.zeros(0) if theta is None else theta, scale, torch.zeros(steps) if zero is None else zero]
    for table in per_step:
        if table.shape not in ((steps,), (0,)):
            raise ValueError(f"a table of {tuple(table.shape)} numbers cannot serve {steps} time steps")
    grid, outlier_grid = rule.grid, rule.outlier_grid
    outlier_high = 0 if outlier_grid is None else outlier_grid.high
    tables = [table.float().contiguous().numpy() for table in per_step]
    numbers = (rule.kappa, rule.refresh, np.float32(grid.low), np.float32(grid.high), np.float32(outlier_high))
    source = x.detach().contiguous().numpy()
    y, lists = np.empty(source.shape, np.float32), np.empty(source.shape, np.bool_)

    def work(part: slice) -> None:
        _walk(source[part], *tables, *numbers, rule.signed, y[part], lists[part])

    # samples are independent; threads of our own, because numba's pool may be busy with a scan
    threads = min(torch.get_num_threads(), len(source))
    if threads <= 1:
        work(slice(None))
    else:
        size = -(-len(source) // threads)
        with ThreadPoolExecutor(threads) as pool:
            list(pool.map(work, (slice(first, first + size) for first in range(0, len(source), size))))
    return torch.from_numpy(y), torch.from_numpy(lists)
