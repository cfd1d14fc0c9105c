"""One program takes one row: sum with the residual, its norm and its codes without going back to memory."""

from __future__ import annotations

import triton
import triton.language as tl

from ouro.kernels.outlier_quantizer.kernel import code_of


@triton.jit
def norm_row(
    x,
    residual,
    weight,
    bias,
    scale,
    zero,
    total,
    normed,
    codes,
    row_scale,
    row_zero,
    C,
    steps,
    eps,
    BLOCK: tl.constexpr,
    HIGH: tl.constexpr,
    LAYER: tl.constexpr,
    CONSTANT: tl.constexpr,
    SIGNED: tl.constexpr,
    STATIC: tl.constexpr,
    HAS_RESIDUAL: tl.constexpr,
    HAS_BIAS: tl.constexpr,
    FUSED: tl.constexpr,
):
    """See `op.norm_quantize`. HIGH 0: floats instead of codes. BLOCK >= C; row r has static step r % steps."""
    row = tl.program_id(0)
    channel = tl.arange(0, BLOCK)
    inside = channel < C
    start = row.to(tl.int64) * C
    value = tl.load(x + start + channel, mask=inside, other=0.0).to(tl.float32)
    if HAS_RESIDUAL:
        value += tl.load(residual + start + channel, mask=inside, other=0.0).to(tl.float32)
    tl.store(total + start + channel, value.to(total.dtype.element_ty), mask=inside)
    if LAYER:
        mean = tl.sum(value, 0) / C
        value = tl.where(inside, value - mean, 0.0)
        # false where the mean is NaN, which so stays in the row
        value = tl.where(tl.max(tl.abs(value), 0) <= CONSTANT * tl.abs(mean), 0.0, value)
    value *= 1.0 / tl.sqrt(tl.sum(value * value, 0) / C + eps)
    value *= tl.load(weight + channel, mask=inside, other=0.0).to(tl.float32)
    if HAS_BIAS:
        value += tl.load(bias + channel, mask=inside, other=0.0).to(tl.float32)
    if HIGH == 0:
        tl.store(normed + start + channel, value.to(normed.dtype.element_ty), mask=inside)
    else:
        levels = HIGH + 0.0 if SIGNED else 2.0 * HIGH + 1.0
        bits = value.to(tl.int32, bitcast=True)
        # bits of floats that are not negative are ordered as the floats are, with NaN above infinity
        largest = tl.max(bits & 0x7FFFFFFF, 0)
        known = largest < 0x7F800000
        if STATIC:
            step = tl.load(scale + row % steps)
        elif SIGNED:
            step = tl.div_rn(largest.to(tl.float32, bitcast=True), levels)
        else:
            down = tl.max(tl.maximum(bits ^ -2147483648, 0), 0).to(tl.float32, bitcast=True)
            up = tl.max(tl.maximum(bits, 0), 0).to(tl.float32, bitcast=True)
            step = tl.div_rn(down + up, levels)
        if not STATIC:
            # a step whose inverse overflows belongs to a row that is next to nothing
            step = tl.where(known & (step > 1e-37), step, 1.0)
        some = tl.where(known, step, 0.0)
        if SIGNED:
            edge = levels * some
            code = code_of(value, -edge, edge, step, tl.div_rn(1.0, step), FUSED)
        else:
            if STATIC:
                before = tl.load(zero + row % steps)
            else:
                before = tl.where(known, (tl.div_rn(down, step) + 12582912.0) - 12582912.0, 0.0)
            origin = before.to(tl.int32) - (HIGH + 1)
            code = code_of(value, -before * some, (levels - before) * some, step, tl.div_rn(1.0, step), FUSED)
            code += tl.where(known, origin, 0)
            tl.store(row_zero + row, origin)
        tl.store(codes + start + channel, code.to(tl.int8), mask=inside)
        tl.store(row_scale + row, tl.where(known, step, float("nan")))
