"""A whole model's forward with the compiled scan against the same model with the loop over tokens, gate first."""

from __future__ import annotations

import time
from collections.abc import Callable, Generator
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from ouro.jobs.bench.timing import peak_mb, percentiles
from ouro.jobs.inputs import open_untrained, source_of
from ouro.jobs.provenance import run_info
from ouro.taps import ScanModule
from ouro.types import ModelSource, Progress, Report
from ouro.vision import VisionModel

MODEL_TOLERANCE = 1e-4
"""Gate: largest error of a whole model's logits, relative to the largest logit, float32."""


@dataclass(frozen=True, slots=True)
class ModelBenchSpec:
    """A whole model's forward at one batch size; weights may be random, time does not depend on them.

    Raises:
        ValueError: a count below 1.
    """

    model: ModelSource
    batch: int = 8
    repeats: int = 5
    reference_repeats: int = 1
    seed: int = 0

    def __post_init__(self) -> None:
        object.__setattr__(self, "model", source_of(self.model))
        for name in ("batch", "repeats", "reference_repeats"):
            if getattr(self, name) < 1:
                raise ValueError(f"{name} is {getattr(self, name)}, expected 1 or more")


def bench_model(spec: ModelBenchSpec) -> Generator[Progress, None, Report]:
    """One model with the compiled scan against itself with the loop over tokens: gate first, then percentiles."""
    started = time.perf_counter()
    model = open_untrained(spec.model, spec.seed)
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
            row |= times | {"ratio": round(base / times["p50_ms"], 2), "peak_mb": round(peak_mb(call), 2)}
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
