"""One program walks one window of one image: the list stays in registers, every row is read once and written once."""

from __future__ import annotations

import triton
import triton.language as tl


@triton.jit
def reach_below_above(bits, keep, SIGNED: tl.constexpr):
    """How far the kept values, given as bits, reach below and above 0; max |x| twice if SIGNED; NaN where there is one.

    Bits of floats that are not negative are ordered as the floats are, with NaN above everything.
    """
    if SIGNED:
        most = tl.max(bits & keep & 0x7FFFFFFF, 0).to(tl.float32, bitcast=True)
        return most, most
    # flipping the sign makes positive values negative numbers, which lose against 0
    down = tl.max(tl.maximum(bits & keep ^ (keep & -2147483648), 0), 0).to(tl.float32, bitcast=True)
    return down, tl.max(tl.maximum(bits & keep, 0), 0).to(tl.float32, bitcast=True)


@triton.jit
def threshold(size, keep, KAPPA: tl.constexpr):
    """mean + KAPPA std of what is kept, in float64; infinite for fewer than two. size is 0 where it is not kept."""
    count = -tl.sum(keep, 0)
    wide = size.to(tl.float64)
    mean = tl.sum(wide, 0) / tl.maximum(count, 1)
    gap = ((wide - mean).to(tl.int64, bitcast=True) & keep.to(tl.int64)).to(tl.float64, bitcast=True)
    bound = mean + KAPPA * tl.sqrt(tl.sum(gap * gap, 0) / tl.maximum(count - 1, 1))
    return tl.where(count > 1, bound, float("inf"))


@triton.jit
def code_of(x, low, high, step, inverse, FUSED: tl.constexpr):
    """round(x / step), half to even, of x held within low..high: int32, of which the lowest byte is the code.

    The quotient is rounded as IEEE does, in FUSED by one correction with its exact remainder, which only a true fused
    multiply-add has; inverse is 1 / step, and x at most 256 steps.
    """
    if FUSED:
        x = tl.clamp(x, low, high)
        near = x * inverse
        ratio = tl.fma(tl.fma(-near, step, x), inverse, near)
    else:
        # what takes NaN for a number in hardware passes it on in the interpreter
        ratio = tl.clamp(tl.where(x == x, x, 0.0), low, high) / step
    # around 1.5 * 2^23 float32 numbers are whole
    return (ratio + 12582912.0).to(tl.int32, bitcast=True)


