"""Vim's two scans, their mean and the gate in one pass; for inference.

    y = scale (scan(u_f, ..) + scan from the last token to the first (u_b, ..)) SiLU(z)

Source: Zhu et al. 2024, alg. 1, with the division by two of hustvl/Vim (if_divide_out); as `ouro.models.mixer`.
"""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn import functional as F

from ouro.kernels import rounding
from ouro.kernels.launch import choose, first, on, wrong_dtype, wrong_shape
from ouro.kernels.selective_scan import op as one_way

NAME = "bidirectional_scan"
UNROLL = 4
PROGRAMS = 2048
"""Warps that keep a large GPU busy: with fewer rows of channels than that, time is cut into chunks."""


def bidirectional_scan(
    u_f: Tensor,
    u_b: Tensor,
    delta_f: Tensor,
    delta_b: Tensor,
    A_f: Tensor,
    A_b: Tensor,
    B_f: Tensor,
    B_b: Tensor,
    C_f: Tensor,
    C_b: Tensor,
    D_f: Tensor,
    D_b: Tensor,
    z: Tensor,
    *,
    scale: float = 0.5,
    silu: bool = True,
    chunks: int | None = None,
    backend: str = "auto",
) -> Tensor:
    """y [b l e] in u's dtype; state and sums are float32, y_f waits in y for y_b. Every tensor is in the tokens' order.

    Rows may be apart in memory (z the second half of in_proj's output, B and C parts of x_proj's); numbers of a row lie
    side by side, or are copied to.

    Args:
        u_f, u_b, delta_f, delta_b, z: [b l e], float32, float16 or bfloat16; delta after softplus and bias.
        A_f, A_b: [e n], n up to 256; a view of a contiguous [n e] saves a copy.
        B_f, B_b, C_f, C_b: [b l n]; float32 saves a copy.
        D_f, D_b: [e].
        scale: on the sum of both directions.
        silu: False if z has been through SiLU already.
        chunks: pieces of time that are scanned side by side, at the price of two exponentials per state for one. None
            takes 1 where samples and channels fill a large GPU, and more otherwise.
        backend: "auto", "triton" or "reference".

    Raises:
        KernelError: operands that do not fit together, or a backend that cannot serve them.
    """
    operands = u_f, u_b, delta_f, delta_b, A_f, A_b, B_f, B_b, C_f, C_b, D_f, D_b, z
    names = ("u_f", "u_b", "delta_f", "delta_b", "A_f", "A_b", "B_f", "B_b", "C_f", "C_b", "D_f", "D_b", "z")
    given = dict(zip(names, operands, strict=True))
    tracked = torch.is_grad_enabled() and any(x.requires_grad for x in operands)
    unsupported = first(
        wrong_dtype(given, *one_way.FLOATS),
        f"A_f has {A_f.shape[-1]} states, expected at most {one_way.MOST_STATES}"
        if A_f.shape[-1] > one_way.MOST_STATES
        else None,
        "it has no gradient; call selective_scan for each direction" if tracked else None,
    )
    invalid = _misfit(given, chunks)
    if choose(NAME, backend, given, invalid=invalid, unsupported=unsupported, strided=True) == "reference":
        return reference(*operands, scale=scale, silu=silu, chunks=chunks)
    return _launch(given, scale, silu, chunks)


def reference(
    u_f: Tensor,
    u_b: Tensor,
    delta_f: Tensor,
    delta_b: Tensor,
    A_f: Tensor,
    A_b: Tensor,
    B_f: Tensor,
    B_b: Tensor,
    C_f: Tensor,
    C_b: Tensor,
    D_f: Tensor,
    D_b: Tensor,
    z: Tensor,
    *,
    scale: float = 0.5,
    silu: bool = True,
    chunks: int | None = None,
) -> Tensor:
    """The definition: two loops over time in plain torch, in float32 or float64; `chunks` changes nothing."""
    real = torch.float64 if u_f.dtype == torch.float64 else torch.float32

    def scan(u, delta, A, B, C, D, reverse: bool) -> Tensor:
        u, delta, B, C = (x.to(real).transpose(1, 2) for x in (u, delta, B, C))
        return one_way.reference(u, delta, A, B, C, D, reverse=reverse).transpose(1, 2)

    y = scan(u_f, delta_f, A_f, B_f, C_f, D_f, False) + scan(u_b, delta_b, A_b, B_b, C_b, D_b, True)
    gate = z.to(real)
    return (y * scale * (F.silu(gate) if silu else gate)).to(u_f.dtype)


