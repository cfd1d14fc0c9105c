"""The selective scan compiled for CPUs with numba: fused forward and hand-written backward.

A task takes LANES channels of one sample and walks the states one by one: for each n it fills a [l, LANES] tile of
decays, runs the recurrence down the tile and adds C_n h_n to y. Every loop over lanes has a constant trip count, so
LLVM vectorizes it whatever N is, and the scratch of a task ([l, LANES], a few tiles) stays in cache: nothing of size
b e l n is ever stored. The backward recomputes the tiles. What is rounded inside the recurrence is rounded tile by
tile, by kernels of their own. The exponential is a Cody-Waite reduction with a degree-6 polynomial (`max_exp_ulp`
measures it). Kernels are compiled on first use and cached on disk. Sums over channels run in blocks of LANES, so that
a sample's result depends neither on its batch-mates nor on the number of threads.
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
from numba.extending import intrinsic
from torch import Tensor

from ouro.scan.companding import bounds, levels
from ouro.scan.order import raster_steps
from ouro.types import Companding, PatchWindow, ScanInputs, ScanOutput, ScanRounding, StateQuantizer

LANES = 64
"""Channels that move together. Several registers' worth: the recurrence waits for its own result at every step, and
independent lanes fill the wait (16 and 64 lanes: 17 and 11 ms forward + backward at b=8, E=384, L=197)."""

# reductions may be reassociated and contracted to FMAs; NaN and infinity keep their meaning
FAST = {"reassoc", "contract", "nsz", "arcp"}
# the exponential must not be reassociated: that would undo its two-part reduction
STRICT = {"contract"}

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


@njit(inline="always")
def exp32(x):
    """exp(x) for float32 x <= 0, clamped below at -87 (1.6e-38); inlined, so that the caller's loop vectorizes."""
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


@njit(inline="always")
def exp64(x):
    """exp(x) for float64 x."""
    return np.exp(x)


@njit(fastmath=STRICT, error_model="numpy")
def decays32(delta, a, out):
    """out[t, c] = exp(delta[t, c] a[c]) for float32 tiles [l, LANES]."""
    for t in range(out.shape[0]):
        for c in range(LANES):
            out[t, c] = exp32(delta[t, c] * a[c])


@njit(fastmath=STRICT, error_model="numpy")
def decays64(delta, a, out):
    """out[t, c] = exp(delta[t, c] a[c]) for float64 tiles [l, LANES]."""
    for t in range(out.shape[0]):
        for c in range(LANES):
            out[t, c] = exp64(delta[t, c] * a[c])


