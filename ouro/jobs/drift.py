"""How far the state of a quantized model drifts from that of the float one, time step by time step, on one image.

The error of a step is ||h_q,t - h_t|| / ||h_t||, the states of a layer's scan in both models as they run: what was rounded
before the layer counts as well as what is rounded in it.
"""

from __future__ import annotations

import time
from collections.abc import Generator
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from ouro.data import normalize
from ouro.jobs.evaluate import Opened, opened_beside
from ouro.jobs.inputs import one_image, source_of
from ouro.jobs.provenance import run_info
from ouro.taps import record
from ouro.types import ModelSource, Progress, Report, ScanRecord
from ouro.vision import VisionModel


@dataclass(frozen=True, slots=True)
class DriftSpec:
    """What is looked at: image `sample` of the test split of `data` ("" is the model's own set), or an `image` file.

    beside: the quantized file of the model. layer: whose scans.
    """

    model: ModelSource
    beside: str
    layer: int = 0
    sample: int | None = 0
    image: str | None = None
    data: str = ""
    device: str = "auto"

    def __post_init__(self) -> None:
        object.__setattr__(self, "model", source_of(self.model))
        if not self.beside:
            raise ValueError("there is nothing to compare with: give the file of a quantized model as beside")


def drift(spec: DriftSpec, models: Opened | None = None) -> Generator[Progress, None, Report]:
    """Runs both models once.

    Values: {model, beside: {method, bits, scope}, layer, layers, grid, directions, mean: {direction: error of all
    steps together}, worst: {direction: step}}. Arrays of each direction: "error/{direction}" float32 [l], 0 where the
    state is 0 in both; "cells/{direction}" int64 [l], the raster cell that each step reads (-1: class token).

    Args:
        models: asked in place of those that the spec stands for, by `ouro.jobs.evaluate.opened_beside`.

    Raises:
        ValueError: unknown names, no such layer or image, files that do not belong together, or a model without scans.
    """
    started = time.perf_counter()
    source, exact, rounded, calibration = models or opened_beside(spec.model, spec.beside, spec.device)
    mixers = list(exact.mixers())
    if not 0 <= spec.layer < len(mixers):
        raise ValueError(f"layer is {spec.layer}, {source.name} has layers 0 to {len(mixers) - 1}")
    pixels, _ = one_image(exact.info, spec.sample, spec.image, spec.data)
    x = normalize(pixels, exact.info.mean, exact.info.std).to(exact.device)
    runs = []
    for number, model in enumerate((exact, rounded)):
        yield Progress(number, 2, ("float", "quantized")[number])
        runs.append(_states(model, mixers[spec.layer], x))
    arrays: dict[str, Tensor] = {}
    mean, worst = {}, {}
    for float_one, rounded_one in zip(*runs, strict=True):
        name = float_one.order.name
        gap, size = (_norms(h) for h in (_h(rounded_one) - _h(float_one), _h(float_one)))
        error = torch.where(size > 0, gap / size.clamp_min(torch.finfo(size.dtype).tiny), torch.zeros(()))
        arrays |= {f"error/{name}": error, f"cells/{name}": torch.tensor(float_one.order.cells)}
        mean[name] = (gap.square().sum() / size.square().sum().clamp_min(1e-30)).sqrt().item()
        worst[name] = int(error.max(0).indices)
    yield Progress(2, 2, "compared")
    assert calibration is not None
    values: dict[str, Any] = {
        "model": source.name,
        "beside": {"method": calibration.plan.method, "bits": calibration.plan.bits, "scope": calibration.plan.scope},
        "layer": spec.layer,
        "layers": len(mixers),
        "grid": list(runs[0][0].order.grid),
        "directions": list(mean),
        "mean": mean,
        "worst": worst,
    }
    return Report("drift", values, run_info(0, started, exact.device), arrays)


def _states(model: VisionModel, mixer: str, x: Tensor) -> list[ScanRecord]:
    """The scans of one mixer, with their states h [b e l n]."""
    with torch.no_grad(), record(model, f"{mixer}.scans.*", f"{mixer}.scans.*.tap_h") as trace:
        model(x)
    if not trace.scans:
        raise ValueError(f"{mixer} has no scan whose state can be seen")
    return list(trace.scans)


def _h(scan: ScanRecord) -> Tensor:
    assert scan.h is not None
    return scan.h.cpu()


def _norms(h: Tensor) -> Tensor:
    """||h_t|| over channels and states [l], of h [1 e l n]."""
    return h.double().square().sum((0, 1, 3)).sqrt().float()
