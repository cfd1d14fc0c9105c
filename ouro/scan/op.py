"""The compiled CPU scan as one operator of torch, `ouro::selective_scan`: what `torch.export` and `torch.compile` see.

Both trace a model with tensors that hold no numbers, which no compiled loop can take. To them a scan is one node with a
known shape and a known gradient; outside of tracing nobody comes here, `ouro.scan.cpu` is called as it is.

An exported program names the operator and does not hold it: whoever loads and runs one imports `ouro.scan` first, which
registers it, and needs this package with numba.
"""

from __future__ import annotations

from importlib import import_module
from types import SimpleNamespace
from typing import Any

import torch
from torch import Tensor

from ouro.types import ScanInputs, ScanRounding


def traced(inputs: ScanInputs) -> Tensor:
    """y [b e l] of a plain scan, as one node of the graph that is being made."""
    return _scan(inputs.u, inputs.delta, inputs.A, inputs.B, inputs.C, inputs.D)


@torch.library.custom_op("ouro::selective_scan", mutates_args=(), device_types="cpu")
def _scan(u: Tensor, delta: Tensor, A: Tensor, B: Tensor, C: Tensor, D: Tensor | None) -> Tensor:
    return _like(u, _forward(u, delta, A, B, C, D)[1])


@torch.library.custom_op("ouro::selective_scan_backward", mutates_args=(), device_types="cpu")
def _gradients(
    dy: Tensor, u: Tensor, delta: Tensor, A: Tensor, B: Tensor, C: Tensor, D: Tensor | None
) -> tuple[Tensor, Tensor, Tensor, Tensor, Tensor, Tensor]:
    """Of u, delta, A, B, C and D; [0] without D. The operands are walked once more: nothing of the forward is kept."""
    context, y = _forward(u, delta, A, B, C, D)
    made = _bridge().backward(context, dy, y.new_zeros(len(u), u.shape[1], 0), None)[:6]
    *others, last = made
    du, ddelta, dA, dB, dC = (_like(x, grad) for x, grad in zip((u, delta, A, B, C), others, strict=True))
    return du, ddelta, dA, dB, dC, u.new_zeros(0) if D is None else _like(D, last)


@_scan.register_fake
def _(u: Tensor, delta: Tensor, A: Tensor, B: Tensor, C: Tensor, D: Tensor | None) -> Tensor:
    return torch.empty_like(u)


@_gradients.register_fake
def _(
    dy: Tensor, u: Tensor, delta: Tensor, A: Tensor, B: Tensor, C: Tensor, D: Tensor | None
) -> tuple[Tensor, Tensor, Tensor, Tensor, Tensor, Tensor]:
    last = u.new_empty(0) if D is None else torch.empty_like(D)
    du, ddelta, dA, dB, dC = (torch.empty_like(x) for x in (u, delta, A, B, C))
    return du, ddelta, dA, dB, dC, last


def _keep(ctx: Any, inputs: tuple[Tensor | None, ...], output: Tensor) -> None:
    ctx.save_for_backward(*inputs)


def _backward(ctx: Any, dy: Tensor) -> tuple[Tensor | None, ...]:
    operands = ctx.saved_tensors
    *made, dD = _gradients(dy, *operands)
    return *made, None if operands[-1] is None else dD


_scan.register_autograd(_backward, setup_context=_keep)


def _like(operand: Tensor, values: Tensor) -> Tensor:
    """The values in the type and the order in memory of an operand, which is what tracing takes them for."""
    return torch.empty_like(operand).copy_(values)


def _bridge() -> Any:
    # numba is heavy: only when something is computed
    return import_module("ouro.scan.cpu")._Scan


def _forward(u: Tensor, delta: Tensor, A: Tensor, B: Tensor, C: Tensor, D: Tensor | None) -> tuple[Any, Tensor]:
    """(what the backward needs, y) of the kernel, without autograd, which is torch's own part here."""
    context = SimpleNamespace(mark_non_differentiable=lambda *_: None)
    y, _, _ = _bridge().forward(context, u, delta, A, B, C, D, None, ScanRounding(), None, False)
    return context, y
