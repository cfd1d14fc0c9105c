"""The selective scan compiled for CPUs with numba: fused forward and hand-written backward.

A task takes LANES channels of one sample and walks the states one by one: for each n it runs the recurrence down a tile
[l, LANES], exponential and read-out in the same pass, with the state itself in registers. The scratch of a task (a few
tiles) stays in cache: nothing of size b e l n is ever stored. The backward recomputes decays and states, then walks
back. Every loop over lanes has a constant trip count and works on arrays known not to overlap (`distinct`), so LLVM
vectorizes it whatever N is. What is rounded inside the recurrence is rounded tile by tile, by kernels of their own. The
exponential is a Cody-Waite reduction with a degree-6 polynomial (`max_exp_ulp` measures it). Kernels are compiled on
first use and cached on disk. Sums over channels run in blocks of LANES and in a fixed order, so that a sample's result
depends neither on its batch-mates, nor on the number of threads, nor on which process compiled the kernel. One file for
all of it: numba renews a kernel on disk when the kernel's own file changes, not when one that it calls into does.
"""

from __future__ import annotations

from functools import cache
from threading import Lock
from types import SimpleNamespace
from typing import Any

import numba
import numpy as np
import torch
from llvmlite import ir
from numba import njit, prange
from numba.core import types as nb_types
from numba.extending import intrinsic, overload
from torch import Tensor

from ouro.scan.companding import bounds, levels
from ouro.scan.order import raster_steps
from ouro.types import Companding, PatchWindow, ScanInputs, ScanOutput, ScanRounding, StateQuantizer

LANES = 64
"""Channels that move together. Several registers' worth: the recurrence waits for its own result at every step, and
independent lanes fill the wait."""
CACHE_LINE = 64
"""Bytes."""

# products and sums may become FMAs, but keep their order (see `sum_of`); NaN and infinity keep their meaning
FAST = {"contract", "nsz", "arcp"}
# the exponential, and what is rounded to codes: a reciprocal in place of a division may choose another code
STRICT = {"contract"}
# what only compiled code calls needs no entrance for Python, which would be compiled with it
INNER = {"error_model": "numpy", "no_cpython_wrapper": True, "no_cfunc_wrapper": True}

# numba's thread pool must not be entered by two threads at once; one kernel uses every core anyway
_ONE_AT_A_TIME = Lock()


@intrinsic
def _float_from_bits(_context, bits):
    """Reinterprets an int32 as float32."""

    def codegen(_context, builder, _signature, args):
        return builder.bitcast(args[0], ir.FloatType())

    return nb_types.float32(nb_types.int32), codegen


@intrinsic
def _bits_of_float(_context, x):
    """Reinterprets a float32 as int32."""

    def codegen(_context, builder, _signature, args):
        return builder.bitcast(args[0], ir.IntType(32))

    return nb_types.int32(nb_types.float32), codegen


@intrinsic
def _round_half_even(_context, x):
    """rint as an LLVM intrinsic: unlike a library call it vectorizes."""

    def codegen(context, builder, signature, args):
        kind = context.get_value_type(signature.args[0])
        return builder.call(builder.module.declare_intrinsic("llvm.rint", [kind]), args)

    return x(x), codegen


@intrinsic
def distinct(_context):
    """Promises that of the arrays passed to the calling function none overlaps one that is written.

    Otherwise LLVM compares addresses at every row, which takes longer than the row, and keeps nothing in registers from
    one row to the next.
    """

    def codegen(context, builder, _signature, _args):
        for argument in builder.function.args:
            if isinstance(argument.type, ir.PointerType):
                argument.add_attribute("noalias")
        return context.get_dummy_value()

    return nb_types.void(), codegen


@intrinsic
def sum_of(_context, lanes):
    """The sum of LANES numbers, halves upon halves: an order that no optimizer may change.

    A plain loop's order is LLVM's choice, and it chooses twice: what numba reads back from disk was optimized once more
    than what it has just compiled, so that the first run on a machine would differ from all later ones.
    """

    def codegen(context, builder, signature, args):
        array = context.make_array(signature.args[0])(context, builder, args[0])
        kind = ir.VectorType(context.get_value_type(signature.return_type), LANES)
        vector = builder.load(builder.bitcast(array.data, kind.as_pointer()), align=CACHE_LINE)
        width = LANES
        while width > 1:
            width //= 2
            low, high = (
                builder.shuffle_vector(vector, vector, ir.VectorType(ir.IntType(32), width)(list(places)))
                for places in (range(width), range(width, 2 * width))
            )
            vector = builder.fadd(low, high)
        return builder.extract_element(vector, ir.IntType(32)(0))

    return lanes.dtype(lanes), codegen