@triton.jit
def quantize_window(
    x,
    scale,
    zero,
    theta,
    codes,
    row_scale,
    row_zero,
    outliers,
    outlier_scale,
    outlier_zero,
    joined,
    L,
    C,
    windows,
    BLOCK: tl.constexpr,
    REFRESH: tl.constexpr,
    HIGH: tl.constexpr,
    OUTLIER_HIGH: tl.constexpr,
    KAPPA: tl.constexpr,
    SIGNED: tl.constexpr,
    HAS_THETA: tl.constexpr,
    GRID: tl.constexpr,
    REVERSE: tl.constexpr,
    FUSED: tl.constexpr,
):
    """See `op.quantize_outliers`. OUTLIER_HIGH 0: outliers are left to the caller. BLOCK >= C."""
    LEVELS: tl.constexpr = HIGH + 0.0 if SIGNED else 2.0 * HIGH + 1.0
    OUTLIER_LEVELS: tl.constexpr = OUTLIER_HIGH + 0.0 if SIGNED else 2.0 * OUTLIER_HIGH + 1.0
    window = tl.program_id(0)
    batch = tl.program_id(1).to(tl.int64)
    channel = tl.arange(0, BLOCK)
    inside = channel < C
    # all bits of a channel that is not listed, none of one that is, or lies beyond C
    keep = tl.where(inside, -1, 0)
    # for how many steps a channel was not listed
    phase = tl.zeros((BLOCK,), tl.int32)
    begin = window * REFRESH
    steps = tl.minimum(REFRESH, L - begin)
    row = batch * L + (L - 1 - begin if REVERSE else begin)
    to_next = -1 if REVERSE else 1
    upcoming = tl.load(x + row * C + channel, mask=inside, other=0.0)
    for i in range(0, steps):
        now = upcoming.to(tl.float32)
        # the next row is under way while this one is worked on
        upcoming = tl.load(x + (row + to_next) * C + channel, mask=inside & (i + 1 < steps), other=0.0)
        step = tl.load(scale + begin + i)

        bits = now.to(tl.int32, bitcast=True)
        down, up = reach_below_above(bits, keep, SIGNED)
        # a NaN makes the comparison false: nobody joins
        if (down if SIGNED else down + up) > step * LEVELS:
            size = (bits & keep & 0x7FFFFFFF).to(tl.float32, bitcast=True)
            if HAS_THETA:
                joins = size > tl.load(theta + begin + i)
            else:
                joins = size.to(tl.float64) > threshold(size, keep, KAPPA)
            keep = tl.where(joins, 0, keep)
        phase -= keep
        below, above = reach_below_above(bits, ~keep, SIGNED)
        # NaN is larger than anything
        most = tl.maximum(
            tl.maximum(down.to(tl.int32, bitcast=True), up.to(tl.int32, bitcast=True)),
            tl.maximum(below.to(tl.int32, bitcast=True), above.to(tl.int32, bitcast=True)),
        )
        known = most <= 0x7F800000
        if OUTLIER_HIGH > 0:
            own = tl.div_rn(above if SIGNED else below + above, OUTLIER_LEVELS)
        else:
            own = step
        finite = known & (own < float("inf"))
        place = row * C + channel
        if GRID:
            # one step for both: the inliers', unless outliers would not fit a byte of it
            own = tl.maximum(own, step)
            tl.store(row_scale + row, tl.where(finite, own, float("nan")))
            own = tl.where(finite, own, 1.0)
            edge = tl.where(
                keep == 0, tl.where(finite, OUTLIER_LEVELS * own, 0.0), tl.where(finite, LEVELS * step, 0.0)
            )
            code = code_of(now, -edge, edge, own, tl.div_rn(1.0, own), FUSED)
            tl.store(codes + place, code.to(tl.int8), mask=inside)
        else:
            own = tl.where(finite & (own > 0.0), own, 1.0)
            tl.store(row_scale + row, tl.where(known, step, float("nan")))
            if OUTLIER_HIGH > 0:
                tl.store(outlier_scale + row, tl.where(finite, own, float("nan")))
            # with a step whose inverse overflows, all is lifted; powers of two are exact
            lift = tl.where(own < 5.4e-20, 18446744073709551616.0, 1.0)
            now *= lift
            step *= lift
            own *= lift
            divisor = tl.where(keep == 0, own, step)
            inverse = tl.where(keep == 0, tl.div_rn(1.0, own), tl.div_rn(1.0, step))
            # between ends that are 0, everything has the code 0
            some = tl.where(known, step, 0.0)
            own_some = tl.where(finite, own, 0.0)
            if SIGNED:
                edge = tl.where(keep == 0, OUTLIER_LEVELS * own_some, LEVELS * some)
                code = code_of(now, -edge, edge, divisor, inverse, FUSED)
                inlier = code & keep
                outlier = code & ~keep
            else:
                # zero points, lowered so that codes fit a byte
                before = tl.load(zero + begin + i)
                own_before = (tl.div_rn(below * lift, own) + 12582912.0) - 12582912.0
                own_before = tl.where(finite, own_before, 0.0)
                origin = before.to(tl.int32) - (HIGH + 1)
                own_origin = own_before.to(tl.int32) - (OUTLIER_HIGH + 1)
                low = tl.where(keep == 0, -own_before * own_some, -before * some)
                high = tl.where(keep == 0, (OUTLIER_LEVELS - own_before) * own_some, (LEVELS - before) * some)
                code = code_of(now, low, high, divisor, inverse, FUSED)
                inlier = tl.where(keep == 0, origin, code + tl.where(known, origin, 0))
                outlier = tl.where(keep == 0, code + tl.where(finite, own_origin, 0), own_origin)
                tl.store(row_zero + row, origin)
                if OUTLIER_HIGH > 0:
                    tl.store(outlier_zero + row, own_origin)
            tl.store(codes + place, inlier.to(tl.int8), mask=inside)
            if OUTLIER_HIGH > 0:
                tl.store(outliers + place, outlier.to(tl.int8), mask=inside)
        row += to_next
    phase = tl.where(keep == 0, phase, REFRESH)
    tl.store(joined + (batch * windows + window) * C + channel, phase.to(tl.int8), mask=inside)
