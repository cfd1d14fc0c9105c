"""Triton code of the selective scan: channels on lanes, all states of a channel in registers, time as a loop.

Memory is channels-last: u, delta, y [b l e], B and C [b g l n] in float32, A [n e] in float32. One program walks the L
steps of BLOCK_E channels of one group of one sample. It reads UNROLL steps before it computes the first of them, so
that their latencies overlap. In the forward kernel A's address is not specialized on alignment: that keeps one channel
per lane, and the sum over the states needs no shuffle.
"""

from __future__ import annotations

import triton
import triton.language as tl

LOG2E = tl.constexpr(1.4426950408889634)
LN2 = tl.constexpr(0.6931471805599453)


@triton.jit
def place(E: tl.constexpr, BLOCK_E: tl.constexpr, GROUPS: tl.constexpr):
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


@triton.jit
def walk(
    h, A, D, u_ptr, delta_ptr, B_ptr, C_ptr, y_ptr, z_ptr, scale, exists, n,
    u_l: tl.constexpr, delta_l: tl.constexpr, B_l: tl.constexpr, C_l: tl.constexpr, y_l: tl.constexpr,
    z_l: tl.constexpr, N: tl.constexpr, BLOCK_N: tl.constexpr, SILU: tl.constexpr, STEPS: tl.constexpr,
):  # fmt: skip
    """The state STEPS steps on; writes their y, if y_ptr is given. Pointers are at the operands of the first step.

    With z_ptr, y is added to what y_ptr holds already, and multiplied by scale z or scale SiLU(z). Strides from step to
    step are constants: all but the first address of an operand then cost no instruction.
    """
    us, deltas, Bs, Cs, zs, ys = (), (), (), (), (), ()
    for k in tl.static_range(STEPS):
        us = us + (tl.load(u_ptr + k * u_l, mask=exists, other=0.0).to(tl.float32),)
        deltas = deltas + (tl.load(delta_ptr + k * delta_l, mask=exists, other=0.0).to(tl.float32),)
        Bs = Bs + (row(B_ptr + k * B_l, n, N, BLOCK_N),)
        if y_ptr is not None:
            Cs = Cs + (row(C_ptr + k * C_l, n, N, BLOCK_N),)
        if z_ptr is not None:
            zs = zs + (tl.load(z_ptr + k * z_l, mask=exists, other=0.0).to(tl.float32),)
            ys = ys + (tl.load(y_ptr + k * y_l, mask=exists, other=0.0).to(tl.float32),)
    for k in tl.static_range(STEPS):
        h = advance(h, A, us[k], deltas[k], Bs[k])
        if y_ptr is not None:
            y = tl.sum(h * Cs[k][:, None], axis=0)
            if D is not None:
                y += D * us[k]
            if z_ptr is not None:
                gate = zs[k] * scale
                if SILU:
                    gate = gate / (1.0 + tl.exp2(zs[k] * -LOG2E))
                y = (y + ys[k]) * gate
            tl.store(y_ptr + k * y_l, y.to(y_ptr.dtype.element_ty), mask=exists)
    return h


