"""One block as the quantizer sees it: its tensors in data-flow order, and one of them as it is rounded in two precisions.

Source: OuroMamba (arXiv 2503.10959), figures 6 (overview) and 7 (flow of mixed precision), made of a model itself: the
order is that in which its taps fire, and what is done to each is what the plan of a method says.
"""

from __future__ import annotations

import time
from collections.abc import Generator
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from ouro.data import normalize
from ouro.jobs.calibration import calibration_set
from ouro.jobs.inputs import one_image, open_model, source_of
from ouro.jobs.outliers import find_tap, mixer_of
from ouro.jobs.provenance import run_info
from ouro.quant.apply import attach_calibration
from ouro.quant.calibrate import calibrating
from ouro.quant.modules import StepQuantizer
from ouro.quant.observers import Rows
from ouro.quant.outliers import outlier_list, outlier_steps, round_two_ways
from ouro.quant.plan import SCOPES, is_rounded, make_plan
from ouro.quant.quantizer import RECURRENT_SITES
from ouro.scan.order import scan_names
from ouro.taps import Tap, record, taps
from ouro.types import ModelSource, Progress, Report

BEFORE, PROJECTIONS, OPERANDS, RECURRENCE, OUTPUT, AFTER = range(6)
"""Columns of the overview, from left to right; all but the first and the last are a scan's own."""


@dataclass(frozen=True, slots=True)
class BlockSpec:
    """A layer of a model, and the plan that is drawn onto it."""

    model: ModelSource
    layer: int = 0
    method: str = "ouro"
    bits: str = "w4a4o8"
    scope: str = "rec"
    seed: int = 0
    device: str = "auto"

    def __post_init__(self) -> None:
        object.__setattr__(self, "model", source_of(self.model))


def block(spec: BlockSpec) -> Generator[Progress, None, Report]:
    """{model, layer, mixer, method, bits, scope, lanes, boxes}: no calibration, one forward on a gray image.

    lanes: names of the layer's scans. boxes, as their tensors are made: {path (in the mixer), site, column, lane (number
    of the scan, None outside of scans), shape, bits (None: not rounded), outlier_bits, granularity, signed}.

    Raises:
        ValueError: a layer, method, scope or width that does not exist.
    """
    started = time.perf_counter()
    model = open_model(spec.model, spec.device)
    mixer, orders = mixer_of(model, spec.layer)
    known = {path: tap for path, tap in taps(model) if path.startswith(f"{mixer}.")}
    yield Progress(0, 1, f"{len(known)} tensors of {mixer}")
    with torch.no_grad(), record(model, *known) as trace:
        model(torch.zeros(1, *model.info.input_size, device=model.device))
    plan = make_plan(model, spec.method, spec.bits, spec.scope, spec.seed, {})[1]
    boxes: list[dict[str, Any]] = []
    for path, tensor in trace.tensors.items():
        lane = int(path.split(".scans.")[1].split(".")[0]) if ".scans." in path else None
        seen = any(box["lane"] is not None for box in boxes)
        chosen = plan.sites.get(path)
        rounded = chosen is not None and is_rounded(chosen)
        boxes.append(
            {
                "path": path.removeprefix(f"{mixer}."), "site": known[path].site, "lane": lane,
                "column": _column(known[path], lane, seen), "shape": list(tensor.shape),
                "bits": chosen.bits if chosen and rounded else None,
                "outlier_bits": chosen.outlier_bits if chosen and rounded else None,
                "granularity": chosen.granularity if chosen and rounded else "", "signed": chosen.signed if chosen else None,
            }
        )  # fmt: skip
    # the scan shows h first, though it is made of the other two
    boxes.sort(key=lambda box: (box["lane"] is not None and box["column"] == RECURRENCE, box["site"] == "scan.h"))
    values = {
        "model": spec.model.name, "layer": spec.layer, "mixer": mixer, "method": spec.method, "bits": plan.bits,
        "scope": spec.scope, "lanes": scan_names(orders), "boxes": boxes,
    }  # fmt: skip
    return Report("block", values, run_info(spec.seed, started, model.device))


def _column(tap: Tap, lane: int | None, scanned: bool) -> int:
    if lane is None:
        return AFTER if scanned else BEFORE
    if tap.site in RECURRENT_SITES:
        return RECURRENCE
    if tap.site in SCOPES["full"] - SCOPES["rec"] - {"scan.delta"} or tap.site in SCOPES["lin"]:
        return PROJECTIONS
    return OUTPUT if tap.site == "scan.y" else OPERANDS


