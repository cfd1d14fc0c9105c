"""The compiled CPU scan against the loop over tokens and what torch.compile makes of it: gates first, then percentiles."""

from __future__ import annotations

import time
from collections.abc import Callable, Generator, Iterator
from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional as F

from ouro.jobs.bench.scan_peers import PEERS, Scan
from ouro.jobs.bench.timing import peak_mb, percentiles
from ouro.jobs.provenance import run_info
from ouro.kernels.gate import stumbled
from ouro.scan import selective_scan
from ouro.scan.cpu import max_exp_ulp
from ouro.settings import check_counts
from ouro.streams import generator
from ouro.types import Progress, Report, ScanInputs

FORWARD, BOTH = "forward", "forward+backward"
TOLERANCE = 1e-5
"""Gate: largest relative error of outputs and gradients against the reference, float32."""


@dataclass(frozen=True, slots=True)
class ScanBenchSpec:
    """Sizes of the scan (b, e, l, n) and how often each side is timed. peers: also the scans of `PEERS`.

    Raises:
        ValueError: a size below 1.
    """

    b: int = 8
    e: int = 384
    l: int = 197  # noqa: E741  (the glossary's letter)
    n: int = 16
    repeats: int = 30
    reference_repeats: int = 3
    peers: bool = True
    seed: int = 0
    threads: int = 0

    def __post_init__(self) -> None:
        check_counts(self, "b", "e", "l", "n", "repeats", "reference_repeats")


def bench_scan(spec: ScanBenchSpec) -> Generator[Progress, None, Report]:
    """The compiled CPU scan against the loop over tokens and the peers: gates first, then percentiles and peak memory.

    A row's ratio is to the loop; `strongest` names the fastest peer of each mode, and how many times faster ours is.
    """
    started = time.perf_counter()
    if spec.threads:
        torch.set_num_threads(spec.threads)
    case = f"b={spec.b} e={spec.e} l={spec.l} n={spec.n} float32"
    inputs = _inputs(spec)
    rows: list[dict[str, Any]] = []
    total = 5 + sum(1 + peer.trains for peer in PEERS) * spec.peers
    yield Progress(0, total, "gate: compiled scan against the reference")
    error = _gate(inputs)
    passed = error <= TOLERANCE
    done = 1
    for mode in (FORWARD, BOTH):
        base: float | None = None
        for backend in ("reference", "cpu"):
            row: dict[str, Any] = {"op": f"scan {mode}", "case": case, "backend": backend}
            row |= {"gate": "passed" if passed else "failed", "max_error": 0.0 if backend == "reference" else error}
            if passed:
                call = _call(inputs, backend, mode)
                times = percentiles(call, spec.repeats if backend == "cpu" else spec.reference_repeats)
                middle = times["p50_ms"]
                base = middle if base is None else base
                row |= times | {"ratio": round(base / middle, 2), "peak_mb": round(peak_mb(call), 2)}
            rows.append(row)
            yield Progress(done := done + 1, total, f"{mode}, {backend}", row)
    for row in _peer_rows(spec, inputs, case) if spec.peers else ():
        base = next(one.get("p50_ms") for one in rows if one["op"] == row["op"])
        row |= {"ratio": round(base / row["p50_ms"], 2)} if base and "p50_ms" in row else {}
        rows.append(row)
        yield Progress(done := done + 1, total, f"{row['op']}, {row['backend']}", row)
    operands = _operands(inputs)
    values = {
        "op": "scan",
        "device": "cpu",
        "threads": torch.get_num_threads(),
        "gate": {"passed": passed, "max_error": error, "tolerance": TOLERANCE},
        "exp_max_ulp": max_exp_ulp(seed=spec.seed),
        "inputs_mb": round(sum(x.numel() * x.element_size() for x in operands) / 1e6, 2),
        "rows": rows,
        "strongest": strongest(rows),
        "seed": spec.seed,
    }
    return Report("bench", values, run_info(spec.seed, started))


def strongest(rows: list[dict[str, Any]]) -> dict[str, dict[str, Any]]:
    """Operation -> {peer, p50_ms, ratio}: what is fastest beside ours, and how many times faster ours is."""
    best = {}
    for op in dict.fromkeys(row["op"] for row in rows):
        timed = [row for row in rows if row["op"] == op and "p50_ms" in row]
        ours = [row["p50_ms"] for row in timed if row["backend"] == "cpu"]
        others = sorted((row["p50_ms"], row["backend"]) for row in timed if row["backend"] not in ("cpu", "reference"))
        if ours and others:
            middle, name = others[0]
            best[op] = {"peer": name, "p50_ms": middle, "ratio": round(middle / ours[0], 2)}
    return best


