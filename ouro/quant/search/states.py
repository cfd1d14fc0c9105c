"""Hidden states of recorded scans, a few samples at a time: how large they are, and samples to search on."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import replace

import torch
from torch import Tensor

from ouro.scan import selective_scan
from ouro.types import ScanInputs, ScanOutput

_PIECE = 4
"""Samples whose states are held at a time."""


def mean_state(scans: Sequence[ScanInputs]) -> Tensor:
    """Mean of |h| over all samples of all chunks, [e l n]; holds the states of a few samples at a time.

    Raises:
        ValueError: there are no scans.
    """
    total, samples = None, 0
    for h in _states(scans):
        size = h.abs().sum(0, dtype=torch.float64)
        total = size if total is None else total.add_(size)
        samples += len(h)
    assert total is not None
    return (total / samples).to(scans[0].u.dtype)


def largest_state(scans: Sequence[ScanInputs]) -> Tensor:
    """Maximum of |h| over all samples of all chunks, [e l n]; holds the states of a few samples at a time.

    Raises:
        ValueError: there are no scans.
    """
    greatest = None
    for h in _states(scans):
        size = h.abs().amax(0)
        greatest = size if greatest is None else torch.maximum(greatest, size)
    assert greatest is not None
    return greatest


@torch.no_grad()
def _states(scans: Sequence[ScanInputs]) -> Iterator[Tensor]:
    """h [b e l n] of a few samples at a time."""
    _require(scans)
    for inputs in scans:
        for piece in pieces(inputs):
            yield kept(selective_scan(replace(piece, D=None), keep_states=True))


def kept(out: ScanOutput) -> Tensor:
    """The states of a scan that was asked to keep them, [b e l n]."""
    assert out.h is not None
    return out.h


def pieces(inputs: ScanInputs) -> Iterator[ScanInputs]:
    """The same scan, a few samples at a time."""
    for first in range(0, len(inputs.u), _PIECE):
        yield _select(inputs, slice(first, first + _PIECE))


def _select(inputs: ScanInputs, samples: slice | Tensor) -> ScanInputs:
    """The same scan of these samples, without their graph."""
    u, delta, B, C = (x.detach()[samples] for x in (inputs.u, inputs.delta, inputs.B, inputs.C))
    return replace(inputs, u=u, delta=delta, A=inputs.A.detach(), B=B, C=C)


def sample(scans: Sequence[ScanInputs], samples: int) -> ScanInputs:
    """At most so many samples of all chunks as one, evenly spaced.

    Raises:
        ValueError: there are no scans, fewer than one sample is wanted, or operands are not finite.
    """
    _require(scans)
    if samples < 1:
        raise ValueError(f"samples is {samples}, expected at least 1")
    total = sum(len(inputs.u) for inputs in scans)
    chosen = torch.arange(min(samples, total)) * total // min(samples, total)
    parts, first = [], 0
    for inputs in scans:
        here = chosen[(chosen >= first) & (chosen < first + len(inputs.u))] - first
        parts.append(_select(inputs, here.to(inputs.u.device)))
        first += len(inputs.u)
    u, delta, B, C = (torch.cat([getattr(part, name) for part in parts]) for name in ("u", "delta", "B", "C"))
    selected = replace(parts[0], u=u, delta=delta, B=B, C=C)
    if not all(x.isfinite().all() for x in (u, delta, B, C, selected.A)):
        raise ValueError("the operands of the scan are not all finite; look for NaN or infinity in what was recorded")
    return selected


def _require(scans: Sequence[ScanInputs]) -> None:
    if not scans:
        raise ValueError("there are no scans to look at; record at least one")
