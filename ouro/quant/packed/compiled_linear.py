"""Linear layers on integers compiled for CPUs: what `ouro.quant.packed.integer` defines, the products of codes by torch.

Measured on an AMD EPYC with VNNI, one thread, 1576 x 128 times 128 x 512: float32 1.9 ms, torch._int_mm 0.21 ms (of
which a loop in numba, without VNNI, cannot get near), quantized.linear of fbgemm 0.32 ms and only with one step per
tensor; onednn.qlinear finds no primitive there. So codes and the way back to floats are compiled here, one pass each.
"""

from __future__ import annotations

import numpy as np
import torch
from numba import njit, prange
from torch import Tensor

from ouro.quant.compiled_outliers import grow, own_grid
from ouro.quant.packed.codes import Codes, Encoded, Encoding, shift_of
from ouro.quant.packed.products import accumulate
from ouro.quant.rules import OutlierRule
from ouro.scan.cpu import run_kernel

# float32 numbers around 1.5 * 2^23 are whole: adding and subtracting it rounds half to even
_WHOLE = np.float32(1.5 * 2**23)
_NAN = np.float32(np.nan)
_BLOCK = 16
"""Rows that one task takes."""


@njit(error_model="numpy", cache=True)
def _row_codes(row, scale, low, high, zero, codes):
    """codes = round(clamp(row / scale)) + zero; returns how many are NaN. low, high: ends less the zero point."""
    unknown = 0
    for c in range(len(row)):
        ratio = row[c] / scale
        unknown += ratio != ratio
        ratio = low if ratio < low else ratio
        ratio = high if ratio > high else ratio
        codes[c] = np.int8(np.int32((ratio + _WHOLE) - _WHOLE) + zero)
    return unknown


@njit(error_model="numpy", cache=True)
def _keep(codes, listed, wanted, zero):
    """The zero point in all channels whose flag is not `wanted`."""
    for c in range(len(codes)):
        code = codes[c]
        codes[c] = code if listed[c] == wanted else zero


