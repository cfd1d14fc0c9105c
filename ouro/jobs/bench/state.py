"""What rounding the hidden state costs, scan by scan: one step for all, a step per time step, rank-1 factors or not.

Source: arXiv 2501.16738, whose claim is that h divided by rank-1 factors is rounded with less error.
"""

from __future__ import annotations

import os
import time
from collections.abc import Callable, Generator
from dataclasses import asdict, dataclass, replace
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional as F

from ouro.jobs.calibration import calibration_set
from ouro.jobs.inputs import open_model, source_of
from ouro.jobs.provenance import run_info
from ouro.quant.grid import positive
from ouro.quant.search import reparam
from ouro.quant.search.reparam import Factors
from ouro.quant.search.states import largest_state, mean_state
from ouro.scan import selective_scan
from ouro.taps import record
from ouro.types import ModelSource, Progress, Report, ScanInputs, ScanRounding, StateQuantizer
from ouro.vision import VisionModel

_HELD_OUT = 16
"""Images that errors are measured on; steps and factors come from the calibration images."""


@dataclass(frozen=True, slots=True)
class StateSpec:
    """bits: widths of h. calib: see `ouro.data.source.parse`; errors are measured on other images (of `data`).

    Raises:
        ValueError: no width, or one that is not 2 to 8.
    """

    model: ModelSource
    bits: tuple[int, ...] = (8, 6)
    calib: str = "real:32"
    seed: int = 0
    data: str = ""
    device: str = "auto"

    def __post_init__(self) -> None:
        object.__setattr__(self, "model", source_of(self.model))
        if not self.bits or any(not 2 <= bits <= 8 for bits in self.bits):
            raise ValueError(f"bits are {self.bits}, expected one or more widths of 2 to 8")


def state_errors(spec: StateSpec, *, root: str | os.PathLike[str] | None = None) -> Generator[Progress, None, Report]:
    """The report has {model, calib, bits, rows, means}.

    `rows`: {layer, path, bits, rule, h_error, y_error}: ||h_q - h|| / ||h|| of the state that is carried, and 1 - cos of
    y over channels, skip left out. Rules: "tensor" and "step" are unclipped steps per tensor and per time step, "shared
    factors" and "step factors" the same in the basis of the rank-1 factors, "searched" and "searched factors" steps per
    time step from the greedy search. `means`: the same over all scans, with in
    how many layers the mean h_error is below that of "tensor" and of "step".
    """
    started = time.perf_counter()
    model = open_model(spec.model, spec.device)
    images = calibration_set(spec.calib, spec.model, model, spec.seed, root=root, device=spec.device).images
    other = f"real:{_HELD_OUT}:{spec.data}" if spec.data else f"real:{_HELD_OUT}"
    held_out = calibration_set(other, spec.model, model, spec.seed + 1).images
    rows: list[dict[str, Any]] = []
    mixers = list(model.mixers())
    for layer, path in enumerate(mixers):
        yield Progress(layer, len(mixers), f"layer {layer}")
        known, unseen = (_operands(model, path, x) for x in (images, held_out))
        for scan, inputs in known.items():
            for bits in spec.bits:
                for rule, quantizer in _rules(inputs, bits).items():
                    row = {"layer": layer, "path": scan, "bits": bits, "rule": rule}
                    rows.append(row | _errors(unseen[scan], quantizer))
    values = {
        "model": spec.model.name, "calib": spec.calib, "bits": list(spec.bits), "n": len(held_out), "rows": rows,
        "means": _means(rows), "spec": asdict(spec),
    }  # fmt: skip
    return Report("state", values, run_info(spec.seed, started, model.device))


def _operands(model: VisionModel, mixer: str, images: Tensor) -> dict[str, ScanInputs]:
    with torch.no_grad(), record(model, f"{mixer}.scans.*") as trace:
        model(images.to(model.device))
    # the skip would hide what becomes of the state
    return {scan.path: replace(scan.inputs, D=None) for scan in trace.scans}


def _rules(inputs: ScanInputs, bits: int) -> dict[str, StateQuantizer]:
    sizes, rank_one = largest_state([inputs]), reparam.factors(mean_state([inputs]))
    inside = sizes / (rank_one.channel[:, None, None] * rank_one.state)
    whole = inside / rank_one.step[:, None]
    limit = 2 ** (bits - 1) - 0.5

    def of(step: Tensor, factors: Factors | None) -> StateQuantizer:
        basis = (None, None) if factors is None else (factors.channel, factors.state)
        return StateQuantizer(step, bits, *basis)

    search: Callable[..., Tensor] = reparam.search_steps
    return {
        "tensor": of(positive(sizes.amax()[None] / limit), None),
        "step": of(positive(sizes.amax((0, 2)) / limit), None),
        "shared factors": of(positive(whole.amax()[None] / limit) * rank_one.step, rank_one),
        "step factors": of(positive(inside.amax((0, 2)) / limit), rank_one),
        "searched": of(search([inputs], None, bits), None),
        "searched factors": of(search([inputs], rank_one, bits), rank_one),
    }


def _errors(inputs: ScanInputs, quantizer: StateQuantizer) -> dict[str, float]:
    exact = selective_scan(inputs).y
    rounded = selective_scan(inputs, rounding=ScanRounding(h=quantizer)).y
    away = 1 - F.cosine_similarity(exact.double(), rounded.double(), dim=1).mean().item()
    return {"h_error": reparam.state_error([inputs], quantizer, samples=_HELD_OUT), "y_error": away}


def _means(rows: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """Per width and rule, over all scans; `layers_better`: in how many layers h_error is below that of "step"."""
    means = []
    for bits, rule in dict.fromkeys((row["bits"], row["rule"]) for row in rows):
        same = [row for row in rows if (row["bits"], row["rule"]) == (bits, rule)]
        mean = {key: sum(row[key] for row in same) / len(same) for key in ("h_error", "y_error")}
        layers = _by_layer(rows, bits, rule)
        better = {
            f"layers_better_than_{other}": sum(x < y for x, y in zip(layers, _by_layer(rows, bits, other), strict=True))
            for other in ("tensor", "step")
        }
        means.append({"bits": bits, "rule": rule, **mean, **better, "layers": len(layers)})
    return means


def _by_layer(rows: list[dict[str, Any]], bits: int, rule: str) -> list[float]:
    """Mean h_error of every layer."""
    same = [row for row in rows if (row["bits"], row["rule"]) == (bits, rule)]
    layers = sorted({row["layer"] for row in same})
    of = [[row["h_error"] for row in same if row["layer"] == layer] for layer in layers]
    return [sum(errors) / len(errors) for errors in of]
