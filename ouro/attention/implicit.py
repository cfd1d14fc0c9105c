"""Implicit attention of a selective scan: the matrix alpha with y = alpha u + D u, in closed form.

    alpha[b, e, i, j] = sum_n C_i[n] exp(A[e, n] (S_i - S_j)) delta_j[e] B_j[n]   for j <= i, else 0

Rows are output steps, columns input steps, both in scan order. The exponent is never positive, so nothing overflows.
Skip and gate are left out.
Source: Ali et al. 2024 (The Hidden Attention of Mamba Models); OuroMamba (arXiv 2503.10959), section 3.
"""

from __future__ import annotations

from collections.abc import Iterator

import torch
from torch import Tensor
from torch.utils.checkpoint import checkpoint

from ouro.scan.contract import contract
from ouro.scan.transition import elapsed, transition
from ouro.types import PatchWindow, ScanInputs, ScanRecord

CHUNK = 16
"""Channels that a per-channel map holds at a time."""


def alpha(source: ScanRecord | ScanInputs, reduce: str | Tensor | None = "mean", T: Tensor | None = None) -> Tensor:
    """Implicit attention in scan order, class token included; differentiable.

    Args:
        reduce: "mean" over the channels, [b l l], through the compiled transition: milliseconds an image. None for
            every channel, [b e l l]: b e l^2 n exponentials and as many numbers as b e l^2; identity per channel:
            alpha @ u + D u == y. Or the indices of the channels wanted, [b k l l].
        T: `scan_transition(source)`, if it is at hand; only the mean uses it.

    Raises:
        ValueError: `reduce` is another word, or a channel that does not exist.
    """
    inputs = operands(source)
    channels = channels_of(inputs, reduce)
    if channels is None:
        return mean_attention(inputs, None, T)
    return torch.cat([_channel_rows(inputs, chunk) for chunk in channels.split(CHUNK)], dim=1)


def operands(source: ScanRecord | ScanInputs) -> ScanInputs:
    """Of a record what was scanned.

    Raises:
        ValueError: it is neither a record nor operands.
    """
    inputs = source.inputs if isinstance(source, ScanRecord) else source
    if not isinstance(inputs, ScanInputs):
        raise ValueError(f"a scan is given as a {type(source).__name__}, expected one of trace.scans, or its inputs")
    return inputs


def scan_transition(source: ScanRecord | ScanInputs) -> Tensor:
    """The transition T of a scan, per group where B and C are grouped: what all of its mean maps share."""
    inputs = operands(source)
    return transition(inputs.delta, inputs.A, inputs.B.shape[1] if inputs.B.dim() == 4 else None)


def mean_attention(inputs: ScanInputs, window: PatchWindow | None, T: Tensor | None) -> Tensor:
    """Channel-mean attention [b l l], or [b p l] through a window; its gradient makes T anew instead of keeping it."""
    if T is not None:
        return contract(T, inputs.B, inputs.C, window)

    def attend() -> Tensor:
        return contract(scan_transition(inputs), inputs.B, inputs.C, window)

    return checkpoint(attend, use_reentrant=False, preserve_rng_state=False) if torch.is_grad_enabled() else attend()


def channels_of(inputs: ScanInputs, reduce: str | Tensor | None) -> Tensor | None:
    """The channels that `reduce` asks for one by one; None for their mean."""
    count = inputs.u.shape[1]
    if reduce is None:
        return torch.arange(count, device=inputs.u.device)
    if isinstance(reduce, Tensor):
        if reduce.dim() != 1 or reduce.dtype != torch.int64 or not ((reduce >= 0) & (reduce < count)).all():
            raise ValueError(f"channels {reduce.tolist()} are no indices, expected int64 [k] from 0 to {count - 1}")
        return reduce.to(inputs.u.device)
    if reduce != "mean":
        raise ValueError(f"unknown reduction of channels {reduce!r}; known: 'mean', None (all of them), indices")
    return None


def _channel_rows(inputs: ScanInputs, channels: Tensor) -> Tensor:
    return torch.stack([C.unsqueeze(-1) * held for held, C in held_inputs(inputs, channels)]).sum(0)


def held_inputs(inputs: ScanInputs, channels: Tensor) -> Iterator[tuple[Tensor, Tensor]]:
    """For each state n: (how much of u_j is in h_i[n], [b k l l]; C[n], [b k l]) of the channels asked for."""
    delta = inputs.delta[:, channels]
    gap = elapsed(delta)
    B, C = inputs.B, inputs.C
    if B.dim() == 4:
        group = channels // (inputs.u.shape[1] // B.shape[1])
        B, C = B[:, group].transpose(1, 2), C[:, group].transpose(1, 2)
    else:
        B, C = B.unsqueeze(2), C.unsqueeze(2)
    for n in range(inputs.A.shape[1]):
        decay = (inputs.A[channels, n, None, None] * gap).exp()
        yield (decay * (delta * B[:, n]).unsqueeze(-2)).tril(), C[:, n]
