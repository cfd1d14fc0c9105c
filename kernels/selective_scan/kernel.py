"""Triton code of the selective scan: channels on lanes, all states of a channel in registers, time as a loop.

Memory is channels-last: u, delta, y [b l e], B and C [b g l n] in float32, A [n e] in float32. One program walks the L
steps of BLOCK_E channels of one group of one sample. It reads UNROLL steps before it computes the first of them, so that
their latencies overlap. A's address is not specialized on alignment: that keeps one channel per lane, and the sum over
the states needs no shuffle.
"""

from __future__ import annotations

import triton
import triton.language as tl

LOG2E = tl.constexpr(1.4426950408889634)
LN2 = tl.constexpr(0.6931471805599453)


@triton.jit
def place(E, L, BLOCK_E: tl.constexpr, GROUPS: tl.constexpr):
    """(sample, group, channels of this program, which of them exist), sample and group as int64."""
    size = E // GROUPS
    blocks = tl.cdiv(size, BLOCK_E)
    pid = tl.program_id(0)
    group = pid // blocks % GROUPS
    inside = pid % blocks * BLOCK_E + tl.arange(0, BLOCK_E)
    return (pid // blocks // GROUPS).to(tl.int64), group.to(tl.int64), group * size + inside, inside < size


@triton.jit
def row(pointers, n, N: tl.constexpr, BLOCK_N: tl.constexpr):
    """A row of B or C, zeros beside it; without a mask where none is needed, which saves instructions."""
    if BLOCK_N == N:
        return tl.load(pointers)
    else:
        return tl.load(pointers, mask=n < N, other=0.0)


@triton.jit
def advance(h, A, u, delta, B):
    """h_t [n e] from h_{t-1}; A is in units of ln 2."""
    return tl.exp2(delta[None, :] * A) * h + (delta * u)[None, :] * B[:, None]


@triton.jit(do_not_specialize_on_alignment=["A_ptr", "h_ptr"])
def forward(
    u_ptr, delta_ptr, A_ptr, B_ptr, C_ptr, D_ptr, y_ptr, h_ptr, E, L,
    u_b, u_l, delta_b, delta_l, B_b, B_g, B_l, C_b, C_g, C_l,
    N: tl.constexpr, BLOCK_N: tl.constexpr, BLOCK_E: tl.constexpr, GROUPS: tl.constexpr, VECTOR: tl.constexpr,
    REVERSE: tl.constexpr, UNROLL: tl.constexpr,
):  # fmt: skip
    """y [b l e], and the state after every UNROLL steps [b l//UNROLL n e]; either pointer may be None.

    Strides of B and C are in units of VECTOR numbers, so that the compiler knows how far they are aligned.
    """
    b, g, e, exists = place(E, L, BLOCK_E, GROUPS)
    n = tl.arange(0, BLOCK_N)
    held = exists[None, :] & (n < N)[:, None]
    A = tl.load(A_ptr + n[:, None] * E + e[None, :], mask=held, other=0.0) * LOG2E
    if D_ptr is not None:
        D = tl.load(D_ptr + e, mask=exists, other=0.0).to(tl.float32)
    u_ptr += b * u_b + e
    delta_ptr += b * delta_b + e
    B_ptr += (b * B_b + g * B_g) * VECTOR + n
    C_ptr += (b * C_b + g * C_g) * VECTOR + n
    if y_ptr is not None:
        y_ptr += b * L * E + e
    if h_ptr is not None:
        h_ptr += b * (L // UNROLL) * N * E + n[:, None] * E + e[None, :]
    h = tl.zeros((BLOCK_N, BLOCK_E), tl.float32)
    for start in range(0, L, UNROLL):
        us, deltas, Bs, Cs = (), (), (), ()
        for k in tl.static_range(UNROLL):
            # steps past the end repeat the last one, and nothing of them is stored
            step = tl.minimum(start + k, L - 1)
            if REVERSE:
                step = L - 1 - step
            us = us + (tl.load(u_ptr + step * u_l, mask=exists).to(tl.float32),)
            deltas = deltas + (tl.load(delta_ptr + step * delta_l, mask=exists).to(tl.float32),)
            Bs = Bs + (row(B_ptr + step * B_l * VECTOR, n, N, BLOCK_N),)
            if y_ptr is not None:
                Cs = Cs + (row(C_ptr + step * C_l * VECTOR, n, N, BLOCK_N),)
        for k in tl.static_range(UNROLL):
            h = advance(h, A, us[k], deltas[k], Bs[k])
            if y_ptr is not None:
                y = tl.sum(h * Cs[k][:, None], axis=0)
                if D_ptr is not None:
                    y += D * us[k]
                t = start + k
                step = L - 1 - t if REVERSE else t
                tl.store(y_ptr + step * E, y.to(y_ptr.dtype.element_ty), mask=exists & (t < L))
        if h_ptr is not None:
            tl.store(h_ptr, h, mask=held & (start + UNROLL <= L))
            h_ptr += N * E


@triton.jit
def backward(
    u_ptr, delta_ptr, A_ptr, B_ptr, C_ptr, D_ptr, h_ptr, dy_ptr,
    du_ptr, ddelta_ptr, dA_ptr, dB_ptr, dC_ptr, dD_ptr, E, L,
    u_b, u_l, delta_b, delta_l, B_b, B_g, B_l, C_b, C_g, C_l,
    N: tl.constexpr, BLOCK_N: tl.constexpr, BLOCK_E: tl.constexpr, GROUPS: tl.constexpr, VECTOR: tl.constexpr,
    REVERSE: tl.constexpr, EVERY: tl.constexpr,
):  # fmt: skip
    """Gradients. Chunks of EVERY steps from the last to the first: states again from the checkpoint, then backwards.

    What several programs add to has a place for each of them: dA [b n e] and dD [b e] per sample, dB and dC
    [blocks b g l n] per block of channels. So sums have a fixed order and no atomics are needed.
    """
    b, g, e, exists = place(E, L, BLOCK_E, GROUPS)
    n = tl.arange(0, BLOCK_N)
    held = exists[None, :] & (n < N)[:, None]
    A = tl.load(A_ptr + n[:, None] * E + e[None, :], mask=held, other=0.0) * LOG2E
    if D_ptr is not None:
        D = tl.load(D_ptr + e, mask=exists, other=0.0).to(tl.float32)
        dD = tl.zeros((BLOCK_E,), tl.float32)
    u_ptr += b * u_b + e
    delta_ptr += b * delta_b + e
    dy_ptr += b * L * E + e
    du_ptr += b * L * E + e
    ddelta_ptr += b * L * E + e
    B_ptr += (b * B_b + g * B_g) * VECTOR + n
    C_ptr += (b * C_b + g * C_g) * VECTOR + n
    blocks = tl.cdiv(E // GROUPS, BLOCK_E)
    samples = tl.num_programs(0) // (blocks * GROUPS)
    matrix = ((tl.program_id(0) % blocks * samples + b) * GROUPS + g) * L * N + n
    chunks = tl.cdiv(L, EVERY)
    h_ptr += b * (L // EVERY) * N * E + n[:, None] * E + e[None, :]
    carried = tl.zeros((BLOCK_N, BLOCK_E), tl.float32)
    dA = tl.zeros((BLOCK_N, BLOCK_E), tl.float32)
    for back in range(0, chunks):
        chunk = chunks - 1 - back
        h = tl.load(h_ptr + (chunk - 1).to(tl.int64) * N * E, mask=held & (chunk > 0), other=0.0)
        before = ()
        for k in tl.static_range(EVERY):
            t = chunk * EVERY + k
            step = L - 1 - t if REVERSE else t
            # steps past the end have delta = 0 and dy = 0: the state stays, nothing flows back
            alive = exists & (t < L)
            u = tl.load(u_ptr + step * u_l, mask=alive, other=0.0).to(tl.float32)
            delta = tl.load(delta_ptr + step * delta_l, mask=alive, other=0.0).to(tl.float32)
            dy = tl.load(dy_ptr + step * E, mask=alive, other=0.0).to(tl.float32)
            B = tl.load(B_ptr + step * B_l * VECTOR, mask=(n < N) & (t < L), other=0.0)
            before = before + (h,)
            h = advance(h, A, u, delta, B)
            tl.store(dC_ptr + matrix + step * N, tl.sum(h * dy[None, :], axis=1), mask=(n < N) & (t < L))
        for k in tl.static_range(EVERY - 1, -1, -1):
            t = chunk * EVERY + k
            step = L - 1 - t if REVERSE else t
            alive = exists & (t < L)
            # read again, not kept: else the compiler keeps the decays of the first pass too, and spills
            u = tl.load(u_ptr + step * u_l, mask=alive, other=0.0).to(tl.float32)
            delta = tl.load(delta_ptr + step * delta_l, mask=alive, other=0.0).to(tl.float32)
            dy = tl.load(dy_ptr + step * E, mask=alive, other=0.0).to(tl.float32)
            B = tl.load(B_ptr + step * B_l * VECTOR, mask=(n < N) & (t < L), other=0.0)
            C = tl.load(C_ptr + step * C_l * VECTOR, mask=(n < N) & (t < L), other=0.0)
            dh = carried + dy[None, :] * C[:, None]
            carried = tl.exp2(delta[None, :] * A) * dh
            # d(delta A): the state before this step, decayed, times dh
            through_decay = carried * before[k]
            through_input = tl.sum(dh * B[:, None], axis=0)
            dA += through_decay * delta[None, :]
            du = through_input * delta
            if D_ptr is not None:
                du += D * dy
                dD += dy * u
            ddelta = through_input * u + tl.sum(through_decay * A, axis=0) * LN2
            tl.store(du_ptr + step * E, du.to(du_ptr.dtype.element_ty), mask=alive)
            tl.store(ddelta_ptr + step * E, ddelta.to(ddelta_ptr.dtype.element_ty), mask=alive)
            tl.store(dB_ptr + matrix + step * N, tl.sum(dh * (delta * u)[None, :], axis=1), mask=(n < N) & (t < L))
    tl.store(dA_ptr + b * N * E + n[:, None] * E + e[None, :], dA, mask=held)
    if D_ptr is not None:
        tl.store(dD_ptr + b * E + e, dD, mask=exists)
