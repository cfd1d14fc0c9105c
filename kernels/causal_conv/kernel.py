"""Triton code of the convolution in front of Vim's scans: one read of x, both directions written, nothing flipped."""

from __future__ import annotations

import triton
import triton.language as tl

from ouro.kernels.selective_scan.kernel import LOG2E


@triton.jit
def silu(x):
    return x / (1.0 + tl.exp2(x * -LOG2E))


@triton.jit
def load_weight(weight_ptr, bias_ptr, e, exists, E: tl.constexpr, WIDTH: tl.constexpr):
    """(the WIDTH rows of weight [k e], bias) in float32."""
    rows = ()
    for k in tl.static_range(WIDTH):
        rows = rows + (tl.load(weight_ptr + k * E + e, mask=exists, other=0.0).to(tl.float32),)
    bias = tl.zeros_like(rows[0])
    if bias_ptr is not None:
        bias += tl.load(bias_ptr + e, mask=exists, other=0.0).to(tl.float32)
    return rows, bias


@triton.jit
def both(
    x_ptr, weight_f_ptr, weight_b_ptr, bias_f_ptr, bias_b_ptr, u_f_ptr, u_b_ptr, L, x_b,
    x_l: tl.constexpr, E: tl.constexpr, WIDTH: tl.constexpr, BLOCK_E: tl.constexpr, BLOCK_L: tl.constexpr,
):  # fmt: skip
    """u_f, u_b [b l e] of BLOCK_L tokens and BLOCK_E channels. Grid: (blocks of channels x of tokens, samples).

    The tokens and their WIDTH - 1 neighbors on both sides are read before the first result is computed.
    """
    blocks: tl.constexpr = tl.cdiv(E, BLOCK_E)
    b = tl.program_id(1).to(tl.int64)
    first = tl.program_id(0) // blocks * BLOCK_L
    e = tl.program_id(0) % blocks * BLOCK_E + tl.arange(0, BLOCK_E)
    exists = e < E
    x_ptr += b * x_b + first * x_l + e
    to = b * L * E + first * E + e
    xs = ()
    for k in tl.static_range(1 - WIDTH, BLOCK_L + WIDTH - 1):
        inside = (first + k >= 0) & (first + k < L)
        xs = xs + (tl.load(x_ptr + k * x_l, mask=exists & inside, other=0.0).to(tl.float32),)
    weight_f, bias_f = load_weight(weight_f_ptr, bias_f_ptr, e, exists, E, WIDTH)
    weight_b, bias_b = load_weight(weight_b_ptr, bias_b_ptr, e, exists, E, WIDTH)
    for t in tl.static_range(BLOCK_L):
        # xs[t] is WIDTH - 1 tokens before token t of this block
        u_f, u_b = bias_f, bias_b
        for k in tl.static_range(WIDTH):
            u_f += weight_f[k] * xs[t + k]
            u_b += weight_b[k] * xs[t + 2 * (WIDTH - 1) - k]
        alive = exists & (first + t < L)
        tl.store(u_f_ptr + to + t * E, silu(u_f).to(u_f_ptr.dtype.element_ty), mask=alive)
        tl.store(u_b_ptr + to + t * E, silu(u_b).to(u_b_ptr.dtype.element_ty), mask=alive)
