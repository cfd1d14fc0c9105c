"""The selective scan by its definition: a loop over tokens. Slow on purpose; every other backend answers to it.

Source: Gu & Dao 2023, eq. 2 and alg. 2; agrees with selective_scan_ref of state-spaces/mamba.
"""

from __future__ import annotations

import torch
from torch import Tensor

from ouro.scan.companding import compand
from ouro.scan.discretize import discretize, per_channel
from ouro.scan.order import to_raster
from ouro.scan.window import patched_states
from ouro.types import PatchWindow, ScanInputs, ScanOutput, ScanRounding, StateQuantizer


def round_state(h: Tensor, quantizer: StateQuantizer, step: int) -> Tensor:
    """Q(h_l) for h [b e n] at one step, with a straight-through gradient inside the range."""
    scale = quantizer.step[step if quantizer.step.numel() > 1 else 0]
    if quantizer.channel is not None:
        scale = scale * quantizer.channel[:, None]
    if quantizer.state is not None:
        scale = scale * quantizer.state
    limit = 2 ** (quantizer.bits - 1)
    x = h / scale
    inside = x.clamp(-limit, limit - 1)
    return (inside + (inside.round() - inside).detach()) * scale


def scan(
    inputs: ScanInputs,
    keep_states: bool = False,
    rounding: ScanRounding | None = None,
    window: PatchWindow | None = None,
) -> ScanOutput:
    """h_t = A_bar_t h_{t-1} + B_bar_t u_t; y_t = C_t h_t + D u_t, any floating dtype, any device."""
    u, C = inputs.u, per_channel(inputs.C, inputs.u.shape[1])
    rounding = rounding or ScanRounding()
    A_bar, B_bar = discretize(inputs)
    if rounding.A_bar is not None:
        A_bar = compand(A_bar, rounding.A_bar)
    if rounding.B_bar is not None:
        B_bar = compand(B_bar, rounding.B_bar)
    drive = B_bar * u.unsqueeze(-1)
    carried = torch.zeros_like(drive[:, :, 0])
    outputs, states = [], []
    for t in range(u.shape[-1]):
        h = A_bar[:, :, t] * carried + drive[:, :, t]
        outputs.append((h * C[:, :, t]).sum(-1))
        if keep_states or window is not None:
            states.append(h)
        carried = h if rounding.h is None else round_state(h, rounding.h, t)
    y = torch.stack(outputs, dim=2)
    if inputs.D is not None:
        y = y + inputs.D[:, None] * u
    y_p = None
    if window is not None:
        patched = patched_states(torch.stack(states, dim=2), window)
        y_p = (patched * to_raster(C, window.order, dim=2)).sum(-1)
    return ScanOutput(y, torch.stack(states, dim=2) if keep_states else None, y_p)
