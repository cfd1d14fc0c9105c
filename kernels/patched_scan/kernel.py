"""Triton code of the scan with patched output: the state is read by its whole neighborhood and never stored."""

from __future__ import annotations

import triton
import triton.language as tl

from ouro.kernels.selective_scan.kernel import LOG2E, advance, place, row


@triton.jit(do_not_specialize_on_alignment=["A_ptr"])
def forward(
    u_ptr, delta_ptr, A_ptr, B_ptr, C_ptr, D_ptr, weight_ptr, cell_ptr, step_ptr, y_ptr, y_p_ptr, L,
    u_b, delta_b, B_b, B_g, C_b, C_g, weight_b, weight_l,
    u_l: tl.constexpr, delta_l: tl.constexpr, B_l: tl.constexpr, C_l: tl.constexpr,
    E: tl.constexpr, N: tl.constexpr, BLOCK_N: tl.constexpr, BLOCK_E: tl.constexpr, GROUPS: tl.constexpr,
    VECTOR: tl.constexpr, REVERSE: tl.constexpr, HEIGHT: tl.constexpr, WIDTH: tl.constexpr, HALF: tl.constexpr,
):  # fmt: skip
    """y [b l e], and y_p [b p e], which starts at zero, in float32.

    cell_ptr: int32 [l], the raster cell a step reads, -1 for none. step_ptr: int32 [p], the step that reads a cell.
    """
    b, g, e, exists = place(E, BLOCK_E, GROUPS)
    n = tl.arange(0, BLOCK_N)
    held = exists[None, :] & (n < N)[:, None]
    A = tl.load(A_ptr + n[:, None] * E + e[None, :], mask=held, other=0.0) * LOG2E
    u_ptr += b * u_b + e
    delta_ptr += b * delta_b + e
    B_ptr += (b * B_b + g * B_g) * VECTOR + n
    C_ptr += (b * C_b + g * C_g) * VECTOR + n
    y_ptr += b * L * E + e
    y_p_ptr += b * HEIGHT * WIDTH * E + e
    h = tl.zeros((BLOCK_N, BLOCK_E), tl.float32)
    for t in range(0, L):
        step = L - 1 - t if REVERSE else t
        u = tl.load(u_ptr + step * u_l, mask=exists, other=0.0).to(tl.float32)
        delta = tl.load(delta_ptr + step * delta_l, mask=exists, other=0.0).to(tl.float32)
        h = advance(h, A, u, delta, row(B_ptr + step * B_l, n, N, BLOCK_N))
        y = tl.sum(h * row(C_ptr + step * C_l, n, N, BLOCK_N)[:, None], axis=0)
        if D_ptr is not None:
            y += tl.load(D_ptr + e, mask=exists, other=0.0).to(tl.float32) * u
        tl.store(y_ptr + step * E, y.to(y_ptr.dtype.element_ty), mask=exists)
        cell = tl.load(cell_ptr + step)
        weight = tl.load(weight_ptr + b * weight_b + step * weight_l).to(tl.float32)
        # what one lane wrote at an earlier step another may read
        tl.debug_barrier()
        line = cell // WIDTH
        column = cell % WIDTH
        sums = ()
        # all loads before the first store, behind which the compiler would hold them back
        for i in tl.static_range(-HALF, HALF + 1):
            for j in tl.static_range(-HALF, HALF + 1):
                inside = (cell >= 0) & (line + i >= 0) & (line + i < HEIGHT) & (column + j >= 0) & (column + j < WIDTH)
                reader = cell + i * WIDTH + j
                reads = tl.load(step_ptr + reader, mask=inside, other=0)
                before = tl.load(y_p_ptr + reader * E, mask=exists & inside, other=0.0)
                C = row(C_ptr + reads * C_l, n, N, BLOCK_N)
                sums = sums + (before + weight * tl.sum(h * C[:, None], axis=0),)
        for i in tl.static_range(-HALF, HALF + 1):
            for j in tl.static_range(-HALF, HALF + 1):
                inside = (cell >= 0) & (line + i >= 0) & (line + i < HEIGHT) & (column + j >= 0) & (column + j < WIDTH)
                at = y_p_ptr + (cell + i * WIDTH + j) * E
                tl.store(at, sums[(i + HALF) * (2 * HALF + 1) + j + HALF], mask=exists & inside)
