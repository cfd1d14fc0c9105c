"""The Triton scan (ouro.kernels.selective_scan) behind our signature: forward with gradient, or every state without."""

from __future__ import annotations

import torch

from ouro.kernels.launch import can_run
from ouro.kernels.selective_scan import scan_with_states, selective_scan, unsupported
from ouro.types import PatchWindow, ScanInputs, ScanOutput, ScanRounding


def refusal(
    inputs: ScanInputs, keep_states: bool, rounding: ScanRounding | None, window: PatchWindow | None, needs_grad: bool
) -> str | None:
    """Why it cannot serve this request, or None if it can."""
    if (why := can_run(inputs.u.device)) is not None:
        return why
    if rounding is not None or window is not None:
        return "it rounds nothing inside the recurrence and has no window"
    if keep_states and needs_grad:
        return "the states it returns carry no gradient"
    return unsupported(inputs.u, inputs.delta, inputs.A, inputs.B, inputs.C, inputs.D)


def scan(
    inputs: ScanInputs,
    keep_states: bool = False,
    rounding: ScanRounding | None = None,
    window: PatchWindow | None = None,
) -> ScanOutput:
    """y, and h when states are kept; dispatch refuses every other request before it comes here."""
    assert rounding is None and window is None
    operands = inputs.u, inputs.delta, inputs.A, inputs.B, inputs.C, inputs.D
    if keep_states:
        y, h = scan_with_states(*operands)
        return ScanOutput(y, h.to(y.dtype))
    return ScanOutput(selective_scan(*operands, backend="triton"))


def unavailable() -> str | None:
    """Why it cannot run on this machine, or None; the interpreter is for tests and does not count."""
    return can_run(torch.device("cuda")) if torch.cuda.is_available() else "no CUDA device"