@triton.jit(do_not_specialize_on_alignment=["A_ptr", "h_ptr"])
def forward(
    u_ptr, delta_ptr, A_ptr, B_ptr, C_ptr, D_ptr, y_ptr, h_ptr, L, u_b, delta_b, B_b, B_g, C_b, C_g,
    u_l: tl.constexpr, delta_l: tl.constexpr, B_l: tl.constexpr, C_l: tl.constexpr,
    E: tl.constexpr, N: tl.constexpr, BLOCK_N: tl.constexpr, BLOCK_E: tl.constexpr, GROUPS: tl.constexpr,
    VECTOR: tl.constexpr, REVERSE: tl.constexpr, UNROLL: tl.constexpr,
):  # fmt: skip
    """y [b l e], and the state after every UNROLL steps [b l//UNROLL n e]; either pointer may be None.

    B_b, B_g, C_b and C_g are in units of VECTOR numbers, so that the compiler knows how far rows are aligned.
    """
    b, g, e, exists = place(E, BLOCK_E, GROUPS)
    n = tl.arange(0, BLOCK_N)
    held = exists[None, :] & (n < N)[:, None]
    A = tl.load(A_ptr + n[:, None] * E + e[None, :], mask=held, other=0.0) * LOG2E
    D = None
    if D_ptr is not None:
        D = tl.load(D_ptr + e, mask=exists, other=0.0).to(tl.float32)
    start = L - 1 if REVERSE else 0
    WAY: tl.constexpr = -1 if REVERSE else 1
    u_ptr += b * u_b + start * u_l + e
    delta_ptr += b * delta_b + start * delta_l + e
    B_ptr += (b * B_b + g * B_g) * VECTOR + start * B_l + n
    C_ptr += (b * C_b + g * C_g) * VECTOR + start * C_l + n
    if y_ptr is not None:
        y_ptr += b * L * E + start * E + e
    if h_ptr is not None:
        h_ptr += b * (L // UNROLL) * N * E + n[:, None] * E + e[None, :]
    h = tl.zeros((BLOCK_N, BLOCK_E), tl.float32)
    for _ in range(0, L // UNROLL):
        h = walk(
            h, A, D, u_ptr, delta_ptr, B_ptr, C_ptr, y_ptr, None, 1.0, exists, n,
            WAY * u_l, WAY * delta_l, WAY * B_l, WAY * C_l, WAY * E, 0, N, BLOCK_N, False, UNROLL,
        )  # fmt: skip
        u_ptr += WAY * UNROLL * u_l
        delta_ptr += WAY * UNROLL * delta_l
        B_ptr += WAY * UNROLL * B_l
        C_ptr += WAY * UNROLL * C_l
        if y_ptr is not None:
            y_ptr += WAY * UNROLL * E
        if h_ptr is not None:
            tl.store(h_ptr, h, mask=held)
            h_ptr += N * E
    if y_ptr is not None:
        for _ in range(L // UNROLL * UNROLL, L):
            h = walk(
                h, A, D, u_ptr, delta_ptr, B_ptr, C_ptr, y_ptr, None, 1.0, exists, n,
                0, 0, 0, 0, 0, 0, N, BLOCK_N, False, 1,
            )  # fmt: skip
            u_ptr += WAY * u_l
            delta_ptr += WAY * delta_l
            B_ptr += WAY * B_l
            C_ptr += WAY * C_l
            y_ptr += WAY * E


@triton.jit
def backward(
    u_ptr, delta_ptr, A_ptr, B_ptr, C_ptr, D_ptr, h_ptr, dy_ptr,
    du_ptr, ddelta_ptr, dA_ptr, dB_ptr, dC_ptr, dD_ptr, L, u_b, delta_b, B_b, B_g, C_b, C_g,
    u_l: tl.constexpr, delta_l: tl.constexpr, B_l: tl.constexpr, C_l: tl.constexpr,
    E: tl.constexpr, N: tl.constexpr, BLOCK_N: tl.constexpr, BLOCK_E: tl.constexpr, GROUPS: tl.constexpr,
    VECTOR: tl.constexpr, REVERSE: tl.constexpr, EVERY: tl.constexpr,
):  # fmt: skip
    """Gradients. Chunks of EVERY steps from the last to the first: states again from the checkpoint, then backwards.

    What several programs add to has a place for each of them: dA [b n e] and dD [b e] per sample, dB and dC
    [blocks b g l n] per block of channels. So sums have a fixed order and no atomics are needed.
    """
    b, g, e, exists = place(E, BLOCK_E, GROUPS)
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
            B = tl.load(B_ptr + step * B_l, mask=(n < N) & (t < L), other=0.0)
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
            B = tl.load(B_ptr + step * B_l, mask=(n < N) & (t < L), other=0.0)
            C = tl.load(C_ptr + step * C_l, mask=(n < N) & (t < L), other=0.0)
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
