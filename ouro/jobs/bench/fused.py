"""Whole models on kernels: gates against the simulated model first, then times on a GPU beside the model unfused.

A format is judged by the model itself, and by trained models on their held-out images. Times of one that fails are called
unverified.

Without a CUDA device the gate runs on a tiny variant in Triton's interpreter, in a process of its own, and nothing is timed.
"""

from __future__ import annotations

import copy
import time
from collections.abc import Generator, Iterator
from dataclasses import asdict, dataclass
from functools import partial
from importlib.util import find_spec
from typing import Any

import torch
from torch import Tensor

from ouro.fused.gate import FORMATS, TRAINED, Format, calibrated, check, fused_of, held_out, noise_images, tiny
from ouro.fused.graph import graphed
from ouro.fused.model import FusedModel, require_vim
from ouro.jobs.bench.interpreter import interpreted_rows
from ouro.jobs.bench.kernels import NOT_MEASURED
from ouro.jobs.bench.timing import quantiles, timed
from ouro.jobs.inputs import open_untrained, source_of
from ouro.jobs.provenance import run_info
from ouro.kernels.gate import stumbled
from ouro.models import create_model, variant
from ouro.models.mixer import Scan
from ouro.settings import check_count, check_counts
from ouro.types import ModelSource, Progress, Report
from ouro.vision import VisionModel

SCANS = {"mamba_ssm": "selective_scan_cuda", "triton": "triton"}
"""Backends of the scan that the unfused model is timed with, and the module that each needs."""


@dataclass(frozen=True, slots=True)
class FusedBenchSpec:
    """formats: keys of `FORMATS`. images: how many pass the gate. peers: time the unfused model as well.

    Raises:
        ValueError: an unknown model or format, no Vim, or a count below 1.
    """

    model: ModelSource
    formats: tuple[str, ...] = ("fp16", "w8a8", "w4a8", "w4a4o8")
    batches: tuple[int, ...] = (1, 8, 32, 128)
    images: int = 1024
    peers: bool = True
    repeats: int = 50
    seed: int = 0

    def __post_init__(self) -> None:
        object.__setattr__(self, "model", source_of(self.model))
        for name in self.formats:
            if name not in FORMATS:
                raise ValueError(f"unknown format {name!r}; known: {', '.join(FORMATS)}")
        if not self.formats or not self.batches:
            raise ValueError("no format or no batch size is given, there is nothing to do")
        check_counts(self, "images", "repeats")
        for batch in self.batches:
            check_count("b", batch)
        variant(self.model.name)


def bench_fused(spec: FusedBenchSpec) -> Generator[Progress, None, Report]:
    """Gates of every format and every batch size, fused and then unfused, eager and as a graph."""
    started = time.perf_counter()
    measures = torch.cuda.is_available()
    device = torch.device("cuda" if measures else "cpu")
    peers = SCANS if spec.peers else {}
    judges = 1 + measures * len(judging(spec))
    total = len(spec.formats) * (judges + measures * len(spec.batches)) + 2 * measures * len(peers) * len(spec.batches)
    values: dict[str, Any] = {
        "op": "model",
        "model": spec.model.name,
        "gates": [],
        "rows": [],
        "missing": [
            {"peer": f"unfused, scan {name}", "why": f"{module} is not installed"}
            for name, module in peers.items()
            if find_spec(module) is None
        ],
        "not_measured": None if measures else NOT_MEASURED,
    }
    done = 0
    if not measures:
        for row in _interpreted_gates(spec):
            if row is not None:
                values["gates"].append(row)
            now = spec.formats[min(len(values["gates"]), len(spec.formats) - 1)]
            yield Progress(len(values["gates"]), total, f"gate: {now}, a tiny variant")
    else:
        model = open_untrained(spec.model, spec.seed).to(device)
        require_vim(model)
        fused: list[dict[str, Any]] = []
        unfused: list[dict[str, Any]] = []
        for row in _fused(spec, model):
            (values["gates"] if "passed" in row else fused).append(row)
            yield Progress(done := done + 1, total, f"{row['format']}", row)
        for row in _unfused(spec, model, [name for name, module in peers.items() if find_spec(module) is not None]):
            unfused.append(row)
            yield Progress(done := done + 1, total, f"{row['backend']}, {row['case']}", row)
        values["rows"] = [*unfused, *(row | _ratios(row, unfused) for row in fused)]
    failed = sorted({row["format"] for row in values["gates"] if not row["passed"]})
    values["gate"] = {"passed": not failed, "failed": failed, "formats": len(values["gates"])}
    return Report("bench", values, run_info(spec.seed, started, device))