@dataclass(frozen=True, slots=True)
class FlowSpec:
    """One tensor (`tensor`, `direction`: see `ouro.jobs.outliers`) of one image, under steps that `calib` gave."""

    model: ModelSource
    layer: int = 3
    tensor: str = "in_proj"
    direction: str = ""
    sample: int = 0
    bits: str = "w4a4o8"
    calib: str = "real:8"
    seed: int = 0
    data: str = ""
    device: str = "auto"

    def __post_init__(self) -> None:
        object.__setattr__(self, "model", source_of(self.model))


def mixed_precision(spec: FlowSpec) -> Generator[Progress, None, Report]:
    """How OuroMamba-Quant rounds a tensor: its list over the steps, and the two step sizes at each.

    Arrays: "x" float32 [l c] of the float model; "rounded" [l c]; "listed" uint8 [l c]; "static" float32 [l], the inlier
    step; "dynamic" float32 [l], that of the outliers, NaN where there is none. Values: {model, path, layer, tensor, sample,
    bits, outlier_bits, refresh, kappa, channels, steps, share, errors: {inliers, outliers, all_static}}, the latter mean
    squared errors; `all_static` is of the listed values, had they been rounded like inliers.

    Raises:
        ValueError: a layer, tensor or image that does not exist, or widths without one for outliers.
    """
    started = time.perf_counter()
    model = open_model(spec.model, spec.device)
    path, tap = find_tap(model, spec.layer, spec.tensor, spec.direction)
    pixels, _ = one_image(model.info, spec.sample, None, spec.data)
    with torch.no_grad(), record(model, path) as trace:
        model(normalize(pixels, model.info.mean, model.info.std).to(model.device))
    rows = Rows(tap.axes)(trace.tensors[path].cpu())
    images = calibration_set(spec.calib, spec.model, model, spec.seed, device=spec.device).images
    scope = next(name for name, sites in SCOPES.items() if tap.site in sites)
    job = calibrating(model, images, method="ouro", bits=spec.bits, scope=scope, seed=spec.seed, steps_per_block=0)
    calibration = yield from job
    attach_calibration(model, calibration)
    quantizer = tap.quantizer
    if not isinstance(quantizer, StepQuantizer) or quantizer.rule is None:
        raise ValueError(
            f"{spec.tensor} has no outliers at {spec.bits}; take widths such as w4a4o8, and a tensor with time steps"
        )
    rule, scale = quantizer.rule, quantizer.scale.detach().cpu()
    zero = None if quantizer.spec.signed else quantizer.zero.detach().cpu()
    listed = outlier_list(rows, rule, scale=scale)
    rounded = round_two_ways(rows, listed, rule, scale, zero)
    plain = round_two_ways(rows, torch.zeros_like(listed), rule, scale, zero)
    values = {
        "model": spec.model.name, "path": path, "layer": spec.layer, "tensor": spec.tensor, "sample": spec.sample,
        "bits": rule.bits, "outlier_bits": rule.outlier_bits, "refresh": rule.refresh, "kappa": rule.kappa,
        "steps": rows.shape[1], "channels": rows.shape[2], "share": listed.float().mean().item(),
        "errors": {
            "inliers": _error(rounded, rows, ~listed), "outliers": _error(rounded, rows, listed),
            "all_static": _error(plain, rows, listed),
        },
    }  # fmt: skip
    arrays = {
        "x": rows[0], "rounded": rounded[0], "listed": listed[0].to(torch.uint8), "static": scale.float(),
        "dynamic": _dynamic_step(rows, listed, rule)[0],
    }  # fmt: skip
    return Report("mixed precision", values, run_info(spec.seed, started, model.device), arrays)


def _dynamic_step(rows: Tensor, listed: Tensor, rule: Any) -> Tensor:
    """The outliers' step at every time step [b l], NaN where nothing is listed."""
    step = rows.new_zeros(rows.shape[:2]) if rule.outlier_grid is None else outlier_steps(rows, listed, rule)[0][..., 0]
    return step.masked_fill(~listed.any(-1), torch.nan)


def _error(rounded: Tensor, exact: Tensor, chosen: Tensor) -> float | None:
    return (rounded - exact)[chosen].square().mean().item() if chosen.any() else None