def bounds(
    u_f: Tensor,
    u_b: Tensor,
    delta_f: Tensor,
    delta_b: Tensor,
    A_f: Tensor,
    A_b: Tensor,
    B_f: Tensor,
    B_b: Tensor,
    C_f: Tensor,
    C_b: Tensor,
    D_f: Tensor,
    D_b: Tensor,
    z: Tensor,
    *,
    scale: float = 0.5,
    silu: bool = True,
    chunks: int | None = None,
) -> dict[str, Tensor]:
    """How far float32 may be from the definition, per element."""
    batch, L, channels = u_f.shape
    chunk = chunk_length(batch, channels, L, chunks)
    summed = chunk if chunk < L else 0

    def scan(u, delta, A, B, C, D, reverse: bool) -> rounding.Known:
        u, delta, B, C = (x.transpose(1, 2) for x in (u, delta, B, C))
        y = rounding.scan(u, delta, A, B, C, D, reverse=reverse, chunk=summed)
        return rounding.Known(y.value.transpose(1, 2), y.error.transpose(1, 2))

    forward = scan(u_f, delta_f, A_f, B_f, C_f, D_f, False)
    backward = scan(u_b, delta_b, A_b, B_b, C_b, D_b, True)
    total = forward.value + backward.value
    # y_f waits in y's dtype
    error = forward.error + rounding.stored(forward.value, u_f.dtype) + backward.error + rounding.HALF * total.abs()
    gate = (
        rounding.silu(z, scale)
        if silu
        else rounding.Known(scale * z.double(), rounding.HALF * scale * z.double().abs())
    )
    return {"y": rounding.product(rounding.Known(total, error), gate).error}


def chunk_length(batch: int, channels: int, L: int, chunks: int | None) -> int:
    """Steps in a piece of time, a multiple of UNROLL."""
    wanted = chunks or chunks_for(batch, channels, L)
    return -(-L // wanted // UNROLL) * UNROLL


def chunks_for(batch: int, channels: int, L: int) -> int:
    """How many chunks of time fill a large GPU, each of at least two times UNROLL tokens."""
    rows = batch * -(-channels // one_way.CHANNELS)
    return max(1, min(PROGRAMS // rows, L // (2 * UNROLL)))


def _misfit(given: dict[str, Tensor], chunks: int | None) -> str | None:
    u, A = given["u_f"], given["A_f"]
    dtype = wrong_dtype(given, *one_way.FLOATS, torch.float64)
    if dtype is not None:
        return dtype
    if u.dim() != 3 or 0 in u.shape:
        return f"u_f is {tuple(u.shape)}, expected a non-empty (b, l, e)"
    batch, L, channels = u.shape
    if A.dim() != 2 or A.shape[0] != channels or A.shape[1] < 1:
        return f"A_f is {tuple(A.shape)}, expected (e, n) with e = {channels}"
    if chunks is not None and chunks < 1:
        return f"chunks is {chunks}, expected 1 or more"
    N = A.shape[1]
    return first(
        *(wrong_shape(x, given[x], "b l e", batch, L, channels) for x in ("u_b", "delta_f", "delta_b", "z")),
        wrong_shape("A_b", given["A_b"], "e n", channels, N),
        *(wrong_shape(x, given[x], "b l n", batch, L, N) for x in ("B_f", "B_b", "C_f", "C_b")),
        *(wrong_shape(x, given[x], "e", channels) for x in ("D_f", "D_b")),
    )


def _pair(forward: Tensor, backward: Tensor) -> tuple[Tensor, Tensor]:
    """Both with the same strides and the numbers of a row side by side; copied only if they are not."""
    if forward.stride() == backward.stride() and forward.stride(-1) == 1:
        return forward, backward
    return forward.contiguous(), backward.contiguous()


def _launch(given: dict[str, Tensor], scale: float, silu: bool, chunks: int | None) -> Tensor:
    from ouro.kernels.bidirectional_scan import kernel

    batch, L, channels = given["u_f"].shape
    N = given["A_f"].shape[1]
    u = _pair(given["u_f"], given["u_b"])
    delta = _pair(given["delta_f"], given["delta_b"])
    B = _pair(given["B_f"].float(), given["B_b"].float())
    C = _pair(given["C_f"].float(), given["C_b"].float())
    A = [given[name].float().t().contiguous() for name in ("A_f", "A_b")]
    D = [given[name].contiguous() for name in ("D_f", "D_b")]
    z = given["z"] if given["z"].stride(-1) == 1 else given["z"].contiguous()
    width = one_way.vector(*B, *C)
    block_n = 1 << (N - 1).bit_length()
    constants = {"E": channels, "N": N, "BLOCK_N": block_n, "BLOCK_E": one_way.CHANNELS, "VECTOR": width}
    constants |= {"UNROLL": UNROLL, "num_warps": max(1, block_n // 32)}
    constants |= {"u_l": u[0].stride(1), "delta_l": delta[0].stride(1), "B_l": B[0].stride(1)}
    inputs = u[0].stride(0), delta[0].stride(0), B[0].stride(0) // width

    chunk = chunk_length(batch, channels, L, chunks)
    count = -(-L // chunk)
    rows = batch * -(-channels // one_way.CHANNELS)
    y = torch.empty(batch, L, channels, dtype=given["u_f"].dtype, device=u[0].device)
    h = sums = None
    if count > 1:
        h = torch.empty(2, batch, count, N, channels, device=y.device)
        sums = torch.empty(2, batch, count, channels, device=y.device)
    with on(y.device):
        if count > 1:
            kernel.ends[rows, count, 2](*u, *delta, *A, *B, h, sums, L, chunk, *inputs, **constants)
        kernel.scan[rows, count](
            *u, *delta, *A, *B, *C, *D, z, y, h, sums, L, chunk, scale,
            *inputs, C[0].stride(0) // width, z.stride(0), C_l=C[0].stride(1), z_l=z.stride(1), SILU=silu, **constants,
        )  # fmt: skip
    return y
