"""The selective mixer: one projection in, one scan per path over the tokens, one projection out.

Source: Gu & Dao 2023 (Mamba block); Vim, VMamba, LocalMamba, MambaVision and ZigMa are the same block with other paths,
another convolution in front and another place for the gate. All of that is data: a `MixerSpec`.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any, cast

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from ouro.models.layers import Linear, TokenConv1d, TokenConv2d
from ouro.scan import selective_scan
from ouro.scan.companding import compand
from ouro.scan.discretize import discretize
from ouro.taps import ScanModule, Tap
from ouro.types import PADDING, ScanInputs, ScanOrder, ScanRounding

CONVOLUTIONS = ("path", "line", "grid")
GATES = ("path", "merge", "concat", "none")


@dataclass(frozen=True, slots=True)
class MixerSpec:
    """What makes one mixer differ from another.

    Args:
        width: M, channels of the tokens.
        inner: E, channels of every scan.
        states: N, states per channel.
        rank: width of the low-rank step size.
        orders: one scan per order; their results are summed.
        tokens: the order in which tokens come in and go out.
        kernel: size of the convolution in front of the scans.
        conv: "path": every scan has a causal one along its own path; "line": one over the tokens as they come,
            symmetric, and a second for the gate; "grid": one over the 2-D grid for all scans.
        gate: where SiLU(z) goes: "path" on every scan's result, "merge" on their sum, "concat" beside it, "none".
        scale: factor on the sum over the scans (1/2 makes Vim's two directions a mean).
        norm: a LayerNorm on the sum.
        channel_attention: LocalMamba's attention over channels on every scan's result.
        step_biases: how often the bias of the step size is added.
    """

    width: int
    inner: int
    states: int
    rank: int
    orders: tuple[ScanOrder, ...]
    tokens: ScanOrder
    kernel: int = 4
    conv: str = "path"
    conv_bias: bool = True
    gate: str = "merge"
    scale: float = 1.0
    norm: bool = False
    channel_attention: bool = False
    step_biases: int = 1

    def __post_init__(self) -> None:
        if self.conv not in CONVOLUTIONS or self.gate not in GATES:
            raise ValueError(
                f"conv is {self.conv!r} and gate {self.gate!r}; known: {', '.join(CONVOLUTIONS)} and {', '.join(GATES)}"
            )


class Scan(ScanModule):
    """One selective scan with its input-dependent operands; every operand passes a tap."""

    def __init__(self, spec: MixerSpec, order: ScanOrder) -> None:
        super().__init__(order)
        self.step_biases = spec.step_biases
        self.split = (spec.rank, spec.states, spec.states)
        self.conv1d = TokenConv1d(spec.inner, spec.kernel, bias=spec.conv_bias) if spec.conv == "path" else None
        self.x_proj = Linear(spec.inner, spec.rank + 2 * spec.states, bias=False, role="x_proj")
        self.dt_proj = Linear(spec.rank, spec.inner, bias=True, role="dt_proj")
        self.A_log = nn.Parameter(torch.arange(1, spec.states + 1).float().log().repeat(spec.inner, 1))
        self.D = nn.Parameter(torch.ones(spec.inner))
        _init_step_size(self.dt_proj, spec.rank)
        self.tap_u = Tap("scan.u", "b e l")
        self.tap_delta_raw = Tap("scan.delta_raw", "b e l")
        self.tap_delta = Tap("scan.delta", "b e l")
        self.tap_A = Tap("scan.A", "e n")
        self.tap_B = Tap("scan.B", "b n l")
        self.tap_C = Tap("scan.C", "b n l")
        self.tap_D = Tap("scan.D", "e")
        self.tap_A_bar = Tap("scan.A_bar", "b e l n", costly=True)
        self.tap_B_bar = Tap("scan.B_bar", "b e l n", costly=True)
        self.tap_h = Tap("scan.h", "b e l n", costly=True)
        self.tap_y = Tap("scan.y", "b e l")

    def forward(self, x: Tensor) -> Tensor:
        """x [b l e] in scan order -> y [b l e], skip included, before the gate."""
        u = x if self.conv1d is None else F.silu(self.conv1d(x))
        low, B, C = self.x_proj(u).split(self.split, dim=-1)
        raw = self.dt_proj(low)
        if self.step_biases > 1:
            raw = raw + (self.step_biases - 1) * self.dt_proj.bias
        # delta_raw includes the bias: softplus sees exactly what this tap sees
        delta = self.tap_delta(F.softplus(self.tap_delta_raw(raw.transpose(1, 2))))
        inputs = ScanInputs(
            u=self.tap_u(u.transpose(1, 2)),
            delta=delta,
            A=self.tap_A(-self.A_log.exp()),
            B=self.tap_B(B.transpose(1, 2)),
            C=self.tap_C(C.transpose(1, 2)),
            D=self.tap_D(self.D),
        )
        rounding = self._rounding()
        out = selective_scan(inputs, backend=self.backend, keep_states=self.tap_h.recorded, rounding=rounding)
        if out.h is not None:
            self.tap_h.observe(out.h)
        self._observe_discretized(inputs, rounding or ScanRounding())
        return self.tap_y(out.y).transpose(1, 2)

    def _rounding(self) -> ScanRounding | None:
        """What is rounded inside the recurrence: a quantizer there states its rule, and the scan applies it."""
        held = (tap.quantizer for tap in (self.tap_h, self.tap_A_bar, self.tap_B_bar))
        rules = [None if quantizer is None else cast(Any, quantizer).rule() for quantizer in held]
        return ScanRounding(*rules) if any(rule is not None for rule in rules) else None

    def _observe_discretized(self, inputs: ScanInputs, rounding: ScanRounding) -> None:
        """Shows A_bar and B_bar as they enter the recurrence to whoever records them; nobody else pays for them."""
        if not (self.tap_A_bar.recorded or self.tap_B_bar.recorded):
            return
        taps, rules = (self.tap_A_bar, self.tap_B_bar), (rounding.A_bar, rounding.B_bar)
        for tap, exact, rule in zip(taps, discretize(inputs), rules, strict=True):
            if tap.recorded:
                tap.observe(exact if rule is None else compand(exact, rule))


class Mixer(nn.Module):
    """in_proj -> [x, z]; every path scans x; gated and merged, the result goes through out_proj. See `MixerSpec`."""

    def __init__(self, spec: MixerSpec) -> None:
        super().__init__()
        self.spec = spec
        gated, inner = spec.gate != "none", spec.inner
        self.in_proj = Linear(spec.width, (1 + gated) * inner, bias=False, role="in_proj")
        self.conv, self.conv_gate = _conv_before_paths(spec), None
        if gated:
            self.tap_gate = Tap("gate", "b l e")
            if spec.conv == "line":
                self.conv_gate = _conv_before_paths(spec)
        self.scans = nn.ModuleList(Scan(spec, order) for order in spec.orders)
        self.walks = [Walk(order, spec.tokens) for order in spec.orders]
        self.attention = ChannelAttention(inner) if spec.channel_attention else None
        self.norm = nn.LayerNorm(inner) if spec.norm else None
        self.out_proj = Linear((1 + (spec.gate == "concat")) * inner, spec.width, bias=False, role="out_proj")

    def forward(self, tokens: Tensor) -> Tensor:
        """tokens [b l c] in the model's own order -> [b l c]."""
        x, gate = self._project(tokens)
        results = []
        for scan, walk in zip(self.scans, self.walks, strict=True):
            y = walk.back(scan(walk.there(x)))
            if self.spec.gate == "path":
                y = y * cast(Tensor, gate)
            results.append(y if self.attention is None else self.attention(y))
        merged = results[0] if len(results) == 1 else torch.stack(results).sum(0)
        if self.spec.scale != 1:
            merged = merged * self.spec.scale
        if self.norm is not None:
            merged = self.norm(merged)
        if self.spec.gate == "merge":
            merged = merged * cast(Tensor, gate)
        if self.spec.gate == "concat":
            merged = torch.cat([merged, cast(Tensor, gate)], dim=-1)
        return self.out_proj(merged)

    def _project(self, tokens: Tensor) -> tuple[Tensor, Tensor | None]:
        """What the paths scan, and the gate."""
        x, gate = self.in_proj(tokens), None
        if self.spec.gate != "none":
            x, z = x.chunk(2, dim=-1)
            gate = self.tap_gate(F.silu(z if self.conv_gate is None else self.conv_gate(z)))
        return x if self.conv is None else F.silu(self.conv(x)), gate


class ChannelAttention(nn.Module):
    """y * sigmoid(W2 GELU(W1 mean over tokens(LayerNorm(y)))): LocalMamba's BiAttn, shared by all paths of a mixer."""

    def __init__(self, width: int, reduction: int = 8) -> None:
        super().__init__()
        self.norm = nn.LayerNorm(width)
        self.reduce = nn.Linear(width, width // reduction)
        self.select = nn.Linear(width // reduction, width)

    def forward(self, y: Tensor) -> Tensor:
        pooled = self.norm(y).mean(1, keepdim=True)
        return y * torch.sigmoid(self.select(F.gelu(self.reduce(pooled))))


class Walk:
    """Takes tokens [b l c] into a scan's order and back; steps that read PADDING see zeros, and are dropped again."""

    def __init__(self, order: ScanOrder, tokens: ScanOrder) -> None:
        self.kind = "as is" if order.cells == tokens.cells else "gathered"
        if self.kind == "gathered" and order.cells == tokens.cells[::-1]:
            self.kind = "flipped"
        if self.kind == "gathered":
            token_of = {cell: index for index, cell in enumerate(tokens.cells)} | {PADDING: len(tokens.cells)}
            step_of = {cell: step for step, cell in enumerate(order.cells)}
            self.padded = PADDING in step_of
            # made on the CPU and moved when used: a module on the meta device still knows its path
            self.tokens_read = torch.tensor([token_of[cell] for cell in order.cells], device="cpu")
            self.steps_kept = torch.tensor([step_of[cell] for cell in tokens.cells], device="cpu")

    def there(self, x: Tensor) -> Tensor:
        """Token order -> scan order."""
        if self.kind != "gathered":
            return x.flip(1) if self.kind == "flipped" else x
        if self.padded:
            x = F.pad(x, (0, 0, 0, 1))
        return x.index_select(1, self.tokens_read.to(x.device))

    def back(self, y: Tensor) -> Tensor:
        """Scan order -> token order."""
        if self.kind != "gathered":
            return self.there(y)
        return y.index_select(1, self.steps_kept.to(y.device))


def _conv_before_paths(spec: MixerSpec) -> nn.Module | None:
    """The convolution that all paths share, where there is one."""
    if spec.conv == "line":
        return TokenConv1d(spec.inner, spec.kernel, causal=False, bias=spec.conv_bias)
    if spec.conv == "grid":
        return TokenConv2d(
            spec.tokens.grid, spec.inner, spec.inner, spec.kernel, site="conv", depthwise=True, bias=spec.conv_bias
        )
    return None


def _init_step_size(dt_proj: nn.Linear, rank: int) -> None:
    """Step sizes start log-uniform in [0.001, 0.1]; official Mamba initialisation."""
    if dt_proj.weight.is_meta:
        # nothing is there to be filled, and asking for it costs more than building the rest
        return
    nn.init.uniform_(dt_proj.weight, -(rank**-0.5), rank**-0.5)
    with torch.no_grad():
        step = torch.exp(torch.rand(dt_proj.bias.shape) * math.log(100) + math.log(1e-3)).clamp(min=1e-4)
        dt_proj.bias.copy_(step + torch.log(-torch.expm1(-step)))
