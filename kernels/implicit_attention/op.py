"""Rows of implicit attention: how much of the input at step j the output at step i reads, in closed form.

    alpha[i, j] = sum_n C_i[n] exp(A[n] (delta_{j+1} + .. + delta_i)) delta_j B_j[n]    for j <= i, else 0

Source: Ali et al. 2024 (The Hidden Attention of Mamba Models); OuroMamba (arXiv 2503.10959), section 3.
"""

from __future__ import annotations

from collections.abc import Iterator

import torch
from torch import Tensor

from ouro.kernels import rounding
from ouro.kernels.launch import choose, first, on, wrong_dtype
from ouro.kernels.selective_scan import op as scan

NAME = "implicit_attention"
BLOCK_L = 16
PROGRAMS = 2048
"""Warps that keep a large GPU busy: with fewer blocks of entries than that, channels are cut into parts."""


def implicit_attention(
    delta: Tensor,
    A: Tensor,
    B: Tensor,
    C: Tensor,
    rows: Tensor | None = None,
    *,
    mean: bool = True,
    backend: str = "auto",
) -> Tensor:
    """alpha in float32: the mean over the channels [b r l], or each channel's [b e r l]; in the order of the scan.

    Costs an exponential per row, column up to it, channel and state; keeps nothing of that size.

    Args:
        delta: [b e l], float32, float16 or bfloat16, after softplus and bias.
        A: [e n], n up to 256.
        B, C: [b n l], or [b g n l] where group k of g serves channels k e/g to (k+1) e/g.
        rows: int64 [r], steps whose output is explained; None for all.
        mean: over the channels.
        backend: "auto", "triton" or "reference".

    Raises:
        KernelError: operands that do not fit together, or a backend that cannot serve them.
    """
    given = {"delta": delta, "A": A, "B": B, "C": C, "rows": rows}
    floats = {name: x for name, x in given.items() if name != "rows"}
    tracked = torch.is_grad_enabled() and any(x is not None and x.requires_grad for x in floats.values())
    unsupported = first(
        wrong_dtype(floats, *scan.FLOATS),
        f"A has {A.shape[-1]} states, expected at most {scan.MOST_STATES}" if A.shape[-1] > scan.MOST_STATES else None,
        "it has no gradient" if tracked else None,
    )
    invalid = _misfit(delta, A, B, C, rows)
    if choose(NAME, backend, given, invalid=invalid, unsupported=unsupported, strided=True) == "reference":
        return reference(delta, A, B, C, rows, mean=mean)
    return _launch(delta, A, B, C, rows, mean)


def reference(
    delta: Tensor, A: Tensor, B: Tensor, C: Tensor, rows: Tensor | None = None, *, mean: bool = True
) -> Tensor:
    """The definition in plain torch, one state at a time; b e r l numbers in float32 or float64."""
    real = torch.float64 if delta.dtype == torch.float64 else torch.float32
    delta, A, B, C = (x.to(real) for x in (delta, A, B, C))
    alpha = torch.zeros((), dtype=real, device=delta.device)
    for exponent, read in _states(delta, A, B, C, rows):
        alpha = alpha + exponent.exp() * read
    return alpha.mean(1) if mean else alpha


def bounds(
    delta: Tensor, A: Tensor, B: Tensor, C: Tensor, rows: Tensor | None = None, *, mean: bool = True
) -> dict[str, Tensor]:
    """How far float32 may be from the definition, per element."""
    size = error = torch.zeros((), dtype=torch.float64, device=delta.device)
    for exponent, read in _states(delta.double(), A.double(), B.double(), C.double(), rows):
        term = exponent.exp() * read.abs()
        size = size + term
        # A in units of ln 2 and that constant, times a sum of deltas that was made in float64
        error = error + term * rounding.exponential(exponent, 4) + rounding.FLUSHED * read.abs()
    channels, N = A.shape
    error = error + (N + 3) * rounding.HALF * size
    return {"y": (error + (channels + 1) * rounding.HALF * size).mean(1) if mean else error}


def _states(delta: Tensor, A: Tensor, B: Tensor, C: Tensor, rows: Tensor | None) -> Iterator[tuple[Tensor, Tensor]]:
    """A_n (delta_{j+1} + .. + delta_i) and C_i[n] delta_j B_j[n], both [b e r l], of one state after the other."""
    B, C = (x.unsqueeze(1) if x.dim() == 3 else x for x in (B, C))
    per_group = delta.shape[1] // B.shape[1]
    steps = torch.arange(delta.shape[2], device=delta.device)
    rows = steps if rows is None else rows
    reached = steps <= rows[:, None]
    later = (delta.unsqueeze(2) * reached).flip(-1).cumsum(-1).flip(-1)  # [b e r l], delta_j to delta_i
    time = torch.cat([later[..., 1:], torch.zeros_like(later[..., :1])], dim=-1)
    entering = delta.unsqueeze(2) * reached
    for n in range(A.shape[1]):
        read = C[:, :, n, rows].unsqueeze(-1) * B[:, :, n].unsqueeze(-2)  # [b g r l]
        yield A[:, n, None, None] * time, read.repeat_interleave(per_group, dim=1) * entering


def _misfit(delta: Tensor, A: Tensor, B: Tensor, C: Tensor, rows: Tensor | None) -> str | None:
    if (why := scan.misfit(delta, delta, A, B, C, None)) is not None:
        return why.replace("u is", "delta is", 1) if why.startswith("u is") else why
    if rows is None:
        return None
    if rows.dim() != 1 or rows.dtype != torch.int64 or len(rows) == 0:
        return f"rows is {tuple(rows.shape)} {rows.dtype}, expected a non-empty (r,) of int64"
    if rows.device.type != "meta" and not ((rows >= 0) & (rows < delta.shape[2])).all():
        return f"rows has {rows.tolist()}, expected steps from 0 to {delta.shape[2] - 1}"
    return None


def _launch(delta: Tensor, A: Tensor, B: Tensor, C: Tensor, rows: Tensor | None, mean: bool) -> Tensor:
    from ouro.kernels.implicit_attention import kernel

    batch, E, L = delta.shape
    N = A.shape[1]
    steps, B, C = scan.rows(delta), scan.matrices(B), scan.matrices(C)
    rows = torch.arange(L, device=delta.device) if rows is None else rows.contiguous()
    groups, count, columns = B.shape[1], len(rows), -(-L // BLOCK_L)
    blocks = groups * -(-E // groups // scan.CHANNELS)
    parts = min(blocks, max(1, PROGRAMS // (columns * count * batch)))
    each = -(-blocks // parts)
    parts = -(-blocks // each)
    width = scan.vector(B, C)
    shape = (parts, batch, count, L) if mean else (batch, count, L, E)
    out = torch.empty(shape, device=delta.device)
    block_n = 1 << (N - 1).bit_length()
    with on(delta.device):
        kernel.entries[columns, count * batch, parts](
            steps, steps.double().cumsum(1).contiguous(), A.float().t().contiguous(), B, C, rows, out,
            L, count, each, steps.stride(0), *(s // width for x in (B, C) for s in x.stride()[:2]),
            delta_l=steps.stride(1), B_l=B.stride(2), C_l=C.stride(2), E=E, N=N, BLOCK_N=block_n,
            BLOCK_E=scan.CHANNELS, BLOCK_L=BLOCK_L, GROUPS=groups, VECTOR=width, MEAN=mean,
            num_warps=max(1, block_n // 32),
        )  # fmt: skip
    return out.sum(0) / E if mean else out.permute(0, 3, 1, 2)
