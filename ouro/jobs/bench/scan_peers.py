"""What a fast selective scan on a CPU is without this library: torch alone, compiled by torch.compile.

Each peer is the recurrence of `ouro.scan.reference` in another form: a loop whose step is compiled, torch's own
associative_scan (Blelloch 1990), and log2 L rounds that double how far each step reaches (Hillis & Steele 1986).
"""

from __future__ import annotations

import importlib
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass

import torch
from torch import Tensor

from ouro.scan import reference
from ouro.scan.discretize import discretize, per_channel
from ouro.types import ScanInputs, ScanOutput

Scan = Callable[[ScanInputs], Tensor]


@dataclass(frozen=True, slots=True)
class ScanPeer:
    """make: y [b e l] of the operands, compiled anew. trains: torch can take its gradient."""

    name: str
    make: Callable[[], Scan]
    trains: bool = True


def _steps() -> Scan:
    @torch.compile(dynamic=False)
    def step(h: Tensor, u: Tensor, delta: Tensor, A: Tensor, B: Tensor, C: Tensor) -> tuple[Tensor, Tensor]:
        h = (delta.unsqueeze(-1) * A).exp() * h + (delta * u).unsqueeze(-1) * B
        return h, (h * C).sum(-1)

    @torch.compiler.disable
    def scan(inputs: ScanInputs) -> Tensor:
        u, delta, B, C = _operands(inputs)
        h, ys = torch.zeros(*u.shape[:2], B.shape[2]), []
        for t in range(u.shape[-1]):
            h, y = step(h, u[..., t], delta[..., t], inputs.A, B[..., t], C[..., t])
            ys.append(y)
        return _with_skip(torch.stack(ys, dim=-1), inputs)

    return scan


def _associative() -> Scan:
    higher = importlib.import_module("torch._higher_order_ops.associative_scan")

    def combine(left: tuple[Tensor, Tensor], right: tuple[Tensor, Tensor]) -> tuple[Tensor, Tensor]:
        return left[0] * right[0], right[0] * left[1] + right[1]

    def scan(inputs: ScanInputs) -> Tensor:
        A_bar, entering, C = _expanded(inputs)
        h = higher.associative_scan(combine, (A_bar, entering), dim=2, combine_mode="generic")[1]
        return _with_skip((h * C).sum(-1), inputs)

    return torch.compile(scan, dynamic=False)


def _doubling() -> Scan:
    def scan(inputs: ScanInputs) -> Tensor:
        A_bar, h, C = _expanded(inputs)
        reach = 1
        while reach < h.shape[2]:
            further = A_bar[:, :, reach:]
            h = torch.cat([h[:, :, :reach], further * h[:, :, :-reach] + h[:, :, reach:]], dim=2)
            A_bar = torch.cat([A_bar[:, :, :reach], further * A_bar[:, :, :-reach]], dim=2)
            reach *= 2
        return _with_skip((h * C).sum(-1), inputs)

    return torch.compile(scan, dynamic=False)


PEERS = (
    ScanPeer("loop, compiled step", _steps),
    ScanPeer("associative_scan, compiled", _associative, trains=False),
    ScanPeer("log-depth, compiled", _doubling),
)


@contextmanager
def served_by(scan: Scan) -> Iterator[None]:
    """While it lasts, the backend "reference" is this scan; nothing else may run it meanwhile."""
    definition = reference.scan

    def serve(inputs: ScanInputs, keep_states: bool, rounding: object, window: object) -> ScanOutput:
        return ScanOutput(scan(inputs), None, None)

    reference.scan = serve  # type: ignore[assignment]
    try:
        yield
    finally:
        reference.scan = definition


def _operands(inputs: ScanInputs) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """u, delta [b e l], B and C [b 1|e n l]."""
    channels = inputs.u.shape[1]
    B, C = (
        x.unsqueeze(1) if x.dim() == 3 else x.repeat_interleave(channels // x.shape[1], dim=1)
        for x in (inputs.B, inputs.C)
    )
    return inputs.u, inputs.delta, B, C


def _expanded(inputs: ScanInputs) -> tuple[Tensor, Tensor, Tensor]:
    """A_bar, B_bar u and C, all [b e l n]."""
    A_bar, B_bar = discretize(inputs)
    return A_bar, B_bar * inputs.u.unsqueeze(-1), per_channel(inputs.C, inputs.u.shape[1])


def _with_skip(y: Tensor, inputs: ScanInputs) -> Tensor:
    return y if inputs.D is None else y + inputs.D[:, None] * inputs.u
