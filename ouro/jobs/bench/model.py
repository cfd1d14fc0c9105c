"""A whole model's forward with the compiled scan against itself with the loop over tokens and under torch.compile."""

from __future__ import annotations

import copy
import time
from collections.abc import Callable, Generator, Iterator
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from ouro.jobs.bench.scan import behind, strongest
from ouro.jobs.bench.scan_peers import PEERS, served_by
from ouro.jobs.bench.timing import peak_mb, percentiles
from ouro.jobs.inputs import open_untrained, source_of
from ouro.jobs.provenance import run_info
from ouro.kernels.gate import stumbled
from ouro.settings import check_counts
from ouro.streams import generator
from ouro.taps import ScanModule
from ouro.types import ModelSource, Progress, Report
from ouro.vision import VisionModel

MODEL_TOLERANCE = 1e-4
"""Gate: largest error of a whole model's logits, relative to the largest logit, float32."""


@dataclass(frozen=True, slots=True)
class ModelBenchSpec:
    """A whole model's forward at one batch size; weights may be random, time does not depend on them.

    peers: also the model under torch.compile, block by block, with the scans of `ouro.jobs.bench.scan_peers`.

    Raises:
        ValueError: a count below 1.
    """

    model: ModelSource
    batch: int = 8
    repeats: int = 5
    reference_repeats: int = 1
    peers: bool = True
    seed: int = 0

    def __post_init__(self) -> None:
        object.__setattr__(self, "model", source_of(self.model))
        check_counts(self, "batch", "repeats", "reference_repeats")


def bench_model(spec: ModelBenchSpec) -> Generator[Progress, None, Report]:
    """One model with the compiled scan against itself with the loop over tokens, and compiled by torch: gates first.

    A row's ratio is to the loop; `strongest` names the fastest peer, and how many times faster ours is.
    """
    started = time.perf_counter()
    model = open_untrained(spec.model, spec.seed)
    images = torch.randn(spec.batch, *model.info.input_size, generator=generator(spec.seed))
    case = f"{spec.model} b={spec.batch} float32"
    total = 3 + len(PEERS) * spec.peers
    yield Progress(0, total, "gate: logits of both")
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
            row["ms_per_image"] = round(times["p50_ms"] / spec.batch, 3)
        rows.append(row)
        yield Progress(number + 1, total, backend, row)
    for row in _compiled(spec, model, images) if spec.peers else ():
        row = {"op": "model forward", "case": case} | row
        row |= {"ratio": round(rows[0]["p50_ms"] / row["p50_ms"], 2)} if passed and "p50_ms" in row else {}
        rows.append(row)
        yield Progress(len(rows), total, row["backend"], row)
    gate = {"passed": passed, "max_error": error, "tolerance": MODEL_TOLERANCE}
    values = {"op": "model", "device": "cpu", "threads": torch.get_num_threads(), "gate": gate, "rows": rows}
    values |= {"strongest": strongest(rows)}
    return Report("bench", values | {"seed": spec.seed}, run_info(spec.seed, started))


def _compiled(spec: ModelBenchSpec, model: VisionModel, images: Tensor) -> Iterator[dict[str, Any]]:
    """Rows of the model under torch.compile, each behind the gate of its own logits."""
    _use(model, "cpu")
    with torch.no_grad():
        wanted = model(images)
    for peer in PEERS:
        row: dict[str, Any] = {"backend": f"torch.compile, {peer.name}"}
        compiled = copy.deepcopy(model)
        _use(compiled, "reference")
        # block by block: they are alike, and torch compiles the first for all
        for path in compiled.blocks():
            compiled.get_submodule(path).compile(dynamic=False)
        call = _forward(compiled, images)
        try:
            with served_by(peer.make()):
                error = ((call() - wanted).abs().max() / wanted.abs().max()).item()
                row |= behind(error, MODEL_TOLERANCE, call, spec.repeats)
        except Exception as error:  # whatever the compiler of another stumbles over is its result
            row |= {"gate": "failed", "max_error": None, "failed": stumbled(error)}
        yield row


def _use(model: VisionModel, backend: str) -> None:
    for module in model.modules():
        if isinstance(module, ScanModule):
            module.backend = backend


def _forward(model: VisionModel, images: Tensor) -> Callable[[], Tensor]:
    def call() -> Tensor:
        with torch.no_grad():
            return model(images)

    return call