@intrinsic
def _dense(_context, row):
    """A row that is contiguous, with a type that says so: only then is a loop over it vectorized."""

    def codegen(context, builder, signature, args):
        context.nrt.incref(builder, signature.return_type, args[0])
        return args[0]

    return row.copy(layout="C")(row), codegen


@njit(fastmath=STRICT, error_model="numpy")
def exp32(x):
    """exp(x) for float32 x <= 0, clamped below at -87 (1.6e-38); LLVM inlines it, so that a loop over it vectorizes."""
    x = max(x, np.float32(-87.0))
    k = _round_half_even(x * np.float32(1.4426950408889634))
    r = x - k * np.float32(0.693359375)
    r = r - k * np.float32(-2.12194440e-4)
    p = np.float32(1.9875691500e-4)
    p = p * r + np.float32(1.3981999507e-3)
    p = p * r + np.float32(8.3334519073e-3)
    p = p * r + np.float32(4.1665795894e-2)
    p = p * r + np.float32(1.6666665459e-1)
    p = p * r + np.float32(5.0000001201e-1)
    p = p * r * r + r + np.float32(1.0)
    return p * _float_from_bits((np.int32(k) + np.int32(127)) << np.int32(23))


def _exp(x):
    """exp(x) in the precision of x, inside compiled code only."""


@overload(_exp)
def _exp_in_its_precision(x):
    return (lambda x: exp32(x)) if x == nb_types.float32 else (lambda x: np.exp(x))


@njit(fastmath=STRICT, error_model="numpy")
def decays(delta, a, out):
    """out[t, c] = exp(delta[t, c] a[c]) for tiles [l, LANES]."""
    distinct()
    for t in range(out.shape[0]):
        for c in range(LANES):
            out[t, c] = _exp(delta[t, c] * a[c])