def _ratios(row: dict[str, Any], peers: list[dict[str, Any]]) -> dict[str, Any]:
    """How many times faster a row is than the unfused model at its batch size, eager and as a graph.

    That is with mamba-ssm's scan, or our generic one where that is missing: the first that was timed.
    """
    timed_ones = [peer for peer in peers if peer["b"] == row["b"] and "p50_ms" in peer]
    if not timed_ones:
        return {}
    name = timed_ones[0]["backend"].rpartition(",")[0]
    ratios: dict[str, Any] = {"speedup_over": name}
    for replay, key in (("eager", "speedup"), ("graph", "speedup_over_graph")):
        for peer in timed_ones:
            if peer["backend"] == f"{name}, {replay}":
                ratios[key] = round(peer["p50_ms"] / row["p50_ms"], 3)
    return ratios


def _fused(spec: FusedBenchSpec, model: VisionModel) -> Iterator[dict[str, Any]]:
    """Rows of the fused model: each format's gates, then its times."""
    trained = [create_model(name, pretrained=True).to(model.device) for name in judging(spec)]
    # the model itself is the last: it is what is timed
    judges = [(judge, held_out(judge, spec.images, spec.seed)) for judge in (*trained, model)]
    for format in (FORMATS[name] for name in spec.formats):
        passed = True
        for judge, images in judges:
            verdict, fused = judged(judge, format, images)
            passed = passed and verdict["passed"]
            yield verdict
        for batch in spec.batches:
            replay = graphed(fused, noise_images(model, batch, spec.seed)).replay
            row = {"op": "model", "case": f"{spec.model} b={batch} {format.name}", "format": format.name, "b": batch}
            row |= {"backend": "fused", "replay": "graph", "gate": "passed" if passed else "unverified"}
            row |= {"error": verdict["error"]}
            yield _with_times(row, replay, spec.repeats)


def judging(spec: FusedBenchSpec) -> tuple[str, ...]:
    """Trained models that judge every format beside the model itself."""
    return tuple(name for name in TRAINED if name != spec.model.name)


def judged(
    model: VisionModel, format: Format, images: tuple[Tensor, Tensor], *, backend: str = "triton"
) -> tuple[dict[str, Any], FusedModel]:
    """The verdict on a format, by this model and its images (see `held_out`), and the model fused."""
    seen, unseen = images
    simulated = calibrated(model, format, seen)
    fused = fused_of(simulated, format, backend)
    return {"model": model.info.name, **asdict(check(model, simulated, fused, format, unseen))}, fused


def _unfused(spec: FusedBenchSpec, model: VisionModel, scans: list[str]) -> Iterator[dict[str, Any]]:
    """Rows of the model as it is, in float16 with this or that scan, eager and as a graph."""
    for scan in scans:
        half = _half(model, scan)
        for batch in spec.batches:
            images = noise_images(model, batch, spec.seed).half()
            for replay in ("eager", "graph"):
                row = {"op": "model", "case": f"{spec.model} b={batch} fp16", "format": "fp16", "b": batch}
                row |= {"backend": f"unfused, scan {scan}, {replay}", "replay": replay}
                try:
                    call = partial(_forward, half, images) if replay == "eager" else graphed(half, images).replay
                    yield _with_times(row, call, spec.repeats)
                except Exception as error:  # whatever a package of others raises is its result
                    yield row | {"failed": stumbled(error)}


def _half(model: VisionModel, scan: str) -> VisionModel:
    """A copy in float16; what the scans' kernels want in float32 stays so."""
    half = copy.deepcopy(model).half()
    for module in half.modules():
        if isinstance(module, Scan):
            module.backend = scan
            module.A_log.data, module.D.data = module.A_log.data.float(), module.D.data.float()
    return half


@torch.no_grad()
def _forward(model: VisionModel, images: Tensor) -> Tensor:
    return model(images)


def _with_times(row: dict[str, Any], call: Any, repeats: int) -> dict[str, Any]:
    for _ in range(3):
        call()
    times = quantiles(timed(call, repeats))
    return row | times | {"images_per_second": round(1e3 * row["b"] / times["p50_ms"], 1)}


def _interpreted_gates(spec: FusedBenchSpec) -> Iterator[dict[str, Any] | None]:
    require_vim(tiny(spec.model.name))
    return interpreted_rows("ouro.fused.gate", spec.model.name, *spec.formats)
