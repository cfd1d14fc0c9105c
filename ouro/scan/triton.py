"""The Triton scans behind our signature: y with gradient, y and y_p with gradient, or y and every state without."""

from __future__ import annotations

import torch

from ouro.kernels.launch import can_run
from ouro.kernels.patched_scan import WIDEST, patched_scan
from ouro.kernels.selective_scan import scan_with_states, selective_scan, unsupported
from ouro.scan.order import raster_steps
from ouro.types import PatchWindow, ScanInputs, ScanOutput, ScanRounding


def refusal(
    inputs: ScanInputs, keep_states: bool, rounding: ScanRounding | None, window: PatchWindow | None, needs_grad: bool
) -> str | None:
    """Why it cannot serve this request, or None if it can."""
    if (why := can_run(inputs.u.device)) is not None:
        return why
    if rounding is not None:
        return "it rounds nothing inside the recurrence"
    if window is not None and window.size > WIDEST:
        return f"its window is at most {WIDEST} wide, this one {window.size}"
    if window is not None and keep_states:
        return "it returns the states or a window of them, not both"
    if keep_states and needs_grad:
        return "the states it returns carry no gradient"
    return unsupported(inputs.u, inputs.delta, inputs.A, inputs.B, inputs.C, inputs.D)


def scan(
    inputs: ScanInputs,
    keep_states: bool = False,
    rounding: ScanRounding | None = None,
    window: PatchWindow | None = None,
) -> ScanOutput:
    """What dispatch lets through: no rounding, and states or a window."""
    assert rounding is None
    operands = inputs.u, inputs.delta, inputs.A, inputs.B, inputs.C, inputs.D
    if window is not None:
        steps = raster_steps(window.order).to(inputs.u.device)
        out = patched_scan(*operands, window.weights, steps, grid=window.order.grid, size=window.size, backend="triton")
        return ScanOutput(out.y, y_p=out.y_p)
    if keep_states:
        y, h = scan_with_states(*operands)
        return ScanOutput(y, h.to(y.dtype))
    return ScanOutput(selective_scan(*operands, backend="triton"))


def unavailable() -> str | None:
    """Why it cannot run on this machine, or None; the interpreter is for tests and does not count."""
    return can_run(torch.device("cuda")) if torch.cuda.is_available() else "no CUDA device"