@njit(error_model="numpy", cache=True, parallel=True)
def _encode_static(x, scale, zero, low, high, shift, codes, row_scale, row_zero):
    """x [r c]; scale and zero [1] or [l], row r has step r % l."""
    rows, steps = len(x), len(scale)
    for block in prange((rows + _BLOCK - 1) // _BLOCK):
        for r in range(block * _BLOCK, min(rows, (block + 1) * _BLOCK)):
            step, at = scale[r % steps], zero[r % steps]
            row_zero[r] = np.int32(at) - shift
            unknown = _row_codes(x[r], step, low - at, high - at, row_zero[r], codes[r])
            row_scale[r] = _NAN if unknown else step


@njit(error_model="numpy", cache=True, parallel=True)
def _encode_dynamic(x, levels, shift, codes, row_scale, row_zero):
    """Every row of x [r c] has the asymmetric grid 0..levels over its own range."""
    rows, channels = x.shape
    for block in prange((rows + _BLOCK - 1) // _BLOCK):
        everyone, ends = np.ones(channels, np.uint8), np.zeros(2, np.float32)
        for r in range(block * _BLOCK, min(rows, (block + 1) * _BLOCK)):
            step, bottom = own_grid(x[r], everyone, ends, levels, False)
            row_zero[r] = np.int32(-bottom) - shift
            unknown = _row_codes(x[r], step, bottom, bottom + levels, row_zero[r], codes[r])
            row_scale[r] = _NAN if unknown else step


@njit(error_model="numpy", cache=True, parallel=True)
def _encode_two_ways(
    x, steps, limit, theta, scale, zero, kappa, refresh, low, high, shift, outlier_high, outlier_shift, signed,
    lists, codes, row_scale, row_zero, outliers, outlier_scale, outlier_zero,
):  # fmt: skip
    """x [b l, c]; one task per sample and window. outlier_high 0: the outliers are left alone."""
    channels, windows = x.shape[1], (steps + refresh - 1) // refresh
    for task in prange(len(x) // steps * windows):
        start = task % windows * refresh
        listed, count, ends = np.zeros(channels, np.uint8), 0, np.zeros(2, np.float32)
        for t in range(start, min(steps, start + refresh)):
            r = task // windows * steps + t
            row = x[r]
            count = grow(row, listed, count, ends, limit, theta, t, kappa, signed)
            for c in range(channels):
                lists[r, c] = listed[c]
            row_zero[r] = np.int32(zero[t]) - shift
            unknown = _row_codes(row, scale[t], low - zero[t], high - zero[t], row_zero[r], codes[r])
            row_scale[r] = _NAN if unknown else scale[t]
            if count:
                _keep(codes[r], listed, 0, np.int8(row_zero[r]))
            if outlier_high == 0:
                continue
            step, bottom = own_grid(row, listed, ends, outlier_high, signed)
            outlier_scale[r] = step
            outlier_zero[r] = 0 if signed else np.int32(-bottom) - outlier_shift
            if count == 0:
                outliers[r, :] = np.int8(outlier_zero[r])
                continue
            top = outlier_high if signed else bottom + outlier_high
            if _row_codes(row, step, bottom, top, outlier_zero[r], outliers[r]):
                outlier_scale[r] = _NAN
            _keep(outliers[r], listed, 1, np.int8(outlier_zero[r]))


@njit(error_model="numpy", cache=True, parallel=True)
def _to_floats(sums, row_scale, row_zero, of_ones, weight_scale, bias, add, y):
    """y = row_scale weight_scale (sums - row_zero of_ones), + bias, or added to what y holds; sums, y [r o]."""
    rows, outputs = sums.shape
    for block in prange((rows + _BLOCK - 1) // _BLOCK):
        for r in range(block * _BLOCK, min(rows, (block + 1) * _BLOCK)):
            step, at, source, out = row_scale[r], row_zero[r], sums[r], y[r]
            for o in range(outputs):
                before = out[o] if add else bias[o]
                out[o] = np.float32(source[o] - at * of_ones[o]) * (step * weight_scale[o]) + before


@njit(error_model="numpy", cache=True, parallel=True)
def _add_floats(x, lists, columns, weight_scale, y):
    """y += weight_scale x columns over the listed channels of each row; columns [c o] are codes."""
    rows, channels = x.shape
    for block in prange((rows + _BLOCK - 1) // _BLOCK):
        total = np.zeros(len(weight_scale), np.float32)
        for r in range(block * _BLOCK, min(rows, (block + 1) * _BLOCK)):
            total[:] = 0
            for c in range(channels):
                if lists[r, c]:
                    factor, column = x[r, c], columns[c]
                    for o in range(len(total)):
                        total[o] += factor * np.float32(column[o])
            for o in range(len(total)):
                y[r, o] += total[o] * weight_scale[o]


@njit(error_model="numpy", cache=True, parallel=True)
def _unpack(packed, codes):
    """uint8 [o ceil(c/2)] -> int8 [o c], see `ouro.quant.packed.storage`."""
    outputs, columns = codes.shape
    half = packed.shape[1]
    for block in prange((outputs + _BLOCK - 1) // _BLOCK):
        for o in range(block * _BLOCK, min(outputs, (block + 1) * _BLOCK)):
            source, out = packed[o], codes[o]
            for j in range(half):
                out[j] = np.int8(np.int8(source[j] << np.uint8(4)) >> np.int8(4))
            for j in range(columns - half):
                out[half + j] = np.int8(np.int8(source[j]) >> np.int8(4))


def encode(rows: Tensor, encoding: Encoding) -> Encoded:
    """`ouro.quant.packed.integer.encode` of float32 rows [b l c] on the CPU."""
    _, steps, channels = rows.shape
    source = rows.detach().contiguous().view(-1, channels).numpy()
    codes, row_scale, row_zero = _room(len(source), channels)
    grid = encoding.grid
    low, high, shift = np.float32(grid.low), np.float32(grid.high), np.int32(shift_of(grid))
    if encoding.scale is None:
        run_kernel(_encode_dynamic, source, high, shift, codes, row_scale, row_zero)
        return Encoded(_as_codes(codes, row_scale, row_zero))
    scale = _table(encoding.scale)
    zero = np.zeros_like(scale) if encoding.zero is None else _table(encoding.zero)
    if encoding.rule is None:
        run_kernel(_encode_static, source, scale, zero, low, high, shift, codes, row_scale, row_zero)
        return Encoded(_as_codes(codes, row_scale, row_zero))
    rule = encoding.rule
    limit = scale * np.float32(rule.reach)
    theta = np.zeros(0, np.float32) if encoding.theta is None else _table(encoding.theta)
    lists, others = np.empty((len(source), channels), np.bool_), _room(len(source), channels)
    top, outlier_shift = _outlier_range(rule)
    run_kernel(
        _encode_two_ways, source, steps, limit, theta, scale, zero, float(rule.kappa), rule.refresh, low, high, shift,
        top, outlier_shift, rule.signed, lists, codes, row_scale, row_zero, *others,
    )  # fmt: skip
    listed, inliers = torch.from_numpy(lists), _as_codes(codes, row_scale, row_zero)
    if rule.outlier_grid is None:
        return Encoded(inliers, listed, floats=torch.from_numpy(source))
    return Encoded(inliers, listed, _as_codes(*others))


def linear(
    encoded: Encoded, weight: Tensor, weight_scale: Tensor, bias: Tensor | None, totals: Tensor | None = None
) -> Tensor:
    """`ouro.quant.packed.integer.linear` on the CPU."""
    outputs = len(weight)
    of_ones = (weight.sum(1, dtype=torch.int32) if totals is None else totals).numpy()
    steps = _table(weight_scale)
    start = np.zeros(outputs, np.float32) if bias is None else _table(bias)
    y = np.empty((len(encoded.inliers.codes), outputs), np.float32)
    for part in (encoded.inliers, encoded.outliers):
        if part is not None:
            sums = accumulate(part.codes, weight).numpy()
            add = part is not encoded.inliers
            run_kernel(_to_floats, sums, part.scale.numpy(), part.zero.numpy(), of_ones, steps, start, add, y)
    if encoded.floats is not None:
        assert encoded.listed is not None
        columns = weight.T.contiguous().numpy()
        run_kernel(_add_floats, encoded.floats.numpy(), encoded.listed.numpy(), columns, steps, y)
    return torch.from_numpy(y)


def unpack(packed: Tensor, columns: int) -> Tensor:
    """`ouro.quant.packed.storage.unpack_codes` of what is stored two to a byte, on the CPU."""
    codes = np.empty((len(packed), columns), np.int8)
    run_kernel(_unpack, packed.numpy(), codes)
    return torch.from_numpy(codes)


def _room(rows: int, channels: int) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Undefined codes, scales and zero points."""
    return np.empty((rows, channels), np.int8), np.empty(rows, np.float32), np.empty(rows, np.int32)


def _as_codes(codes: np.ndarray, scale: np.ndarray, zero: np.ndarray) -> Codes:
    return Codes(torch.from_numpy(codes), torch.from_numpy(scale), torch.from_numpy(zero))


def _table(x: Tensor) -> np.ndarray:
    return x.detach().float().contiguous().numpy()


def _outlier_range(rule: OutlierRule) -> tuple[np.float32, np.int32]:
    """(highest code, shift) of outliers; 0 where they stay in floating point."""
    grid = rule.outlier_grid
    return (np.float32(0), np.int32(0)) if grid is None else (np.float32(grid.high), np.int32(shift_of(grid)))