def max_exp_ulp(samples: int = 1_000_000, seed: int = 0) -> float:
    """Largest error of `exp32` in units in the last place, over uniform samples of [-87, 0]."""
    x = -(np.random.default_rng(seed).random((samples // LANES, LANES)) * 87).astype(np.float32)
    out = np.empty_like(x)
    decays(x, np.ones(LANES, np.float32), out)
    exact = np.exp(x.astype(np.float64))
    return float(np.max(np.abs(out - exact) / np.spacing(exact.astype(np.float32))))


@njit(fastmath=FAST, **INNER)
def load_tile(source, first, count, out):
    """Copies channels first .. first + count of source [l e] into a tile; the other lanes are zero."""
    distinct()
    is_dense = source.strides[1] == source.itemsize
    for t in range(out.shape[0]):
        row = source[t, first : first + count]
        if is_dense:
            dense = _dense(row)
            for c in range(count):
                out[t, c] = dense[c]
        else:
            for c in range(count):
                out[t, c] = row[c]
        for c in range(count, LANES):
            out[t, c] = 0


@njit(fastmath=FAST, **INNER)
def _store_tile(tile, first, count, out):
    """Copies the first lanes of a tile to channels first .. first + count of out [l e]."""
    distinct()
    for t in range(tile.shape[0]):
        row = out[t, first : first + count]
        for c in range(count):
            row[c] = tile[t, c]


@njit(fastmath=FAST, **INNER)
def _load_lanes(source, first, count, out):
    """Copies source[first : first + count] into the first lanes; the others stay."""
    distinct()
    part = source[first : first + count]
    for c in range(count):
        out[c] = part[c]


@njit(fastmath=FAST, **INNER)
def _scale_lanes(source, factor, first, count, out):
    """As `_load_lanes`, times a factor; the others become one, so that they can be divided by."""
    distinct()
    part = source[first : first + count]
    for c in range(LANES):
        out[c] = 1
    for c in range(count):
        out[c] = part[c] * factor


@njit(fastmath=FAST, **INNER)
def _store_lanes(lanes, first, count, out):
    """Copies the first lanes to out[first : first + count]."""
    distinct()
    part = out[first : first + count]
    for c in range(count):
        part[c] = lanes[c]


@njit(fastmath=FAST, **INNER)
def _zero(lanes):
    for c in range(LANES):
        lanes[c] = 0


@njit(fastmath=FAST, **INNER)
def tile(rows, like):
    """[rows, LANES] of the type of another array, not yet filled. It starts with a cache line: a vector in two of them
    takes twice as long."""
    size = rows * LANES
    flat = np.empty(size + CACHE_LINE // like.itemsize, like.dtype)
    start = -flat.ctypes.data % CACHE_LINE // like.itemsize
    return flat[start : start + size].reshape(rows, LANES)


@njit(fastmath=FAST, **INNER)
def _zeros(rows, like):
    """As `tile`, filled with zeros."""
    zeros = tile(rows, like)
    for t in range(rows):
        _zero(zeros[t])
    return zeros


@njit(fastmath=FAST, **INNER)
def _product(x, y, out):
    """out = x y, tiles."""
    distinct()
    for t in range(out.shape[0]):
        for c in range(LANES):
            out[t, c] = x[t, c] * y[t, c]


@njit(fastmath=FAST, **INNER)
def _skip(u, D, total):
    """total = D u."""
    distinct()
    for t in range(total.shape[0]):
        for c in range(LANES):
            total[t, c] = D[c] * u[t, c]


@njit(fastmath=FAST, **INNER)
def _advance(delta, x, a, B, C, h, total, states, keep):
    """h = exp(delta[t] a) h + B[t] x[t] and total[t] += C[t] h, step by step; states[t + 1] = h if they are kept."""
    distinct()
    for t in range(delta.shape[0]):
        Bt, Ct = B[t], C[t]
        for c in range(LANES):
            new = _exp(delta[t, c] * a[c]) * h[c] + Bt * x[t, c]
            h[c] = new
            total[t, c] += Ct * new
            if keep:
                states[t + 1, c] = new


@njit(fastmath=FAST, **INNER)
def _replay(delta, x, a, B, h, decay, states):
    """As `_advance`, but nothing is read out, and decays and states are kept."""
    distinct()
    for t in range(delta.shape[0]):
        Bt = B[t]
        for c in range(LANES):
            decay[t, c] = _exp(delta[t, c] * a[c])
            new = decay[t, c] * h[c] + Bt * x[t, c]
            h[c] = new
            states[t + 1, c] = new


@njit(fastmath=FAST, **INNER)
def _reverse(
    delta, x, a, B, C, decay, states, gy, from_window, windowed, to_B, to_C, grad, dA, into_delta, into_x, dB, dC,
):  # fmt: skip
    """The gradients of one state, from the last step to the first; grad is what a step passes to the one before."""
    distinct()
    for i in range(delta.shape[0]):
        t = delta.shape[0] - 1 - i
        Bt, Ct = B[t], C[t]
        for c in range(LANES):
            new = grad[c] + gy[t, c] * Ct
            if windowed:
                new += from_window[t, c]
            to_B[c] = new * x[t, c]
            to_C[c] = gy[t, c] * states[t + 1, c]
            into_x[t, c] += new * Bt
            passed = new * decay[t, c]
            grad[c] = passed
            # d exp(delta a) = exp(delta a) (a d delta + delta d a)
            exponent = passed * states[t, c]
            into_delta[t, c] += exponent * a[c]
            dA[c] += exponent * delta[t, c]
        dB[t] += sum_of(to_B)
        dC[t] += sum_of(to_C)


@njit(fastmath=FAST, **INNER)
def _finish(delta, u, D, gy, into_delta, into_x, dD):
    """Turns the gradient of x = delta u into those of delta and u (in into_x), and adds what D u gets."""
    distinct()
    for t in range(delta.shape[0]):
        for c in range(LANES):
            dD[c] += gy[t, c] * u[t, c]
            into_delta[t, c] += into_x[t, c] * u[t, c]
            into_x[t, c] = into_x[t, c] * delta[t, c] + gy[t, c] * D[c]


@njit(inline="always")
def _cube_root(v, third):
    """v^(1/3) for v in [0, 1], without a division: Newton's rule for v^(-1/3), from a guess at its bits."""
    thirds = np.int32(np.float32(_bits_of_float(np.float32(v))) * np.float32(1 / 3))
    r = (v - v) + _float_from_bits(np.int32(0x54A2FA8C) - thirds)
    four_thirds = third + third + third + third
    for _ in range(4):
        # v first: the other three may overflow where v is zero
        r = r * (four_thirds - third * (v * r * r * r))
    return v * r * r


@njit(fastmath=STRICT, **INNER)
def _compand(tile, rule, lanes):
    """`ouro.scan.companding.compand` of a tile of one state, in place; for `rule` see `_rule_by_state`."""
    distinct()
    low, high, top, power, signed = rule[0], rule[1], rule[2], int(rule[3]), rule[4] > 0
    if top == 0:
        return
    one = top / top
    zero = one - one
    third = one / (one + one + one)
    span = high if signed else high - low
    sign, v, fraction = lanes[0], lanes[1], lanes[2]
    for t in range(tile.shape[0]):
        if not span > zero:
            for c in range(LANES):
                tile[t, c] = zero if signed else high
            continue
        for c in range(LANES):
            sign[c] = -one if tile[t, c] < zero else one
            distance = (abs(tile[t, c]) if signed else high - tile[t, c]) / span
            distance = zero if distance < zero else distance
            v[c] = one if distance > one else distance
        if power == 3:
            for c in range(LANES):
                v[c] = _cube_root(v[c], third)
        else:
            for _ in range(power // 2):
                for c in range(LANES):
                    v[c] = np.sqrt(v[c])
        for c in range(LANES):
            v[c] = _round_half_even(v[c] * top) / top
            fraction[c] = v[c]
        for _ in range(power - 1):
            for c in range(LANES):
                fraction[c] *= v[c]
        if signed:
            for c in range(LANES):
                tile[t, c] = sign[c] * high * fraction[c]
        else:
            for c in range(LANES):
                tile[t, c] = high - span * fraction[c]


@njit(fastmath=STRICT, **INNER)
def _discretize(delta, a, B, decay, A_bar, B_bar):
    """decay = A_bar = exp(delta a) and B_bar = delta B, before what is rounded is rounded."""
    distinct()
    for t in range(delta.shape[0]):
        Bt = B[t]
        for c in range(LANES):
            factor = _exp(delta[t, c] * a[c])
            decay[t, c] = factor
            A_bar[t, c] = factor
            B_bar[t, c] = delta[t, c] * Bt


@njit(fastmath=STRICT, **INNER)
def _recur(A_bar, B_bar, u, step, lane_step, limit, h, states, carried):
    """states[t + 1] = A_bar[t] carried[t] + B_bar[t] u[t], where what is carried on is the rounded state."""
    distinct()
    rounds = limit < np.inf
    one = lane_step.dtype.type(1)
    for t in range(A_bar.shape[0]):
        step_t = step[t]
        for c in range(LANES):
            new = A_bar[t, c] * h[c] + B_bar[t, c] * u[t, c]
            states[t + 1, c] = new
            if rounds:
                scale = step_t * lane_step[c]
                new = min(max(_round_half_even(new / scale), -limit), limit - one) * scale
            carried[t + 1, c] = new
            h[c] = new


@njit(fastmath=FAST, **INNER)
def _read_out(states, C, total):
    """total[t] += C[t] states[t + 1]."""
    distinct()
    for t in range(total.shape[0]):
        Ct = C[t]
        for c in range(LANES):
            total[t, c] += Ct * states[t + 1, c]


@njit(fastmath=FAST, **INNER)
def _reverse_rounded(
    delta, u, a, B, C, decay, A_bar, B_bar, states, carried, step, lane_step, limit, rule_A, rule_B,
    gy, from_window, windowed, to_B, to_C, grad, dA, into_delta, into_u, dB, dC,
):  # fmt: skip
    """As `_reverse`; gradients pass straight through what is rounded, but not where that is clipped."""
    distinct()
    real = u.dtype.type
    A_low, A_high, B_low, B_high = rule_A[0], rule_A[1], rule_B[0], rule_B[1]
    for i in range(delta.shape[0]):
        t = delta.shape[0] - 1 - i
        Bt, Ct, step_t = B[t], C[t], step[t]
        for c in range(LANES):
            scale = step_t * lane_step[c]
            inside = -limit * scale <= states[t + 1, c] <= (limit - real(1)) * scale
            new = (grad[c] if inside else real(0)) + gy[t, c] * Ct
            if windowed:
                new += from_window[t, c]
            to_C[c] = gy[t, c] * states[t + 1, c]
            into_u[t, c] += new * B_bar[t, c]
            kept = new * u[t, c] if B_low <= delta[t, c] * Bt <= B_high else real(0)
            into_delta[t, c] += kept * Bt
            to_B[c] = kept * delta[t, c]
            grad[c] = new * A_bar[t, c]
            # with the exact decay
            kept = new * decay[t, c] if A_low <= decay[t, c] <= A_high else real(0)
            exponent = kept * carried[t, c]
            into_delta[t, c] += exponent * a[c]
            dA[c] += exponent * delta[t, c]
        dB[t] += sum_of(to_B)
        dC[t] += sum_of(to_C)


@njit(fastmath=FAST, **INNER)
def _finish_rounded(u, D, gy, into_u, dD):
    distinct()
    for t in range(u.shape[0]):
        for c in range(LANES):
            dD[c] += gy[t, c] * u[t, c]
            into_u[t, c] += gy[t, c] * D[c]


@njit(fastmath=FAST, **INNER)
def box_tile(grid, height, width, half, scratch, out):
    """out[r, c] = sum of grid over the window of half-width `half` around cell (r, c); tiles [h w, LANES]."""
    distinct()
    for row in range(height):
        start = row * width
        for col in range(width):
            for c in range(LANES):
                scratch[start + col, c] = 0
            for k in range(start + max(0, col - half), start + min(width, col + half + 1)):
                for c in range(LANES):
                    scratch[start + col, c] += grid[k, c]
    for row in range(height):
        for col in range(width):
            p = row * width + col
            for c in range(LANES):
                out[p, c] = 0
            for k in range(max(0, row - half), min(height, row + half + 1)):
                for c in range(LANES):
                    out[p, c] += scratch[k * width + col, c]


@njit(fastmath=FAST, **INNER)
def _weigh(states, steps, weights, grid):
    """grid[p] = w_t h_t, where step t reads cell p."""
    distinct()
    for p in range(grid.shape[0]):
        t = steps[p]
        w = weights[t]
        for c in range(LANES):
            grid[p, c] = w * states[t + 1, c]


@njit(fastmath=FAST, **INNER)
def _read_out_window(h_p, steps, C, total_p):
    """total_p[p] += C_t h_p[p], where step t reads cell p."""
    distinct()
    for p in range(h_p.shape[0]):
        Ct = C[steps[p]]
        for c in range(LANES):
            total_p[p, c] += Ct * h_p[p, c]


@njit(fastmath=FAST, **INNER)
def _reverse_read_out_window(h_p, steps, C, gy_p, products, grid, dC):
    """The gradients of `_read_out_window`; that of h_p goes into grid."""
    distinct()
    for p in range(h_p.shape[0]):
        t = steps[p]
        Ct = C[t]
        for c in range(LANES):
            products[c] = gy_p[p, c] * h_p[p, c]
            grid[p, c] = gy_p[p, c] * Ct
        dC[t] += sum_of(products)


@njit(fastmath=FAST, **INNER)
def _reverse_weigh(grad, states, steps, weights, products, into_states, dweights):
    """The gradients of `_weigh`, given that of its grid."""
    distinct()
    for p in range(grad.shape[0]):
        t = steps[p]
        w = weights[t]
        for c in range(LANES):
            products[c] = states[t + 1, c] * grad[p, c]
            into_states[t, c] = w * grad[p, c]
        dweights[t] += sum_of(products)


@cache
def _kernels(dtype: str, ROUNDED: bool) -> SimpleNamespace:
    """Forward and backward for one dtype, with or without rounding; u, delta and gradients come as [b l e] views."""
    # a flag and not the function: as a cell variable a compiled function makes numba's key new in every process

    @njit(fastmath=FAST, error_model="numpy", parallel=True, cache=True, nogil=True)
    def forward(
        u, delta, A, B, C, D, step, channel, state, limit, rule_A, rule_B, weights, steps, half, height, width,
        y, h, y_p,
    ):  # fmt: skip
        batch, L, channels = u.shape
        groups, N = B.shape[1], A.shape[0]
        per_group = channels // groups
        tiles = (per_group + LANES - 1) // LANES
        cells = height * width
        keep = h.shape[0] > 0
        for task in prange(batch * groups * tiles):
            b = task // (groups * tiles)
            g = task // tiles % groups
            first = g * per_group + task % tiles * LANES
            count = min(LANES, (g + 1) * per_group - first)
            dt, ut, x, total = tile(L, A), tile(L, A), tile(L, A), tile(L, A)
            states = _zeros(L + 1 if keep or cells > 0 or ROUNDED else 1, A)
            grid, scratch, h_p, total_p = tile(cells, A), tile(cells, A), tile(cells, A), _zeros(cells, A)
            # the state at one step, and what else is one number per lane
            lanes = _zeros(6, A)
            carry, lane, lane_step = lanes[0], lanes[1], lanes[2]
            load_tile(delta[b], first, count, dt)
            load_tile(u[b], first, count, ut)
            _load_lanes(D, first, count, lane)
            _skip(ut, lane, total)
            _product(dt, ut, x)
            if ROUNDED:
                A_bar, B_bar, carried = tile(L, A), tile(L, A), _zeros(L + 1, A)
            for n in range(N):
                Bn, Cn = B[b, g, n], C[b, g, n]
                _load_lanes(A[n], first, count, lane)
                _zero(carry)
                if ROUNDED:
                    _scale_lanes(channel, state[n], first, count, lane_step)
                    _discretize(dt, lane, Bn, x, A_bar, B_bar)
                    _compand(A_bar, rule_A[n], lanes[3:])
                    _compand(B_bar, rule_B[n], lanes[3:])
                    _recur(A_bar, B_bar, ut, step, lane_step, limit, carry, states, carried)
                    _read_out(states, Cn, total)
                else:
                    _advance(dt, x, lane, Bn, Cn, carry, total, states, keep or cells > 0)
                if keep:
                    _store_tile(states[1:], first, count, h[b, n])
                if cells > 0:
                    _weigh(states, steps, weights[b], grid)
                    box_tile(grid, height, width, half, scratch, h_p)
                    _read_out_window(h_p, steps, Cn, total_p)
            _store_tile(total, first, count, y[b])
            if cells > 0:
                _store_tile(total_p, first, count, y_p[b])

    @njit(fastmath=FAST, error_model="numpy", parallel=True, cache=True, nogil=True)
    def backward(
        u, delta, A, B, C, D, step, channel, state, limit, rule_A, rule_B, weights, steps, half, height, width,
        dy, dy_p, du, ddelta, dA, dB, dC, dD, dweights,
    ):  # fmt: skip
        batch, L, channels = u.shape
        groups, N = B.shape[1], A.shape[0]
        per_group = channels // groups
        blocks = dB.shape[2]
        cells = height * width
        for task in prange(batch * groups * blocks):
            b = task // (groups * blocks)
            g = task // blocks % groups
            k = task % blocks
            first = g * per_group + k * LANES
            count = min(LANES, (g + 1) * per_group - first)
            dt, ut, x, gy = tile(L, A), tile(L, A), tile(L, A), tile(L, A)
            decay, states = tile(L, A), _zeros(L + 1, A)
            into_delta, into_u = _zeros(L, A), _zeros(L, A)
            gy_p, grid, scratch, h_p = tile(cells, A), tile(cells, A), tile(cells, A), tile(cells, A)
            from_window = _zeros(L if cells > 0 else 0, A)
            lanes = _zeros(9, A)
            carry, lane, lane_step, grad = lanes[0], lanes[1], lanes[2], lanes[3]
            for_B, for_C = lanes[7], lanes[8]
            load_tile(delta[b], first, count, dt)
            load_tile(u[b], first, count, ut)
            load_tile(dy[b], first, count, gy)
            if cells > 0:
                load_tile(dy_p[b], first, count, gy_p)
            if ROUNDED:
                A_bar, B_bar, carried = tile(L, A), tile(L, A), _zeros(L + 1, A)
            else:
                _product(dt, ut, x)
            for n in range(N):
                Bn, Cn, to_B, to_C = B[b, g, n], C[b, g, n], dB[b, g, k, n], dC[b, g, k, n]
                _load_lanes(A[n], first, count, lane)
                _zero(carry)
                if ROUNDED:
                    _scale_lanes(channel, state[n], first, count, lane_step)
                    _discretize(dt, lane, Bn, decay, A_bar, B_bar)
                    _compand(A_bar, rule_A[n], lanes[4:7])
                    _compand(B_bar, rule_B[n], lanes[4:7])
                    _recur(A_bar, B_bar, ut, step, lane_step, limit, carry, states, carried)
                else:
                    _replay(dt, x, lane, Bn, carry, decay, states)
                if cells > 0:
                    _weigh(states, steps, weights[b], grid)
                    box_tile(grid, height, width, half, scratch, h_p)
                    _reverse_read_out_window(h_p, steps, Cn, gy_p, for_C, grid, to_C)
                    box_tile(grid, height, width, half, scratch, h_p)
                    _reverse_weigh(h_p, states, steps, weights[b], for_B, from_window, dweights[b, g, k])
                _zero(carry)
                _zero(grad)
                if ROUNDED:
                    _reverse_rounded(
                        dt, ut, lane, Bn, Cn, decay, A_bar, B_bar, states, carried, step, lane_step, limit,
                        rule_A[n], rule_B[n], gy, from_window, cells > 0, for_B, for_C, carry, grad,
                        into_delta, into_u, to_B, to_C,
                    )  # fmt: skip
                else:
                    _reverse(
                        dt, x, lane, Bn, Cn, decay, states, gy, from_window, cells > 0, for_B, for_C, carry, grad,
                        into_delta, into_u, to_B, to_C,
                    )  # fmt: skip
                _store_lanes(grad, first, count, dA[b, n])
            _zero(lane)
            _zero(grad)
            _load_lanes(D, first, count, lane)
            if ROUNDED:
                _finish_rounded(ut, lane, gy, into_u, grad)
            else:
                _finish(dt, ut, lane, gy, into_delta, into_u, grad)
            _store_tile(into_delta, first, count, ddelta[b])
            _store_tile(into_u, first, count, du[b])
            _store_lanes(grad, first, count, dD[b])

    return SimpleNamespace(forward=forward, backward=backward)


def by_lane(tensor: Tensor, dtype: torch.dtype) -> np.ndarray:
    """[b e l] -> a [b l e] view, whatever the order in memory: kernels copy it tile by tile anyway."""
    return tensor.detach().to(dtype).transpose(1, 2).numpy()


def as_array(tensor: Tensor, dtype: torch.dtype) -> np.ndarray:
    return tensor.detach().to(dtype).contiguous().numpy()


def _grouped(matrix: Tensor) -> Tensor:
    """B or C as [b g n l]."""
    return matrix.unsqueeze(1) if matrix.dim() == 3 else matrix


def _state_rule(rule: StateQuantizer | None, channels: int, L: int, N: int, dtype: torch.dtype) -> list[Any]:
    """step [l], channel [e], state [n] and half the number of codes, infinite without a rule."""
    real = np.dtype(str(dtype).removeprefix("torch."))
    if rule is None:
        return [np.ones(L, real), np.ones(channels, real), np.ones(N, real), real.type(np.inf)]
    return [
        as_array(rule.step.expand(L), dtype),
        np.ones(channels, real) if rule.channel is None else as_array(rule.channel, dtype),
        np.ones(N, real) if rule.state is None else as_array(rule.state, dtype),
        real.type(2 ** (rule.bits - 1)),
    ]


def _rule_by_state(rule: Companding | None, N: int, dtype: torch.dtype) -> np.ndarray:
    """[n 5]: low, high, steps from one to the other, power, whether signed; without a rule, a range without end."""
    if rule is None:
        return np.tile(np.array([-np.inf, np.inf, 0, 1, 0], str(dtype).removeprefix("torch.")), (N, 1))
    low, high = (bound.to(dtype).expand(N) for bound in bounds(rule))
    others = (torch.full((N,), value, dtype=dtype) for value in (levels(rule), rule.power, rule.signed))
    return as_array(torch.stack([low, high, *others], dim=1), dtype)


class _Scan(torch.autograd.Function):
    """Bridges torch and the kernels; the rules of rounding get no gradient here."""

    @staticmethod
    def forward(ctx, u, delta, A, B, C, D, weights, rounding, window, keep_states):
        dtype = torch.float64 if u.dtype == torch.float64 else torch.float32
        batch, channels, L = u.shape
        N = A.shape[1]
        real = np.dtype(str(dtype).removeprefix("torch."))
        arrays: list[Any] = [by_lane(u, dtype), by_lane(delta, dtype)]
        arrays += [as_array(x, dtype) for x in (A.T, _grouped(B), _grouped(C))]
        arrays.append(np.zeros(channels, real) if D is None else as_array(D, dtype))
        arrays += _state_rule(rounding.h, channels, L, N, dtype)
        arrays += [_rule_by_state(rule, N, dtype) for rule in (rounding.A_bar, rounding.B_bar)]
        height, width = (0, 0) if window is None else window.order.grid
        if window is None:
            arrays += [np.empty((0, 0), real), np.empty(0, np.int64), 0, height, width]
        else:
            arrays += [as_array(weights, dtype), raster_steps(window.order).numpy(), window.size // 2, height, width]
        kernels = _kernels(real.name, rounding != ScanRounding())
        y = np.empty((batch, L, channels), real)
        h = np.empty((batch, N, L, channels) if keep_states else (0, 0, 0, 0), real)
        y_p = np.empty((batch, height * width, channels), real)
        run_kernel(kernels.forward, *arrays, y, h, y_p)
        ctx.arrays, ctx.kernels, ctx.is_grouped = arrays, kernels, B.dim() == 4
        ctx.dtypes = [None if x is None else x.dtype for x in (u, delta, A, B, C, D, weights)]
        states = torch.from_numpy(h).permute(0, 3, 2, 1)
        ctx.mark_non_differentiable(states)
        return torch.from_numpy(y).transpose(1, 2), torch.from_numpy(y_p).transpose(1, 2), states

    @staticmethod
    def backward(ctx, dy, dy_p, _):
        u, _, A, B = ctx.arrays[:4]
        batch, L, channels = u.shape
        groups, N = B.shape[1], A.shape[0]
        blocks = -(-(channels // groups) // LANES)
        du, ddelta = np.empty(u.shape, u.dtype), np.empty(u.shape, u.dtype)
        dA, dD = np.empty((batch, N, channels), u.dtype), np.empty((batch, channels), u.dtype)
        dB, dC = (np.zeros((batch, groups, blocks, N, L), u.dtype) for _ in range(2))
        dweights = np.zeros((batch, groups, blocks, L), u.dtype)
        dtype = torch.from_numpy(u).dtype
        run_kernel(
            ctx.kernels.backward, *ctx.arrays, by_lane(dy, dtype), by_lane(dy_p, dtype),
            du, ddelta, dA, dB, dC, dD, dweights,
        )  # fmt: skip
        matrices = [x.sum(2) if ctx.is_grouped else x.sum((1, 2)) for x in (dB, dC)]
        results = [du.swapaxes(1, 2), ddelta.swapaxes(1, 2), dA.sum(0).T, *matrices, dD.sum(0), dweights.sum((1, 2))]
        wanted = zip(results, ctx.dtypes, strict=True)
        return *(None if kind is None else torch.from_numpy(x).to(kind) for x, kind in wanted), None, None, None


def _any_order(kind: nb_types.Type) -> nb_types.Type:
    """The type of a 3-D array without a promise about its strides; any other type as it is."""
    return kind.copy(layout="A") if isinstance(kind, nb_types.Array) and kind.ndim == 3 else kind


def run_kernel(kernel, *arrays) -> None:
    """Calls a kernel with as many threads as torch uses."""
    with _ONE_AT_A_TIME:
        threads = torch.get_num_threads()
        numba.set_num_threads(min(threads, numba.config.NUMBA_NUM_THREADS))
        if not kernel.signatures:
            # one compilation serves every memory order of what is [b l e]
            kernel.compile(tuple(_any_order(numba.typeof(x)) for x in arrays))
            kernel.disable_compile()
        kernel(*arrays)
        if torch.get_num_threads() != threads:
            # numba's pool, when it starts, sets the number of threads that torch goes by
            torch.set_num_threads(threads)


def scan(
    inputs: ScanInputs,
    keep_states: bool = False,
    rounding: ScanRounding | None = None,
    window: PatchWindow | None = None,
) -> ScanOutput:
    """The compiled scan; float64 stays float64, other types are computed in float32. h carries no gradient."""
    u = inputs.u
    y, y_p, h = _Scan.apply(
        u, inputs.delta, inputs.A, inputs.B, inputs.C, inputs.D,
        None if window is None else window.weights, rounding or ScanRounding(), window, keep_states,
    )  # fmt: skip
    return ScanOutput(y.to(u.dtype), h if keep_states else None, None if window is None else y_p.to(u.dtype))
