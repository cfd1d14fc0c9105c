"""Triton code of Vim's two scans in one: channels on lanes, all states of a channel in registers, time as a loop.

Everything is channels-last and in the order of the tokens; the backward scan starts at the last one. One program takes
BLOCK_E channels of one sample and one chunk of tokens: forwards, then backwards over the same tokens, where it adds
what it wrote before and applies the gate. With one chunk that is all. With several, `ends` has computed what every
chunk makes of a zero state, and a program first carries the ends of the chunks before and behind its own to its
borders.
"""

from __future__ import annotations

import triton
import triton.language as tl

from ouro.kernels.selective_scan.kernel import LOG2E, advance, row, walk


@triton.jit
def place(E: tl.constexpr, BLOCK_E: tl.constexpr):
    """(sample, as int64, how many there are, channels of this program, which of them exist)."""
    blocks: tl.constexpr = tl.cdiv(E, BLOCK_E)
    e = tl.program_id(0) % blocks * BLOCK_E + tl.arange(0, BLOCK_E)
    return (tl.program_id(0) // blocks).to(tl.int64), tl.num_programs(0) // blocks, e, e < E


@triton.jit
def load_A(A_ptr, e, exists, n, E: tl.constexpr, N: tl.constexpr):
    """A [n e] in units of ln 2; where there is no channel or state it is 0, and the state stays 0."""
    return tl.load(A_ptr + n[:, None] * E + e[None, :], mask=exists[None, :] & (n < N)[:, None], other=0.0) * LOG2E


@triton.jit
def carry(h_ptr, sum_ptr, A, e, exists, n, E: tl.constexpr, N: tl.constexpr, at, count, way: tl.constexpr):
    """The state behind `count` chunks, of which the first is at place `at` and the next `way` further."""
    held = exists[None, :] & (n < N)[:, None]
    h = tl.zeros_like(A)
    for _ in range(0, count):
        total = tl.load(sum_ptr + at * E + e, mask=exists, other=0.0)
        end = tl.load(h_ptr + at * N * E + n[:, None] * E + e[None, :], mask=held, other=0.0)
        h = tl.exp2(total[None, :] * A) * h + end
        at += way
    return h


@triton.jit
def one_way(
    h, A, D_ptr, u_ptr, delta_ptr, B_ptr, C_ptr, y_ptr, z_ptr, scale, e, exists, n, count,
    u_l: tl.constexpr, delta_l: tl.constexpr, B_l: tl.constexpr, C_l: tl.constexpr, y_l: tl.constexpr,
    z_l: tl.constexpr, N: tl.constexpr, BLOCK_N: tl.constexpr, SILU: tl.constexpr, UNROLL: tl.constexpr,
):  # fmt: skip
    """`count` steps from where the pointers are; with z_ptr the second of the two directions."""
    D = tl.load(D_ptr + e, mask=exists, other=0.0).to(tl.float32)
    for _ in range(0, count // UNROLL):
        h = walk(
            h, A, D, u_ptr, delta_ptr, B_ptr, C_ptr, y_ptr, z_ptr, scale, exists, n,
            u_l, delta_l, B_l, C_l, y_l, z_l, N, BLOCK_N, SILU, UNROLL,
        )  # fmt: skip
        u_ptr += UNROLL * u_l
        delta_ptr += UNROLL * delta_l
        B_ptr += UNROLL * B_l
        C_ptr += UNROLL * C_l
        y_ptr += UNROLL * y_l
        if z_ptr is not None:
            z_ptr += UNROLL * z_l
    for _ in range(count // UNROLL * UNROLL, count):
        h = walk(
            h, A, D, u_ptr, delta_ptr, B_ptr, C_ptr, y_ptr, z_ptr, scale, exists, n,
            0, 0, 0, 0, 0, 0, N, BLOCK_N, SILU, 1,
        )  # fmt: skip
        u_ptr += u_l
        delta_ptr += delta_l
        B_ptr += B_l
        C_ptr += C_l
        y_ptr += y_l
        if z_ptr is not None:
            z_ptr += z_l


@triton.jit(do_not_specialize_on_alignment=["A_f_ptr", "A_b_ptr", "h_ptr"])
def ends(
    u_f_ptr, u_b_ptr, delta_f_ptr, delta_b_ptr, A_f_ptr, A_b_ptr, B_f_ptr, B_b_ptr, h_ptr, sum_ptr,
    L, chunk, u_b, delta_b, B_b, u_l: tl.constexpr, delta_l: tl.constexpr, B_l: tl.constexpr,
    E: tl.constexpr, N: tl.constexpr, BLOCK_N: tl.constexpr, BLOCK_E: tl.constexpr, VECTOR: tl.constexpr,
    UNROLL: tl.constexpr,
):  # fmt: skip
    """Where each chunk ends when it starts from zero, h [2 b chunks n e], and the sum of its deltas [2 b chunks e].

    Grid: (blocks of channels x samples, chunks, 2). UNROLL divides `chunk`, the tokens of a chunk.
    """
    b, samples, e, exists = place(E, BLOCK_E)
    backward = tl.program_id(2) == 1
    n = tl.arange(0, BLOCK_N)
    A = load_A(tl.where(backward, A_b_ptr, A_f_ptr), e, exists, n, E, N)
    u_ptr = tl.where(backward, u_b_ptr, u_f_ptr) + b * u_b + e
    delta_ptr = tl.where(backward, delta_b_ptr, delta_f_ptr) + b * delta_b + e
    B_ptr = tl.where(backward, B_b_ptr, B_f_ptr) + b * B_b * VECTOR + n
    first = tl.program_id(1) * chunk
    last = tl.minimum(first + chunk, L) - 1
    h = tl.zeros((BLOCK_N, BLOCK_E), tl.float32)
    total = tl.zeros((BLOCK_E,), tl.float32)
    for start in range(0, chunk, UNROLL):
        us, deltas, Bs = (), (), ()
        for k in tl.static_range(UNROLL):
            t = tl.where(backward, last - start - k, first + start + k)
            # a token outside the chunk has delta = 0: the state stays
            inside = (t >= first) & (t <= last)
            us = us + (tl.load(u_ptr + t * u_l, mask=exists & inside, other=0.0).to(tl.float32),)
            deltas = deltas + (tl.load(delta_ptr + t * delta_l, mask=exists & inside, other=0.0).to(tl.float32),)
            Bs = Bs + (row(B_ptr + tl.minimum(tl.maximum(t, first), last) * B_l, n, N, BLOCK_N),)
        for k in tl.static_range(UNROLL):
            h = advance(h, A, us[k], deltas[k], Bs[k])
            total += deltas[k]
    at = (tl.program_id(2) * samples + b) * tl.num_programs(1) + tl.program_id(1)
    tl.store(h_ptr + at * N * E + n[:, None] * E + e[None, :], h, mask=exists[None, :] & (n < N)[:, None])
    tl.store(sum_ptr + at * E + e, total, mask=exists)


@triton.jit(do_not_specialize_on_alignment=["A_f_ptr", "A_b_ptr", "h_ptr"])
def scan(
    u_f_ptr, u_b_ptr, delta_f_ptr, delta_b_ptr, A_f_ptr, A_b_ptr, B_f_ptr, B_b_ptr, C_f_ptr, C_b_ptr,
    D_f_ptr, D_b_ptr, z_ptr, y_ptr, h_ptr, sum_ptr, L, chunk, scale, u_b, delta_b, B_b, C_b, z_b,
    u_l: tl.constexpr, delta_l: tl.constexpr, B_l: tl.constexpr, C_l: tl.constexpr, z_l: tl.constexpr,
    E: tl.constexpr, N: tl.constexpr, BLOCK_N: tl.constexpr, BLOCK_E: tl.constexpr, VECTOR: tl.constexpr,
    SILU: tl.constexpr, UNROLL: tl.constexpr,
):  # fmt: skip
    """y [b l e] = (y_f + y_b) scale SiLU(z). Grid: (blocks of channels x samples, chunks); h_ptr is None for one chunk.

    B_b and C_b are in units of VECTOR numbers, so that the compiler knows how far rows are aligned.
    """
    b, samples, e, exists = place(E, BLOCK_E)
    n = tl.arange(0, BLOCK_N)
    chunks = tl.num_programs(1)
    first = tl.program_id(1) * chunk
    count = tl.minimum(chunk, L - first)
    last = first + count - 1
    y_ptr += b * L * E + e

    A = load_A(A_f_ptr, e, exists, n, E, N)
    h = tl.zeros((BLOCK_N, BLOCK_E), tl.float32)
    if h_ptr is not None:
        h = carry(h_ptr, sum_ptr, A, e, exists, n, E, N, b * chunks, tl.program_id(1), 1)
    one_way(
        h, A, D_f_ptr, u_f_ptr + b * u_b + first * u_l + e, delta_f_ptr + b * delta_b + first * delta_l + e,
        B_f_ptr + b * B_b * VECTOR + first * B_l + n, C_f_ptr + b * C_b * VECTOR + first * C_l + n,
        y_ptr + first * E, None, 1.0, e, exists, n, count,
        u_l, delta_l, B_l, C_l, E, 0, N, BLOCK_N, False, UNROLL,
    )  # fmt: skip

    # what one lane wrote another may read
    tl.debug_barrier()
    A = load_A(A_b_ptr, e, exists, n, E, N)
    h = tl.zeros((BLOCK_N, BLOCK_E), tl.float32)
    if h_ptr is not None:
        end = (samples + b) * chunks + chunks - 1
        h = carry(h_ptr, sum_ptr, A, e, exists, n, E, N, end, chunks - 1 - tl.program_id(1), -1)
    one_way(
        h, A, D_b_ptr, u_b_ptr + b * u_b + last * u_l + e, delta_b_ptr + b * delta_b + last * delta_l + e,
        B_b_ptr + b * B_b * VECTOR + last * B_l + n, C_b_ptr + b * C_b * VECTOR + last * C_l + n,
        y_ptr + last * E, z_ptr + b * z_b + last * z_l + e, scale, e, exists, n, count,
        -u_l, -delta_l, -B_l, -C_l, -E, -z_l, N, BLOCK_N, SILU, UNROLL,
    )  # fmt: skip
