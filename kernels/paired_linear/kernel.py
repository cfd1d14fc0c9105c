"""One program makes a tile of one direction's output."""

from __future__ import annotations

import triton
import triton.language as tl

from ouro.kernels.quantized_linear.kernel import activated


@triton.jit
def pair_tile(
    x_f,
    x_b,
    weight_f,
    weight_b,
    bias_f,
    bias_b,
    y_f,
    y_b,
    M,
    N,
    K,
    x_row,
    BLOCK_M: tl.constexpr,
    BLOCK_N: tl.constexpr,
    BLOCK_K: tl.constexpr,
    EVEN: tl.constexpr,
    SOFTPLUS: tl.constexpr,
    HARDWARE: tl.constexpr,
):
    """See `op.paired_linear`. Grid: (tiles, 2); x_row: distance of two rows. EVEN: BLOCK_K divides K."""
    backward = tl.program_id(1) == 1
    across = tl.cdiv(N, BLOCK_N)
    first = tl.program_id(0) // across * BLOCK_M
    row = tl.arange(0, BLOCK_M)
    output = tl.program_id(0) % across * BLOCK_N + tl.arange(0, BLOCK_N)
    inside = row < M - first
    there = output < N
    k = tl.arange(0, BLOCK_K)
    # only where a tile begins may be far away
    x = tl.where(backward, x_b, x_f) + first.to(tl.int64) * x_row
    weight = tl.where(backward, weight_b, weight_f)
    y = tl.where(backward, y_b, y_f) + first.to(tl.int64) * N
    # beyond the end a tile works on its beginning, and does not store that
    from_x = x + tl.where(inside, row, 0)[:, None] * x_row + k[None, :]
    from_w = weight + tl.where(there, output, 0)[None, :] * K + k[:, None]
    sums = tl.zeros((BLOCK_M, BLOCK_N), tl.float32)
    for start in range(0, K, BLOCK_K):
        if EVEN:
            a = tl.load(from_x + start)
            b = tl.load(from_w + start)
        else:
            a = tl.load(from_x + start, mask=k[None, :] < K - start, other=0.0)
            b = tl.load(from_w + start, mask=k[:, None] < K - start, other=0.0)
        a = a.to(b.dtype)
        if not HARDWARE:
            # the interpreter multiplies the bits of bfloat16 as they stand
            a, b = a.to(tl.float32), b.to(tl.float32)
        sums = tl.dot(a, b, sums, input_precision="ieee")
    if bias_f is not None:
        sums += tl.load(tl.where(backward, bias_b, bias_f) + output, mask=there, other=0.0).to(tl.float32)[None, :]
    if SOFTPLUS:
        sums = activated(sums, "softplus")
    place = y + row[:, None] * N + output[None, :]
    tl.store(place, sums.to(y.dtype.element_ty), mask=inside[:, None] & there[None, :])
