"""Speed, only behind a correctness gate, as a ratio to a named reference in the same run."""

from __future__ import annotations

import time
import tracemalloc
from collections.abc import Callable, Generator
from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional as F

from ouro.jobs.provenance import run_info
from ouro.models import create_model
from ouro.scan import selective_scan
from ouro.scan.cpu import max_exp_ulp
from ouro.taps import ScanModule
from ouro.types import Progress, Report, ScanInputs
from ouro.vision import VisionModel

FORWARD, BOTH = "forward", "forward+backward"
TOLERANCE = 1e-5
"""Gate: largest relative error of outputs and gradients against the reference, float32."""
MODEL_TOLERANCE = 1e-4
"""Gate: largest error of a whole model's logits, relative to the largest logit, float32."""


@dataclass(frozen=True, slots=True)
class ScanBenchSpec:
    """Sizes of the scan (b, e, l, n) and how often each side is timed.

    Raises:
        ValueError: a size below 1.
    """

    b: int = 8
    e: int = 384
    l: int = 197  # noqa: E741  (the glossary's letter)
    n: int = 16
    repeats: int = 30
    reference_repeats: int = 3
    seed: int = 0
    threads: int = 0

    def __post_init__(self) -> None:
        for name in ("b", "e", "l", "n", "repeats", "reference_repeats"):
            if getattr(self, name) < 1:
                raise ValueError(f"{name} is {getattr(self, name)}, expected 1 or more")


def bench_scan(spec: ScanBenchSpec) -> Generator[Progress, None, Report]:
    """The compiled CPU scan against the loop over tokens: gate first, then percentiles, ratio and peak extra memory."""
    started = time.perf_counter()
    if spec.threads:
        torch.set_num_threads(spec.threads)
    case = f"b={spec.b} e={spec.e} l={spec.l} n={spec.n} float32"
    inputs = _inputs(spec)
    rows: list[dict[str, Any]] = []
    yield Progress(0, 4, "gate: compiled scan against the reference")
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
                row |= times | {"ratio": round(base / middle, 2), "peak_mb": round(_peak_mb(call), 2)}
            rows.append(row)
            yield Progress(done := done + 1, 5, f"{mode}, {backend}", row)
    operands = _operands(inputs)
    values = {
        "op": "scan",
        "device": "cpu",
        "threads": torch.get_num_threads(),
        "gate": {"passed": passed, "max_error": error, "tolerance": TOLERANCE},
        "exp_max_ulp": max_exp_ulp(seed=spec.seed),
        "inputs_mb": round(sum(x.numel() * x.element_size() for x in operands) / 1e6, 2),
        "rows": rows,
        "seed": spec.seed,
    }
    return Report("bench", values, run_info(spec.seed, started))


@dataclass(frozen=True, slots=True)
class ModelBenchSpec:
    """A whole model's forward at one batch size; weights are random, time does not depend on them.

    Raises:
        ValueError: a count below 1.
    """

    model: str
    batch: int = 8
    repeats: int = 5
    reference_repeats: int = 1
    seed: int = 0

    def __post_init__(self) -> None:
        for name in ("batch", "repeats", "reference_repeats"):
            if getattr(self, name) < 1:
                raise ValueError(f"{name} is {getattr(self, name)}, expected 1 or more")


def bench_model(spec: ModelBenchSpec) -> Generator[Progress, None, Report]:
    """One model with the compiled scan against itself with the loop over tokens: gate first, then percentiles."""
    started = time.perf_counter()
    model = create_model(spec.model)
    images = torch.randn(spec.batch, *model.info.input_size, generator=torch.Generator().manual_seed(spec.seed))
    case = f"{spec.model} b={spec.batch} float32"
    yield Progress(0, 3, "gate: logits of both")
    logits = []
    for backend in ("reference", "cpu"):
        _use(model, backend)
        with torch.no_grad():
            logits.append(model(images[:1]))
    error = ((logits[1] - logits[0]).abs().max() / logits[0].abs().max()).item()
    passed = error <= MODEL_TOLERANCE
    rows: list[dict[str, Any]] = []
    for number, backend in enumerate(("reference", "cpu")):
        _use(model, backend)
        row: dict[str, Any] = {"op": "model forward", "case": case, "backend": backend}
        row |= {"gate": "passed" if passed else "failed", "max_error": error if number else 0.0}
        if passed:
            call = _forward(model, images)
            # the loop has nothing to warm up, and minutes to lose
            times = percentiles(call, spec.repeats if number else spec.reference_repeats, warm=bool(number))
            base = rows[0]["p50_ms"] if number else times["p50_ms"]
            row |= times | {"ratio": round(base / times["p50_ms"], 2), "peak_mb": round(_peak_mb(call), 2)}
        rows.append(row)
        yield Progress(number + 1, 3, backend, row)
    gate = {"passed": passed, "max_error": error, "tolerance": MODEL_TOLERANCE}
    values = {"op": "model", "device": "cpu", "threads": torch.get_num_threads(), "gate": gate, "rows": rows}
    return Report("bench", values | {"seed": spec.seed}, run_info(spec.seed, started))


def _use(model: VisionModel, backend: str) -> None:
    for module in model.modules():
        if isinstance(module, ScanModule):
            module.backend = backend


def _forward(model: VisionModel, images: Tensor) -> Callable[[], object]:
    def call() -> object:
        with torch.no_grad():
            return model(images)

    return call


def _inputs(spec: ScanBenchSpec) -> ScanInputs:
    stream = torch.Generator().manual_seed(spec.seed)

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
        weight = torch.randn(y.shape, generator=torch.Generator().manual_seed(1))
        results.append([y, *torch.autograd.grad((y * weight).sum(), leaves)])
    worst = 0.0
    for exact, ours in zip(*results, strict=True):
        worst = max(worst, ((ours - exact).abs().max() / exact.abs().max().clamp(min=1e-30)).item())
    return worst


def _call(inputs: ScanInputs, backend: str, mode: str) -> Callable[[], object]:
    if mode == FORWARD:

        def forward() -> object:
            with torch.no_grad():
                return selective_scan(inputs, backend=backend)

        return forward
    tracked, leaves = _leaves(inputs)
    weight = torch.randn(inputs.u.shape, generator=torch.Generator().manual_seed(1))
    return lambda: torch.autograd.grad(selective_scan(tracked, backend=backend).y, leaves, weight)


def percentiles(call: Callable[[], object], repeats: int, *, warm: bool = True) -> dict[str, float]:
    """{"p20_ms", "p50_ms", "p80_ms"} of so many calls."""
    if warm:
        call()
    seconds = []
    for _ in range(repeats):
        begun = time.perf_counter()
        call()
        seconds.append(time.perf_counter() - begun)
    at = torch.tensor(seconds, dtype=torch.float64).quantile(torch.tensor([0.2, 0.5, 0.8], dtype=torch.float64)) * 1e3
    return dict(zip(("p20_ms", "p50_ms", "p80_ms"), (round(x, 3) for x in at.tolist()), strict=True))


def _peak_mb(call: Callable[[], object]) -> float:
    """Peak memory of one call beyond what was there: torch's allocations by its profiler, numpy's by tracemalloc.

    Scratch that kernels allocate themselves (a few tiles per thread) is not seen.
    """
    tracemalloc.start()
    with torch.profiler.profile(activities=[torch.profiler.ProfilerActivity.CPU], profile_memory=True) as profile:
        call()
    numpy_peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    held = peak = 0
    for event in profile.profiler.kineto_results.events():
        if event.name() == "[memory]":
            held += event.nbytes()
            peak = max(peak, held)
    return (peak + numpy_peak) / 1e6
