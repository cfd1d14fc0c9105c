"""Packed integer models against float32 on a CPU, behind a gate on every layer, and where the time goes."""

from __future__ import annotations

import copy
import time
from collections.abc import Generator
from dataclasses import dataclass
from functools import partial
from statistics import median
from typing import Any

import torch
from torch import Tensor, nn

from ouro.data.source import has_own_images, noise, own_images
from ouro.jobs.bench.timing import percentiles
from ouro.jobs.inputs import open_untrained, source_of
from ouro.jobs.pack import compared
from ouro.jobs.provenance import run_info
from ouro.models.layers import RMSNorm
from ouro.models.mixer import Scan
from ouro.quant.apply import attach_calibration
from ouro.quant.calibrate import quantize as calibrate
from ouro.quant.packed.lower import lower
from ouro.quant.packed.modules import PackedLinear
from ouro.settings import check_counts
from ouro.types import ModelSource, Progress, Report
from ouro.vision import VisionModel

LAYER_TOLERANCE = 1e-5
"""Gate: largest error of a packed layer's output against the simulated one on the same input, relative to its peak."""
AGREEMENT = 0.98
"""Gate: share of images with the same top-1. A float that ends beside the border of two codes takes either, so whole
models differ as much as the simulated one does under the rounding of its own input."""


@dataclass(frozen=True, slots=True)
class PackedBenchSpec:
    """A model in float32 against the same one packed, at several widths and batch sizes.

    bits: what is calibrated, dynamically per token unless it asks for outliers, which only "ouro" has.
    images: so many held-out ones pass the gate. A model without data here gets weights, and noise for images, made up
    from the seed: they take as long, and every layer has to agree; what the whole model answers means nothing.

    Raises:
        ValueError: a count below 1, or nothing to time.
    """

    model: ModelSource
    bits: tuple[str, ...] = ("w8a8", "w4a8")
    batches: tuple[int, ...] = (1, 8)
    repeats: int = 30
    images: int = 64
    calibration: int = 32
    seed: int = 0

    def __post_init__(self) -> None:
        object.__setattr__(self, "model", source_of(self.model))
        check_counts(self, "repeats", "images", "calibration")
        if not self.bits or not self.batches or min(self.batches) < 1:
            raise ValueError(f"bits {self.bits} and batches {self.batches} give nothing to time; give one of each")


def bench_packed(spec: PackedBenchSpec) -> Generator[Progress, None, Report]:
    """Gate first: every packed layer against the simulated one, and top-1 on held-out images; then percentiles.

    The report has {op, model, weights ("trained" or "made up"), device, threads, gate: {passed, max_error, tolerance},
    rows: [{op, case, backend, gate, max_error, agreement (None where weights are made up), p20_ms, p50_ms, p80_ms, ratio,
    parts}], seed}; ratio is float32's time by this one's, for parts see `parts_ms`.
    """
    started = time.perf_counter()
    exact, images, seen = _subject(spec)
    trained = has_data(exact)
    total = len(spec.bits) * (1 + len(spec.batches)) + len(spec.batches)
    done = 0
    yield Progress(done, total, "calibration")
    packed: dict[str, tuple[VisionModel, dict[str, Any]]] = {}
    for bits in spec.bits:
        method = "ouro" if "o" in bits else "dynamic"
        calibration = calibrate(exact, seen, method=method, bits=bits, seed=spec.seed)
        simulated = attach_calibration(copy.deepcopy(exact), calibration)
        lowered = lower(simulated)
        agreement = None
        if trained:
            with torch.no_grad():
                agreement = compared(simulated, lowered(images), images)["agreement"]
        error = layer_error(simulated, lowered, images[:2])
        passed = error <= LAYER_TOLERANCE and (agreement is None or agreement >= AGREEMENT)
        gate = {"gate": "passed" if passed else "failed", "max_error": error, "agreement": agreement}
        packed[bits] = lowered, gate
        yield Progress(done := done + 1, total, f"gate of {bits}", gate)
    passed = all(gate["gate"] == "passed" for _, gate in packed.values())
    own: dict[str, Any] = {"gate": "passed", "max_error": 0.0, "agreement": 1.0 if trained else None}
    contenders: list[tuple[str, VisionModel, dict[str, Any]]] = [("float32", exact, own)]
    contenders += [(f"packed {bits}", model, gate) for bits, (model, gate) in packed.items()]
    rows: list[dict[str, Any]] = []
    for batch in spec.batches:
        some = images[torch.arange(batch) % len(images)]
        base: float | None = None
        for backend, model, gate in contenders:
            row: dict[str, Any] = {"op": f"forward, batch {batch}", "case": f"{spec.model} float32 and packed"}
            row |= {"backend": backend, **gate}
            if passed:
                with torch.no_grad():
                    times = percentiles(partial(model, some), spec.repeats)
                base = times["p50_ms"] if base is None else base
                row |= times | {"ratio": round(base / times["p50_ms"], 3), "parts": parts_ms(model, some, spec.repeats)}
            rows.append(row)
            yield Progress(done := done + 1, total, f"{backend}, batch {batch}", row)
    worst = max(gate["max_error"] for _, gate in packed.values())
    values = {
        "op": "packed",
        "model": spec.model.name,
        "weights": "trained" if trained else "made up",
        "device": "cpu",
        "threads": torch.get_num_threads(),
        "gate": {"passed": passed, "max_error": worst, "tolerance": LAYER_TOLERANCE},
        "rows": rows,
        "seed": spec.seed,
    }
    return Report("bench", values, run_info(spec.seed, started))


