"""A model, or a quantized file of one, on held-out images: top-1 with its interval, beside the float model's."""

from __future__ import annotations

import os
import time
from collections.abc import Generator
from dataclasses import dataclass

import torch

from ouro.data import batches
from ouro.evaluate.accuracy import outcomes, wilson
from ouro.jobs.provenance import run_info
from ouro.jobs.quantize import load_quantized, open_data
from ouro.models import create_model, variant
from ouro.quant.apply import counting, effective_bits
from ouro.registry import MODELS
from ouro.types import Calibration, Progress, Report
from ouro.vision import VisionModel


@dataclass(frozen=True, slots=True)
class EvaluateSpec:
    """model: a name, or the path of a quantized file. data: "" is the set that the model was trained on.

    limit: the first so many images of the test split, None for all.
    """

    model: str
    data: str = ""
    limit: int | None = 1000
    batch: int = 64
    seed: int = 0


def evaluate(spec: EvaluateSpec) -> Generator[Progress, None, Report]:
    """Counts right answers, one Progress per batch; the float model sees the same images.

    The report has {model, method, bits, scope, calib, data, n, top1, ci95, fp_top1, effective_bits, seconds, device,
    seed}, accuracies as parts of 1, and image by image in `arrays` what was right. Effective bits are measured as it
    runs.

    Raises:
        ValueError: unknown names, a limit or batch below 1, or a data set whose classes are not the model's.
        RuntimeError: NaN logits.
    """
    started = time.perf_counter()
    for name in ("limit", "batch"):
        value = getattr(spec, name)
        if value is not None and value < 1:
            raise ValueError(f"{name} is {value}, expected 1 or more")
    name, exact, rounded, calibration = open_model(spec.model)
    data = spec.data or variant(name).data
    dataset = open_data(data, "test", name, exact.info)
    if len(dataset.classes) != exact.info.num_classes:
        raise ValueError(f"{data} has {len(dataset.classes)} classes, {name} tells {exact.info.num_classes} apart")
    total = len(dataset) if spec.limit is None else min(spec.limit, len(dataset))
    right, fp_right = torch.zeros(0, dtype=torch.bool), torch.zeros(0, dtype=torch.bool)
    with counting(rounded):
        for batch in batches(dataset, spec.batch, limit=total, mean=exact.info.mean, std=exact.info.std):
            right = torch.cat([right, *outcomes(rounded, [batch])])
            fp_right = torch.cat([fp_right, *outcomes(exact, [batch])]) if calibration else right
            n, hits, fp_hits = len(right), int(right.sum()), int(fp_right.sum())
            said = f"top-1 {hits / n:.3f} (float {fp_hits / n:.3f})"
            yield Progress(n, total, said, {"n": n, "right": hits, "fp_right": fp_hits})
    plan, device = None if calibration is None else calibration.plan, next(exact.parameters()).device
    values = {
        "model": name,
        "method": "float" if plan is None else plan.method,
        "bits": "w32a32" if plan is None else plan.bits,
        "scope": None if plan is None else plan.scope,
        "calib": None if calibration is None else calibration.provenance.get("calib"),
        "data": data,
        "n": total,
        "top1": hits / total,
        "ci95": list(wilson(hits, total)),
        "fp_top1": fp_hits / total,
        "effective_bits": effective_bits(rounded),
        "seconds": round(time.perf_counter() - started, 2),
        "device": str(device),
        "seed": spec.seed,
    }
    return Report("evaluate", values, run_info(spec.seed, started, device), {"right": right, "fp_right": fp_right})


def open_model(model: str) -> tuple[str, VisionModel, VisionModel, Calibration | None]:
    """(name, float model, quantized model, calibration) of a name or a quantized file; a name gives float twice, None.

    Raises:
        ValueError: neither a known name nor a file, or a file that is no quantized model.
    """
    if model in MODELS:
        exact = create_model(model, pretrained=True)
        return model, exact, exact, None
    if not os.path.isfile(model):
        raise ValueError(f"{model!r} is neither a model (known: {', '.join(MODELS)}) nor a quantized file")
    rounded, calibration = load_quantized(model)
    name = rounded.info.name
    return name, create_model(name, pretrained=True), rounded, calibration
