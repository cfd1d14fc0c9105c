"""The selective mixer: one projection in, one scan per path over the tokens, one projection out.

Source: Gu & Dao 2023 (Mamba block), Zhu et al. 2024 (Vim: the same block scanned in two directions). What differs
between families (how many scans, in which order, how they are merged) is data: one `ScanOrder` per scan.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any, cast

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from ouro.models.layers import CausalConv1d, Linear
from ouro.scan import selective_scan
from ouro.taps import Tap
from ouro.types import PADDING, ScanInputs, ScanOrder, StateQuantizer


class Scan(nn.Module):
    """One selective scan with its input-dependent operands; every operand passes a tap.

    Args:
        width: E, channels of the scan.
        states: N, states per channel.
        rank: width of the low-rank step size.
        kernel: taps of the causal convolution in front.
        order: which raster cell each step reads.
    """

    def __init__(self, width: int, states: int, rank: int, kernel: int, order: ScanOrder) -> None:
        super().__init__()
        self.order = order
        self.backend = "auto"
        self.split = (rank, states, states)
        self.conv1d = CausalConv1d(width, kernel)
        self.x_proj = Linear(width, rank + 2 * states, bias=False)
        self.dt_proj = Linear(rank, width, bias=True)
        self.A_log = nn.Parameter(torch.arange(1, states + 1).float().log().repeat(width, 1))
        self.D = nn.Parameter(torch.ones(width))
        _init_step_size(self.dt_proj, rank)
        self.tap_u = Tap("scan.u", "b e l")
        self.tap_delta_raw = Tap("scan.delta_raw", "b e l")
        self.tap_delta = Tap("scan.delta", "b e l")
        self.tap_A = Tap("scan.A", "e n")
        self.tap_B = Tap("scan.B", "b n l")
        self.tap_C = Tap("scan.C", "b n l")
        self.tap_D = Tap("scan.D", "e")
        self.tap_h = Tap("scan.h", "b e l n", costly=True)
        self.tap_y = Tap("scan.y", "b e l")

    def forward(self, x: Tensor) -> Tensor:
        """x [b l e] in scan order -> y [b l e], skip included, before the gate."""
        u = F.silu(self.conv1d(x))
        low, B, C = self.x_proj(u).split(self.split, dim=-1)
        # delta_raw includes the bias: softplus sees exactly what this tap sees
        delta = self.tap_delta(F.softplus(self.tap_delta_raw(self.dt_proj(low).transpose(1, 2))))
        inputs = ScanInputs(
            u=self.tap_u(u.transpose(1, 2)),
            delta=delta,
            A=self.tap_A(-self.A_log.exp()),
            B=self.tap_B(B.transpose(1, 2)),
            C=self.tap_C(C.transpose(1, 2)),
            D=self.tap_D(self.D),
        )
        # a quantizer of h states its rule, and the scan applies it inside the recurrence
        rule: StateQuantizer | None = None if self.tap_h.quantizer is None else cast(Any, self.tap_h.quantizer).rule()
        out = selective_scan(inputs, backend=self.backend, keep_states=self.tap_h.recorded, state_quantizer=rule)
        if out.h is not None:
            self.tap_h.observe(out.h)
        return self.tap_y(out.y).transpose(1, 2)


class Mixer(nn.Module):
    """in_proj -> [x, z]; every path scans x and gates it with z; the merged result goes through out_proj.

    Args:
        width: M, channels of the tokens.
        scale: factor on the sum over the paths (1/2 makes Vim's two directions a mean).
    """

    def __init__(
        self, width: int, expand: int, states: int, kernel: int, orders: Sequence[ScanOrder], token_order: ScanOrder,
        scale: float,
    ) -> None:  # fmt: skip
        super().__init__()
        inner, rank = expand * width, math.ceil(width / 16)
        self.scale = scale
        self.in_proj = Linear(width, 2 * inner, bias=False)
        self.tap_gate = Tap("gate", "b l e")
        self.scans = nn.ModuleList(Scan(inner, states, rank, kernel, order) for order in orders)
        self.out_proj = Linear(inner, width, bias=False)
        self.paths = [_path(order, token_order) for order in orders]

    def forward(self, tokens: Tensor) -> Tensor:
        """tokens [b l c] in the model's own order -> [b l c]."""
        x, z = self.in_proj(tokens).chunk(2, dim=-1)
        gate = self.tap_gate(F.silu(z))
        merged = torch.stack([_walk_back(s(_walk(x, p)), p) for s, p in zip(self.scans, self.paths, strict=True)])
        return self.out_proj(merged.sum(0) * self.scale * gate)


def _path(order: ScanOrder, tokens: ScanOrder) -> Tensor | str:
    """How to gather tokens into an order: "as is", "flipped", or the index of the token that each step reads."""
    if order.cells == tokens.cells:
        return "as is"
    if order.cells == tokens.cells[::-1]:
        return "flipped"
    assert PADDING not in order.cells, "padded paths gather windows, not tokens"
    return torch.tensor([tokens.cells.index(cell) for cell in order.cells])


def _walk(x: Tensor, path: Tensor | str) -> Tensor:
    if isinstance(path, Tensor):
        return x.index_select(1, path.to(x.device))
    return x.flip(1) if path == "flipped" else x


def _walk_back(y: Tensor, path: Tensor | str) -> Tensor:
    return y.index_select(1, path.argsort().to(y.device)) if isinstance(path, Tensor) else _walk(y, path)


def _init_step_size(dt_proj: nn.Linear, rank: int) -> None:
    """Step sizes start log-uniform in [0.001, 0.1]; official Mamba initialisation."""
    nn.init.uniform_(dt_proj.weight, -(rank**-0.5), rank**-0.5)
    with torch.no_grad():
        step = torch.exp(torch.rand(dt_proj.bias.shape) * math.log(100) + math.log(1e-3)).clamp(min=1e-4)
        dt_proj.bias.copy_(step + torch.log(-torch.expm1(-step)))