def has_data(model: VisionModel) -> bool:
    """Whether images of the kind this model was trained on can be made here; others ask for a folder."""
    return model.loaded_from is not None and has_own_images(model.info)


def _subject(spec: PackedBenchSpec) -> tuple[VisionModel, Tensor, Tensor]:
    """The float model, images for the gate and images to calibrate on."""
    model = open_untrained(spec.model, spec.seed)
    if not has_data(model):
        # as many as the layers' gate and the batches look at
        made_up = noise(model.info, max(2, *spec.batches), spec.seed)
        return model, made_up, made_up
    return model, own_images(model.info, "test", spec.images), own_images(model.info, "calib", spec.calibration)


PARTS = {
    "linear": (nn.Linear, PackedLinear),
    "convolution": (nn.Conv1d, nn.Conv2d),
    "scan": (Scan,),
    "norm": (RMSNorm, nn.LayerNorm),
}
"""Part of a forward -> the modules it is spent in. What a scan's linear layers and convolution take is not the scan's."""


def parts_ms(model: VisionModel, images: Tensor, repeats: int) -> dict[str, float]:
    """Where a forward's time goes: {part: median milliseconds, by `PARTS`, and "rest"}; watching costs a little time."""
    kinds = {module: part for part, known in PARTS.items() for module in model.modules() if isinstance(module, known)}
    open_calls: list[tuple[float, list[float]]] = []
    spent: dict[str, float] = {}

    def begin(module: nn.Module, _inputs: object) -> None:
        open_calls.append((time.perf_counter(), []))

    def end(module: nn.Module, _inputs: object, _output: object) -> None:
        begun, inner = open_calls.pop()
        whole = time.perf_counter() - begun
        spent[kinds[module]] = spent.get(kinds[module], 0.0) + whole - sum(inner)
        if open_calls:
            open_calls[-1][1].append(whole)

    handles = [hook for module in kinds for hook in
               (module.register_forward_pre_hook(begin), module.register_forward_hook(end))]  # fmt: skip
    runs: list[dict[str, float]] = []
    try:
        with torch.no_grad():
            for _ in range(repeats):
                spent.clear()
                begun = time.perf_counter()
                model(images)
                rest = time.perf_counter() - begun - sum(spent.values())
                runs.append(spent | {"rest": rest})
    finally:
        for handle in handles:
            handle.remove()
    return {part: round(1e3 * median(run[part] for run in runs), 3) for part in runs[0]}


def layer_error(simulated: VisionModel, packed: VisionModel, images: Tensor) -> float:
    """Largest error of a packed layer, fed with what its simulated counterpart is fed, relative to the output's peak."""
    layers = {path: module for path, module in packed.named_modules() if isinstance(module, PackedLinear)}
    errors = [0.0]

    def check(path: str, inputs: tuple[Tensor], output: Tensor) -> None:
        errors.append(((layers[path](inputs[0]) - output).abs().max() / output.abs().max().clamp(min=1e-30)).item())

    handles = [
        simulated.get_submodule(path).register_forward_hook(
            lambda _module, inputs, output, path=path: check(path, inputs, output)
        )
        for path in layers
    ]
    try:
        with torch.no_grad():
            simulated(images)
    finally:
        for handle in handles:
            handle.remove()
    return max(errors)