def _peer_rows(spec: ScanBenchSpec, inputs: ScanInputs, case: str) -> Iterator[dict[str, Any]]:
    """Rows of the peers: forward, and with its gradient where it has one, each behind the gate that ours passes."""
    for peer in PEERS:
        scan = peer.make()
        for mode in (FORWARD, BOTH) if peer.trains else (FORWARD,):
            row: dict[str, Any] = {"op": f"scan {mode}", "case": case, "backend": peer.name}
            try:
                yield row | _peer_times(spec, inputs, scan, mode)
            except Exception as error:  # whatever the compiler of another stumbles over is its result
                yield row | {"gate": "failed", "max_error": None, "failed": stumbled(error)}


def _peer_times(spec: ScanBenchSpec, inputs: ScanInputs, scan: Scan, mode: str) -> dict[str, Any]:
    if mode == FORWARD:
        with torch.no_grad():
            error = _off([scan(inputs)], [selective_scan(inputs, backend="cpu").y])
            call = torch.no_grad()(lambda: scan(inputs))
            return behind(error, TOLERANCE, call, spec.repeats)
    weight = torch.randn(inputs.u.shape, generator=generator(1))
    tracked, leaves = _leaves(inputs)

    def both() -> object:
        return torch.autograd.grad(scan(tracked), leaves, weight)

    wanted = torch.autograd.grad(selective_scan(tracked, backend="cpu").y, leaves, weight)
    error = _off(both(), wanted)
    return behind(error, TOLERANCE, both, spec.repeats)


def behind(error: float, tolerance: float, call: Callable[[], object], repeats: int) -> dict[str, Any]:
    """The gate of a row, and its times and peak memory if it passed."""
    passed = error <= tolerance
    row: dict[str, Any] = {"gate": "passed" if passed else "failed", "max_error": error}
    if not passed:
        return row
    return row | percentiles(call, repeats) | {"peak_mb": round(peak_mb(call), 2)}


def _off(results: Any, wanted: Any) -> float:
    """Largest error, relative to each tensor's largest entry."""
    pairs = zip(results, wanted, strict=True)
    return max(((x - y).abs().max() / y.abs().max().clamp(min=1e-30)).item() for x, y in pairs)


def _inputs(spec: ScanBenchSpec) -> ScanInputs:
    stream = generator(spec.seed)

    def normal(*shape: int) -> Tensor:
        return torch.randn(*shape, generator=stream)

    return ScanInputs(
        u=normal(spec.b, spec.e, spec.l),
        delta=F.softplus(normal(spec.b, spec.e, spec.l) - 3),
        A=-torch.arange(1, spec.n + 1).float().repeat(spec.e, 1),
        B=normal(spec.b, spec.n, spec.l),
        C=normal(spec.b, spec.n, spec.l),
        D=normal(spec.e),
    )


def _operands(inputs: ScanInputs) -> list[Tensor]:
    assert inputs.D is not None
    return [inputs.u, inputs.delta, inputs.A, inputs.B, inputs.C, inputs.D]


def _leaves(inputs: ScanInputs) -> tuple[ScanInputs, list[Tensor]]:
    leaves = [operand.clone().requires_grad_() for operand in _operands(inputs)]
    return ScanInputs(*leaves), leaves


def _gate(inputs: ScanInputs) -> float:
    """Largest error of y and of all six gradients, relative to each tensor's largest entry; a smaller batch will do."""
    one = replace(inputs, u=inputs.u[:1], delta=inputs.delta[:1], B=inputs.B[:1], C=inputs.C[:1])
    results = []
    for backend in ("reference", "cpu"):
        tracked, leaves = _leaves(one)
        y = selective_scan(tracked, backend=backend).y
        weight = torch.randn(y.shape, generator=generator(1))
        results.append([y, *torch.autograd.grad((y * weight).sum(), leaves)])
    return _off(results[1], results[0])


def _call(inputs: ScanInputs, backend: str, mode: str) -> Callable[[], object]:
    if mode == FORWARD:

        def forward() -> object:
            with torch.no_grad():
                return selective_scan(inputs, backend=backend)

        return forward
    tracked, leaves = _leaves(inputs)
    weight = torch.randn(inputs.u.shape, generator=generator(1))
    return lambda: torch.autograd.grad(selective_scan(tracked, backend=backend).y, leaves, weight)
