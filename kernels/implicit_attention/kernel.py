"""Triton code of implicit attention: rows of alpha in closed form, every entry on its own."""

from __future__ import annotations

import triton
import triton.language as tl

from ouro.kernels.selective_scan.kernel import LOG2E, row


@triton.jit(do_not_specialize_on_alignment=["A_ptr"])
def entries(
    delta_ptr, time_ptr, A_ptr, B_ptr, C_ptr, rows_ptr, out_ptr, L, count, blocks, delta_b, B_b, B_g, C_b, C_g,
    delta_l: tl.constexpr, B_l: tl.constexpr, C_l: tl.constexpr, E: tl.constexpr, N: tl.constexpr,
    BLOCK_N: tl.constexpr, BLOCK_E: tl.constexpr, BLOCK_L: tl.constexpr, GROUPS: tl.constexpr, VECTOR: tl.constexpr,
    MEAN: tl.constexpr,
):  # fmt: skip
    """BLOCK_L columns of one row, over `blocks` blocks of channels.

    Grid: (parts of columns, count x samples, parts of e).

    MEAN: out [parts of e, b, count, l] is the sum over the channels of a part; otherwise out is [b count l e].
    time_ptr: float64 [b l e], delta summed up to each step; exact enough for short times after long ones.
    """
    i = tl.load(rows_ptr + tl.program_id(1) % count).to(tl.int32)
    b = (tl.program_id(1) // count).to(tl.int64)
    n = tl.arange(0, BLOCK_N)
    first = tl.program_id(0) * BLOCK_L
    last = tl.minimum(first + BLOCK_L - 1, i)
    size: tl.constexpr = E // GROUPS
    per_group: tl.constexpr = (size + BLOCK_E - 1) // BLOCK_E  # Triton 3.6 multiplies no tl.cdiv of constexprs
    begin = tl.program_id(2) * blocks
    end = tl.minimum(begin + blocks, per_group * GROUPS)
    if MEAN:
        # above the diagonal there is nothing to add
        end = tl.where(first <= i, end, begin)
        sums = ()
        for _ in tl.static_range(BLOCK_L):
            sums = sums + (tl.zeros((BLOCK_E,), tl.float32),)
    for block in range(begin, end):
        g = block // per_group
        inside = block % per_group * BLOCK_E + tl.arange(0, BLOCK_E)
        exists = inside < size
        e = g * size + inside
        held = exists[None, :] & (n < N)[:, None]
        A = tl.load(A_ptr + n[:, None] * E + e[None, :], mask=held, other=0.0) * LOG2E
        C = row(C_ptr + (b * C_b + g * C_g) * VECTOR + i * C_l + n, n, N, BLOCK_N)
        deltas = delta_ptr + b * delta_b + e
        columns = B_ptr + (b * B_b + g * B_g) * VECTOR + n
        times = time_ptr + b * L * E + e
        until = tl.load(times + i * E, mask=exists, other=0.0)
        time = (until - tl.load(times + last * E, mask=exists & (first <= i), other=0.0)).to(tl.float32)
        added = ()
        for k in tl.static_range(BLOCK_L - 1, -1, -1):
            t = first + k
            delta = tl.load(deltas + t * delta_l, mask=exists & (t <= i), other=0.0).to(tl.float32)
            B = row(columns + tl.minimum(t, i) * B_l, n, N, BLOCK_N)
            alpha = tl.sum(tl.exp2(time[None, :] * A) * (B * C)[:, None], axis=0) * delta
            time += delta
            if MEAN:
                added = (sums[k] + alpha,) + added
            else:
                at = ((b * count + tl.program_id(1) % count) * L + t) * E
                tl.store(out_ptr + at + e, alpha, mask=exists & (t < L))
        if MEAN:
            sums = added
    if MEAN:
        place = tl.program_id(2).to(tl.int64) * tl.num_programs(1) + tl.program_id(1)
        for k in tl.static_range(BLOCK_L):
            tl.store(out_ptr + place * L + first + k, tl.sum(sums[k], axis=0), mask=first + k < L)
