"""One program makes a tile of y, transposed: unpacked weights then feed the tensor cores straight from registers."""

from __future__ import annotations

import triton
import triton.language as tl


@triton.jit
def unpack(packed, HARDWARE: tl.constexpr):
    """Two codes of four bits per byte -> (low, high), both int8 and sixteen times what they are."""
    if HARDWARE:
        low, high = tl.inline_asm_elementwise(
            "shl.b32 $0, $2, 4; and.b32 $0, $0, 0xF0F0F0F0; and.b32 $1, $2, 0xF0F0F0F0;",
            "=r,=r,r",
            [packed],
            dtype=(tl.int8, tl.int8),
            is_pure=True,
            pack=4,
        )
    else:
        low = (packed << 4).to(tl.int8)
        high = packed & -16
    return low, high


@triton.jit
def product(
    codes,
    weight,
    rows,
    outputs,
    K,
    half,
    BLOCK_M: tl.constexpr,
    BLOCK_N: tl.constexpr,
    BLOCK_K: tl.constexpr,
    PACKED: tl.constexpr,
    EVEN: tl.constexpr,
    HARDWARE: tl.constexpr,
):
    """Sums of products of codes, int32 [BLOCK_N, BLOCK_M]; sixteen times that if PACKED. EVEN: no rest of a block.

    half: bytes of a row of packed weights, an operand of its own, so that it is known to be a multiple of 16 where it is.
    """
    sums = tl.zeros((BLOCK_N, BLOCK_M), tl.int32)
    if PACKED:
        # byte j of a row holds the codes of channels j and half + j
        column = tl.arange(0, BLOCK_K // 2)
        from_x = codes + rows[None, :] * K + column[:, None]
        from_w = weight + outputs[:, None] * half + column[None, :]
        for k in range(0, half, BLOCK_K // 2):
            if EVEN:
                pair = tl.load(from_w + k)
                x_low = tl.load(from_x + k)
                x_high = tl.load(from_x + half + k)
            else:
                left = half - k
                pair = tl.load(from_w + k, mask=column[None, :] < left, other=0)
                x_low = tl.load(from_x + k, mask=column[:, None] < left, other=0)
                x_high = tl.load(from_x + half + k, mask=column[:, None] < K - half - k, other=0)
            low, high = unpack(pair, HARDWARE)
            sums = tl.dot(low, x_low, sums, out_dtype=tl.int32)
            sums = tl.dot(high, x_high, sums, out_dtype=tl.int32)
    else:
        column = tl.arange(0, BLOCK_K)
        from_x = codes + rows[None, :] * K + column[:, None]
        from_w = weight + outputs[:, None] * K + column[None, :]
        for k in range(0, K, BLOCK_K):
            if EVEN:
                w = tl.load(from_w + k)
                x = tl.load(from_x + k)
            else:
                w = tl.load(from_w + k, mask=column[None, :] < K - k, other=0)
                x = tl.load(from_x + k, mask=column[:, None] < K - k, other=0)
            sums = tl.dot(w, x, sums, out_dtype=tl.int32)
    return sums


@triton.jit
def scaled(sums, zero, weight_sum, scale, rows, inside, PACKED: tl.constexpr, HAS_ZERO: tl.constexpr):
    """scale (sums - zero weight_sum), float32; the steps of the weight are not in it yet."""
    if HAS_ZERO:
        origin = tl.load(zero + rows, mask=inside, other=0) * (16 if PACKED else 1)
        sums -= weight_sum[:, None] * origin[None, :]
    return sums.to(tl.float32) * tl.load(scale + rows, mask=inside, other=0.0)[None, :]


@triton.jit
def activated(y, ACTIVATION: tl.constexpr):
    """SiLU or softplus of y."""
    if ACTIVATION == "silu":
        return y / (1.0 + tl.exp(-y))
    small = tl.exp(-tl.abs(y))
    # log(1 + small) of a small number, corrected for what the addition rounds off
    more = 1.0 + small
    logarithm = tl.where(more > 1.0, tl.log(more) * (small / tl.maximum(more - 1.0, 1e-30)), small)
    return tl.maximum(y, 0.0) + logarithm


@triton.jit
def linear_tile(
    codes,
    scale,
    zero,
    outliers,
    outlier_scale,
    outlier_zero,
    weight,
    weight_scale,
    weight_sum,
    bias,
    y,
    M,
    N,
    K,
    half,
    activated_from,
    BLOCK_M: tl.constexpr,
    BLOCK_N: tl.constexpr,
    BLOCK_K: tl.constexpr,
    PACKED: tl.constexpr,
    EVEN: tl.constexpr,
    HAS_ZERO: tl.constexpr,
    HAS_OUTLIERS: tl.constexpr,
    HAS_BIAS: tl.constexpr,
    ACTIVATION: tl.constexpr,
    HARDWARE: tl.constexpr,
):
    """See `op.quantized_linear`. Tiles of the same rows are neighbors, so that their codes are read from memory once."""
    across = tl.cdiv(N, BLOCK_N)
    first = tl.program_id(0) // across * BLOCK_M
    row = tl.arange(0, BLOCK_M)
    output = tl.program_id(0) % across * BLOCK_N + tl.arange(0, BLOCK_N)
    inside = row < M - first
    there = output < N
    # only where a tile begins may be far away: within it, and within the weight, 32 bits are enough
    codes += first.to(tl.int64) * K
    y += first.to(tl.int64) * N
    scale += first
    if HAS_ZERO:
        zero += first
    if HAS_OUTLIERS:
        outliers += first.to(tl.int64) * K
        outlier_scale += first
        if HAS_ZERO:
            outlier_zero += first
    # beyond the end a tile works on its beginning, and does not store that
    rows = tl.where(inside, row, 0)
    outputs = tl.where(there, output, 0)
    totals = output
    if HAS_ZERO:
        totals = tl.load(weight_sum + output, mask=there, other=0)
    if HAS_OUTLIERS:
        sums = product(outliers, weight, rows, outputs, K, half, BLOCK_M, BLOCK_N, BLOCK_K, PACKED, EVEN, HARDWARE)
        large = scaled(sums, outlier_zero, totals, outlier_scale, row, inside, PACKED, HAS_ZERO)
    sums = product(codes, weight, rows, outputs, K, half, BLOCK_M, BLOCK_N, BLOCK_K, PACKED, EVEN, HARDWARE)
    result = scaled(sums, zero, totals, scale, row, inside, PACKED, HAS_ZERO)
    if HAS_OUTLIERS:
        result += large
    steps = tl.load(weight_scale + output, mask=there, other=0.0) * (0.0625 if PACKED else 1.0)
    result *= steps[:, None]
    if HAS_BIAS:
        result += tl.load(bias + output, mask=there, other=0.0)[:, None]
    # exponentials are for tiles that need them
    if ACTIVATION != "" and tl.max(output, 0) >= activated_from:
        result = tl.where(output[:, None] < activated_from, result, activated(result, ACTIVATION))
    place = y + row[None, :] * N + output[:, None]
    tl.store(place, result.to(y.dtype.element_ty), mask=inside[None, :] & there[:, None])