def max_exp_ulp(samples: int = 1_000_000, seed: int = 0) -> float:
    """Largest error of `exp32` in units in the last place, over uniform samples of [-87, 0]."""
    x = -(np.random.default_rng(seed).random((samples // LANES, LANES)) * 87).astype(np.float32)
    out = np.empty_like(x)
    decays32(x, np.ones(LANES, np.float32), out)
    exact = np.exp(x.astype(np.float64))
    return float(np.max(np.abs(out - exact) / np.spacing(exact.astype(np.float32))))


@njit(fastmath=FAST, error_model="numpy")
def load_tile(source, first, count, out):
    """Copies channels first .. first + count of source [l e] into a tile; the other lanes are zero."""
    for t in range(out.shape[0]):
        for c in range(count):
            out[t, c] = source[t, first + c]
        for c in range(count, LANES):
            out[t, c] = 0


@njit(fastmath=FAST, error_model="numpy")
def _recur(decay, x, b, states):
    """states[t + 1] = decay[t] states[t] + b[t] x[t], down the tile."""
    for t in range(decay.shape[0]):
        bt = b[t]
        for c in range(LANES):
            states[t + 1, c] = decay[t, c] * states[t, c] + bt * x[t, c]


@njit(fastmath=STRICT, error_model="numpy")
def _recur_rounded(decay, x, b, step, lane_step, limit, states, carried):
    """As `_recur`, but what is carried on is the rounded state; states[t + 1] keeps the unrounded one."""
    one = limit / limit
    for t in range(decay.shape[0]):
        bt = b[t]
        for c in range(LANES):
            new = decay[t, c] * carried[t, c] + bt * x[t, c]
            states[t + 1, c] = new
            scale = step[t] * lane_step[c]
            carried[t + 1, c] = min(max(_round_half_even(new / scale), -limit), limit - one) * scale


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


@njit(fastmath=STRICT, error_model="numpy")
def _compand(x, rule, out):
    """out = `ouro.scan.companding.compand` of a tile of one state, maybe in place; for `rule` see `_rule_by_state`."""
    low, high, top, power, signed = rule[0], rule[1], rule[2], int(rule[3]), rule[4] > 0
    one = top / top
    zero = one - one
    third = one / (one + one + one)
    span = high if signed else high - low
    if not span > zero:
        out[:] = zero if signed else high
        return
    v = np.empty(LANES, out.dtype)
    fraction = np.empty(LANES, out.dtype)
    # kept apart: a loop that reads x and writes out does not vectorize where the two are one tile
    sign = np.empty(LANES, out.dtype)
    for t in range(out.shape[0]):
        for c in range(LANES):
            sign[c] = -one if x[t, c] < zero else one
        for c in range(LANES):
            distance = (abs(x[t, c]) if signed else high - x[t, c]) / span
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
                out[t, c] = sign[c] * high * fraction[c]
        else:
            for c in range(LANES):
                out[t, c] = high - span * fraction[c]


@njit(fastmath=STRICT, error_model="numpy")
def _drive(delta, b, rule, u, B_bar, out):
    """B_bar = delta b, rounded, and out = B_bar u, tiles [l, LANES]."""
    for t in range(out.shape[0]):
        bt = b[t]
        for c in range(LANES):
            B_bar[t, c] = delta[t, c] * bt
    _compand(B_bar, rule, B_bar)
    for t in range(out.shape[0]):
        for c in range(LANES):
            out[t, c] = B_bar[t, c] * u[t, c]


@njit(fastmath=FAST, error_model="numpy")
def box_tile(grid, height, width, half, scratch, out):
    """out[r, c] = sum of grid over the window of half-width `half` around cell (r, c); tiles [h w, LANES]."""
    for row in range(height):
        for col in range(width):
            p = row * width + col
            for c in range(LANES):
                scratch[p, c] = 0
            for k in range(max(0, col - half), min(width, col + half + 1)):
                for c in range(LANES):
                    scratch[p, c] += grid[row * width + k, c]
    for row in range(height):
        for p in range(row * width, (row + 1) * width):
            for c in range(LANES):
                out[p, c] = 0
        for k in range(max(0, row - half), min(height, row + half + 1)):
            for col in range(width):
                for c in range(LANES):
                    out[row * width + col, c] += scratch[k * width + col, c]


@cache
def _kernels(dtype: str, KEEP: bool, QUANT: bool, WINDOW: bool, ROUND_A: bool, ROUND_B: bool) -> SimpleNamespace:
    """Forward and backward for one dtype and one set of options; u, delta and gradients come as [b l e] views."""
    # a flag and not the function: as a cell variable a compiled function makes numba's key new in every process
    DOUBLE = dtype == "float64"
    real = np.float64 if dtype == "float64" else np.float32

    @njit(fastmath=FAST, error_model="numpy", parallel=True, cache=True)
    def forward(
        u, delta, A, B, C, D, step, channel, state, limit, rule_A, rule_B, weights, steps, half, height, width,
        y, h, y_p,
    ):  # fmt: skip
        batch, L, channels = u.shape
        groups, N = B.shape[1], A.shape[1]
        per_group = channels // groups
        tiles = (per_group + LANES - 1) // LANES
        cells = height * width
        for task in prange(batch * groups * tiles):
            b = task // (groups * tiles)
            g = task // tiles % groups
            first = g * per_group + task % tiles * LANES
            count = min(LANES, (g + 1) * per_group - first)
            dt = np.empty((L, LANES), real)
            x = np.empty((L, LANES), real)
            total = np.empty((L, LANES), real)
            decay = np.empty((L, LANES), real)
            states = np.zeros((L + 1, LANES), real)
            carried = np.zeros((L + 1 if QUANT else 1, LANES), real)
            B_bar = np.empty((L if ROUND_B else 0, LANES), real)
            # what enters the state is matrix[t] drive[t]: B and u delta, or ones and B_bar u where B_bar is rounded
            drive = np.empty((L, LANES), real) if ROUND_B else x
            ones = np.ones(L if ROUND_B else 0, real)
            lane = np.zeros(LANES, real)
            lane_step = np.ones(LANES, real)
            grid = np.empty((cells, LANES), real)
            scratch = np.empty((cells, LANES), real)
            h_p = np.empty((cells, LANES), real)
            total_p = np.zeros((cells, LANES), real)
            load_tile(delta[b], first, count, dt)
            load_tile(u[b], first, count, x)
            for c in range(count):
                lane[c] = D[first + c]
            for t in range(L):
                for c in range(LANES):
                    total[t, c] = lane[c] * x[t, c]
                    if not ROUND_B:
                        x[t, c] *= dt[t, c]
            for n in range(N):
                for c in range(count):
                    lane[c] = A[first + c, n]
                if DOUBLE:
                    decays64(dt, lane, decay)
                else:
                    decays32(dt, lane, decay)
                if ROUND_A:
                    _compand(decay, rule_A[n], decay)
                if ROUND_B:
                    _drive(dt, B[b, g, n], rule_B[n], x, B_bar, drive)
                    matrix = ones
                else:
                    matrix = B[b, g, n]
                if QUANT:
                    for c in range(count):
                        lane_step[c] = channel[first + c] * state[n]
                    _recur_rounded(decay, drive, matrix, step, lane_step, limit, states, carried)
                else:
                    _recur(decay, drive, matrix, states)
                for t in range(L):
                    Ct = C[b, g, n, t]
                    for c in range(LANES):
                        total[t, c] += Ct * states[t + 1, c]
                if KEEP:
                    for t in range(L):
                        for c in range(count):
                            h[b, n, t, first + c] = states[t + 1, c]
                if WINDOW:
                    for p in range(cells):
                        w = weights[b, steps[p]]
                        for c in range(LANES):
                            grid[p, c] = w * states[steps[p] + 1, c]
                    box_tile(grid, height, width, half, scratch, h_p)
                    for p in range(cells):
                        Ct = C[b, g, n, steps[p]]
                        for c in range(LANES):
                            total_p[p, c] += Ct * h_p[p, c]
            for t in range(L):
                for c in range(count):
                    y[b, t, first + c] = total[t, c]
            if WINDOW:
                for p in range(cells):
                    for c in range(count):
                        y_p[b, p, first + c] = total_p[p, c]

    @njit(fastmath=FAST, error_model="numpy", parallel=True, cache=True)
    def backward(
        u, delta, A, B, C, D, step, channel, state, limit, rule_A, rule_B, weights, steps, half, height, width,
        dy, dy_p, du, ddelta, dA, dB, dC, dD, dweights,
    ):  # fmt: skip
        batch, L, channels = u.shape
        groups, N = B.shape[1], A.shape[1]
        per_group = channels // groups
        blocks = dB.shape[2]
        cells = height * width
        for task in prange(batch * groups * blocks):
            b = task // (groups * blocks)
            g = task // blocks % groups
            k = task % blocks
            first = g * per_group + k * LANES
            dt = np.empty((L, LANES), real)
            ut = np.empty((L, LANES), real)
            x = np.empty((L, LANES), real)
            gy = np.empty((L, LANES), real)
            gy_p = np.empty((cells, LANES), real)
            decay = np.empty((L, LANES), real)
            states = np.zeros((L + 1, LANES), real)
            # what entered the next step: the states themselves, or their rounded copy
            carried = np.zeros((L + 1, LANES), real) if QUANT else states
            A_bar = np.empty((L, LANES), real) if ROUND_A else decay
            B_bar = np.empty((L if ROUND_B else 0, LANES), real)
            drive = np.empty((L, LANES), real) if ROUND_B else x
            ones = np.ones(L if ROUND_B else 0, real)
            into_B_bar = np.zeros((L if ROUND_B else 0, LANES), real)
            into_decay = np.empty((L, LANES), real)
            into_drive = np.empty((L, LANES), real)
            from_window = np.zeros((L, LANES), real)
            grad = np.empty(LANES, real)
            lane = np.zeros(LANES, real)
            lane_step = np.ones(LANES, real)
            grid = np.empty((cells, LANES), real)
            scratch = np.empty((cells, LANES), real)
            out = np.empty((cells, LANES), real)
            count = min(LANES, (g + 1) * per_group - first)
            load_tile(delta[b], first, count, dt)
            load_tile(u[b], first, count, ut)
            load_tile(dy[b], first, count, gy)
            if WINDOW:
                load_tile(dy_p[b], first, count, gy_p)
            for t in range(L):
                for c in range(LANES):
                    x[t, c] = ut[t, c] * dt[t, c]
                    into_decay[t, c] = 0
                    into_drive[t, c] = 0
            for n in range(N):
                for c in range(count):
                    lane[c] = A[first + c, n]
                if DOUBLE:
                    decays64(dt, lane, decay)
                else:
                    decays32(dt, lane, decay)
                if ROUND_A:
                    _compand(decay, rule_A[n], A_bar)
                if ROUND_B:
                    _drive(dt, B[b, g, n], rule_B[n], ut, B_bar, drive)
                    matrix = ones
                else:
                    matrix = B[b, g, n]
                if QUANT:
                    for c in range(count):
                        lane_step[c] = channel[first + c] * state[n]
                    _recur_rounded(A_bar, drive, matrix, step, lane_step, limit, states, carried)
                else:
                    _recur(A_bar, drive, matrix, states)
                if WINDOW:
                    for p in range(cells):
                        w = weights[b, steps[p]]
                        for c in range(LANES):
                            grid[p, c] = w * states[steps[p] + 1, c]
                    box_tile(grid, height, width, half, scratch, out)
                    for p in range(cells):
                        t = steps[p]
                        dot = real(0)
                        Ct = C[b, g, n, t]
                        for c in range(LANES):
                            dot += gy_p[p, c] * out[p, c]
                            grid[p, c] = gy_p[p, c] * Ct
                        dC[b, g, k, n, t] += dot
                    box_tile(grid, height, width, half, scratch, out)
                    for p in range(cells):
                        t = steps[p]
                        w = weights[b, t]
                        dot = real(0)
                        for c in range(LANES):
                            dot += states[t + 1, c] * out[p, c]
                            from_window[t, c] = w * out[p, c]
                        dweights[b, g, k, t] += dot
                for c in range(LANES):
                    grad[c] = 0
                for i in range(L):
                    t = L - 1 - i
                    Bt = B[b, g, n, t]
                    Ct = C[b, g, n, t]
                    to_B = real(0)
                    to_C = real(0)
                    for c in range(LANES):
                        new = grad[c]
                        if QUANT:
                            # straight through, but not where rounding clipped
                            scale = step[t] * lane_step[c]
                            inside = -limit * scale <= states[t + 1, c] <= (limit - real(1)) * scale
                            new = new if inside else real(0)
                        new += gy[t, c] * Ct
                        if WINDOW:
                            new += from_window[t, c]
                        to_C += gy[t, c] * states[t + 1, c]
                        if ROUND_B:
                            inside = rule_B[n, 0] <= dt[t, c] * Bt <= rule_B[n, 1]
                            kept = new if inside else real(0)
                            to_B += kept * x[t, c]
                            into_B_bar[t, c] += kept * Bt
                            into_drive[t, c] += new * B_bar[t, c]
                        else:
                            to_B += new * x[t, c]
                            into_drive[t, c] += new * Bt
                        passed = new * A_bar[t, c]
                        grad[c] = passed
                        # d exp(delta a) = exp(delta a) (a d delta + delta d a): with the exact decay
                        if ROUND_A:
                            inside = rule_A[n, 0] <= decay[t, c] <= rule_A[n, 1]
                            passed = new * decay[t, c] if inside else real(0)
                        decay[t, c] = passed * carried[t, c]
                    dB[b, g, k, n, t] += to_B
                    dC[b, g, k, n, t] += to_C
                for c in range(LANES):
                    grad[c] = 0
                for t in range(L):
                    for c in range(LANES):
                        into_decay[t, c] += decay[t, c] * lane[c]
                        grad[c] += decay[t, c] * dt[t, c]
                for c in range(count):
                    dA[b, n, first + c] = grad[c]
            for c in range(LANES):
                lane[c] = 0
                grad[c] = 0
            for c in range(count):
                lane[c] = D[first + c]
            for t in range(L):
                for c in range(LANES):
                    grad[c] += gy[t, c] * ut[t, c]
                    if ROUND_B:
                        into_decay[t, c] += into_B_bar[t, c] * ut[t, c]
                        into_drive[t, c] += gy[t, c] * lane[c]
                    else:
                        into_decay[t, c] += into_drive[t, c] * ut[t, c]
                        into_drive[t, c] = into_drive[t, c] * dt[t, c] + gy[t, c] * lane[c]
            for t in range(L):
                for c in range(count):
                    ddelta[b, t, first + c] = into_decay[t, c]
                    du[b, t, first + c] = into_drive[t, c]
            for c in range(count):
                dD[b, first + c] = grad[c]

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
    """step [l], channel [e], state [n] and half the number of codes; empty without a rule."""
    real = np.dtype(str(dtype).removeprefix("torch."))
    if rule is None:
        return [np.empty(0, real)] * 3 + [real.type(0)]
    return [
        as_array(rule.step.expand(L), dtype),
        np.ones(channels, real) if rule.channel is None else as_array(rule.channel, dtype),
        np.ones(N, real) if rule.state is None else as_array(rule.state, dtype),
        real.type(2 ** (rule.bits - 1)),
    ]


def _rule_by_state(rule: Companding | None, N: int, dtype: torch.dtype) -> np.ndarray:
    """[n 5]: low, high, steps from one to the other, power, whether signed; empty without a rule."""
    if rule is None:
        return as_array(torch.zeros(0, 5), dtype)
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
        arrays += [as_array(x, dtype) for x in (A, _grouped(B), _grouped(C))]
        arrays.append(np.zeros(channels, real) if D is None else as_array(D, dtype))
        arrays += _state_rule(rounding.h, channels, L, N, dtype)
        arrays += [_rule_by_state(rule, N, dtype) for rule in (rounding.A_bar, rounding.B_bar)]
        height, width = (0, 0) if window is None else window.order.grid
        if window is None:
            arrays += [np.empty((0, 0), real), np.empty(0, np.int64), 0, height, width]
        else:
            arrays += [as_array(weights, dtype), raster_steps(window.order).numpy(), window.size // 2, height, width]
        rounded = [rule is not None for rule in (rounding.h, rounding.A_bar, rounding.B_bar)]
        kernels = _kernels(real.name, keep_states, rounded[0], window is not None, *rounded[1:])
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
        groups, N = B.shape[1], A.shape[1]
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
        numba.set_num_threads(min(torch.get_num_threads(), numba.config.NUMBA_NUM_THREADS))
        if not kernel.signatures:
            # one compilation serves every memory order of what is [b l e]
            kernel.compile(tuple(_any_order(numba.typeof(x)) for x in arrays))
            kernel.disable_compile()
        kernel(*arrays)


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
