"""What the patched attention of one image, scan and block costs: compiled, in closed form, and as a loop over steps."""

from __future__ import annotations

import time
from collections.abc import Callable, Generator
from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional as F

from ouro.attention.patched import alpha_p, patch_window, raster_columns
from ouro.jobs.bench.timing import percentiles
from ouro.jobs.provenance import run_info
from ouro.scan.discretize import discretize
from ouro.scan.order import row_major, to_raster
from ouro.scan.window import box_sum
from ouro.settings import check_counts
from ouro.streams import generator
from ouro.types import Progress, Report, ScanInputs, ScanRecord

TOLERANCE = 1e-4
"""Gate: largest error of alpha_p and of its gradients against the closed form, relative to the largest entry."""


@dataclass(frozen=True, slots=True)
class AlphaBenchSpec:
    """One image: e channels, n states, a side x side grid; and a smaller grid for the triple loop, which is cubic.

    Raises:
        ValueError: a size below 1, or a window wider than the smaller grid.
    """

    e: int = 384
    n: int = 16
    side: int = 14
    loop_side: int = 7
    window: int = 5
    repeats: int = 10
    seed: int = 0

    def __post_init__(self) -> None:
        check_counts(self, "e", "n", "side", "loop_side", "window", "repeats")
        if self.window > self.loop_side:
            raise ValueError(f"window is {self.window}, the smaller grid has only {self.loop_side} patches a side")


def bench_alpha(spec: AlphaBenchSpec) -> Generator[Progress, None, Report]:
    """{op, device, gate, rows: [{op, case, backend, p20_ms, p50_ms, p80_ms, ratio}]}; ratio to the closed form's p50.

    "compiled" is the channel mean through the compiled transition, "closed form" every channel's exponentials, "loop"
    products of decays step by step. Forward and backward where a gradient is named; per image, scan and block.
    """
    started = time.perf_counter()
    small, large = (_record(spec, side) for side in (spec.loop_side, spec.side))
    yield Progress(0, 4, "gate: compiled, closed form and loop on the smaller grid")
    exact = _with_gradient(_closed, small, spec)
    errors = [
        _error(_with_gradient(_compiled, small, spec), exact),
        _error([_loop(small, spec)], exact[:1]),
    ]
    passed = max(errors) <= TOLERANCE
    rows: list[dict[str, Any]] = []
    plan: list[tuple[str, ScanRecord, int, Any, bool]] = [
        ("closed form", small, spec.loop_side, _closed, False),
        ("loop", small, spec.loop_side, _loop, False),
        ("compiled", small, spec.loop_side, _compiled, False),
        ("closed form", large, spec.side, _closed, False),
        ("compiled", large, spec.side, _compiled, False),
        ("closed form", large, spec.side, _closed, True),
        ("compiled", large, spec.side, _compiled, True),
    ]
    base = 1.0
    for number, (name, record, side, rule, gradient) in enumerate(plan if passed else []):
        yield Progress(number + 1, len(plan) + 1, f"{name}, {side} x {side}")
        call = _call(rule, record, spec, gradient)
        slow = name != "compiled"
        times = percentiles(call, 1 if name == "loop" else 3 if slow else spec.repeats, warm=not slow)
        base = times["p50_ms"] if name == "closed form" else base
        row = {"op": "alpha_p" + (" with gradient" if gradient else ""), "backend": name}
        row |= {"case": f"b=1 e={spec.e} n={spec.n} {side}x{side} window={spec.window} float32"}
        rows.append(row | times | {"ratio": round(base / times["p50_ms"], 2)})
    gate = {"passed": passed, "max_error": max(errors), "tolerance": TOLERANCE}
    values = {"op": "alpha_p", "device": "cpu", "threads": torch.get_num_threads(), "gate": gate, "rows": rows}
    return Report("bench", values | {"seed": spec.seed}, run_info(spec.seed, started))


def _record(spec: AlphaBenchSpec, side: int) -> ScanRecord:
    stream = generator(spec.seed)
    L = side * side
    inputs = ScanInputs(
        u=torch.randn(1, spec.e, L, generator=stream),
        delta=F.softplus(torch.randn(1, spec.e, L, generator=stream) - 3),
        A=-torch.arange(1, spec.n + 1).float().repeat(spec.e, 1),
        B=torch.randn(1, spec.n, L, generator=stream),
        C=torch.randn(1, spec.n, L, generator=stream),
        D=None,
    )
    return ScanRecord("scan", inputs, inputs.u, row_major((side, side)))


def _compiled(record: ScanRecord, spec: AlphaBenchSpec) -> Tensor:
    return alpha_p(record, spec.window, "uniform")


def _closed(record: ScanRecord, spec: AlphaBenchSpec) -> Tensor:
    return alpha_p(record, spec.window, "uniform", reduce=None).mean(1)


def _loop(record: ScanRecord, spec: AlphaBenchSpec) -> Tensor:
    """Three nested loops over steps: every product of decays anew."""
    place = patch_window(record, spec.window, "uniform")
    A_bar, B_bar = discretize(record.inputs)
    L = A_bar.shape[2]
    held = A_bar.new_zeros(*A_bar.shape[:2], L, L, A_bar.shape[3])
    for i in range(L):
        for j in range(i + 1):
            decay = torch.ones_like(A_bar[:, :, 0])
            for k in range(j + 1, i + 1):
                decay = decay * A_bar[:, :, k]
            held[:, :, i, j] = decay * B_bar[:, :, j]
    # [b e i j n] -> windows over i, in raster order
    rows = to_raster(held * place.weights[:, None, :, None, None], record.order, dim=2)
    summed = box_sum(rows.movedim(2, -1).unflatten(-1, record.order.grid), place.size).flatten(-2).movedim(-1, 2)
    C = to_raster(record.inputs.C, record.order)
    out = torch.einsum("bnp,bepjn->bpj", C, summed) / A_bar.shape[1]
    return raster_columns(out, record.order, False)


def _with_gradient(rule: Callable[..., Tensor], record: ScanRecord, spec: AlphaBenchSpec) -> list[Tensor]:
    inputs = record.inputs
    leaves = [x.clone().requires_grad_() for x in (inputs.delta, inputs.B, inputs.C)]
    delta, B, C = leaves
    tracked = replace(record, inputs=replace(inputs, delta=delta, B=B, C=C))
    out = rule(tracked, spec)
    weight = torch.randn(out.shape, generator=generator(spec.seed + 1))
    return [out.detach(), *torch.autograd.grad((out * weight).sum(), leaves)]


def _call(
    rule: Callable[..., Tensor], record: ScanRecord, spec: AlphaBenchSpec, gradient: bool
) -> Callable[[], object]:
    if gradient:
        return lambda: _with_gradient(rule, record, spec)

    def forward() -> object:
        with torch.no_grad():
            return rule(record, spec)

    return forward


def _error(ours: list[Tensor], exact: list[Tensor]) -> float:
    return max(((a - b).abs().max() / b.abs().max()).item() for a, b in zip(ours, exact, strict=True))
