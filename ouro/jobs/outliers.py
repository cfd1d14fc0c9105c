"""Where a tensor's outlier channels are, time step by time step, and how many of them a static list would miss."""

from __future__ import annotations

import time
from collections.abc import Generator, Sequence
from dataclasses import dataclass, replace

import torch
from torch import Tensor

from ouro.data import normalize
from ouro.jobs.calibration import calibration_set
from ouro.jobs.inputs import one_image, open_model, source_of
from ouro.jobs.provenance import run_info
from ouro.jobs.rounding import rounding
from ouro.quant.observers import Rows
from ouro.quant.outliers import outlier_list, threshold
from ouro.quant.rules import OutlierRule
from ouro.scan.order import row_major, scan_names
from ouro.taps import ScanModule, Tap, match_taps, record
from ouro.types import ModelSource, Progress, Report, ScanOrder
from ouro.vision import VisionModel

TENSORS = {
    "in_proj": "in_proj.tap_in",
    "x_proj": "scans.{scan}.x_proj.tap_in",
    "dt_proj": "scans.{scan}.dt_proj.tap_in",
    "out_proj": "out_proj.tap_in",
    "u": "scans.{scan}.tap_u",
    "delta_raw": "scans.{scan}.tap_delta_raw",
    "delta": "scans.{scan}.tap_delta",
    "B": "scans.{scan}.tap_B",
    "C": "scans.{scan}.tap_C",
    "y": "scans.{scan}.tap_y",
    "A_bar": "scans.{scan}.tap_A_bar",
    "B_bar": "scans.{scan}.tap_B_bar",
}
"""What one can look at in a layer: inputs of its linear layers, operands and output of its scans, and what these are
discretized to, where every state of a channel counts as a channel."""
DISCRETIZED = frozenset({"A_bar", "B_bar"})
"""Those among them that no step size per time step rounds."""


@dataclass(frozen=True, slots=True)
class OutlierSpec:
    """One image of the test split of `data` (`sample`) or an image file, one tensor, and the rule.

    direction: the name of a scan of the layer, such as "forward"; "" is the first. n: calibration images behind the
    static list and the step sizes. kappa, refresh: see `ouro.quant.outliers`. light: factor on the brightness of the
    image. bits, outlier_bits: widths that the tensor is rounded to as well; None rounds nothing.
    """

    model: ModelSource
    layer: int = 0
    tensor: str = "in_proj"
    direction: str = ""
    sample: int | None = 0
    image: str | None = None
    n: int = 16
    kappa: float = 3.0
    refresh: int = 10
    light: float = 1.0
    bits: int | None = None
    outlier_bits: int = 8
    seed: int = 0
    data: str = ""
    device: str = "auto"

    def __post_init__(self) -> None:
        object.__setattr__(self, "model", source_of(self.model))
        for name, least in (("n", 1), ("refresh", 1), ("kappa", 0), ("light", 0)):
            if getattr(self, name) < least:
                raise ValueError(f"{name} is {getattr(self, name)}, expected {least} or more")
        if self.bits is not None and not 2 <= self.bits <= self.outlier_bits <= 8:
            raise ValueError(
                f"bits are {self.bits} for inliers and {self.outlier_bits} for outliers, expected 2 to 8, and no more "
                "for inliers than for outliers"
            )
        if self.bits is not None and self.tensor in DISCRETIZED:
            raise ValueError(f"{self.tensor} is rounded inside the recurrence, not step by step; leave bits out")


def outliers(
    spec: OutlierSpec, model: VisionModel | None = None, static: Tensor | None = None
) -> Generator[Progress, None, Report]:
    """Traces one image for the dynamic list and `n` calibration images for the static one.

    Arrays: "magnitude" float32 [l c], |x| of the image; "raw" uint8 [l c], outliers of each step by itself; "dynamic"
    uint8 [l c], the list that grows and is cleared; "static" uint8 [c], outliers of the mean over calibration;
    "threshold" float32 [l], mean + kappa std; "cells" int64 [l], the raster cell each step reads (-1: class token).
    Where `bits` are given also those of `ouro.jobs.rounding.Rounding`.

    Values: {model, layer, tensor, direction, path, grid, source, steps, channels, n, kappa, refresh, share_raw,
    share_dynamic, share_static, missed_by_static, jaccard, top_channels, light, seed}: `missed_by_static` is the part of
    all raw outliers that the static list lacks, `jaccard` the mean overlap of raw outliers between neighboring steps;
    both are None where there is no outlier.

    Args:
        model: looked at in place of the one that `spec.model` stands for.
        static: what `static_list` gives for this spec, if it is known already; spares the calibration images where
            nothing is rounded.

    Raises:
        ValueError: a layer, tensor, direction, image or number that does not exist or makes no sense.
    """
    started = time.perf_counter()
    if model is None:
        model = open_model(spec.model, spec.device)
    path, tap = find_tap(model, spec.layer, spec.tensor, spec.direction)
    yield Progress(0, 2, f"{path} of one image")
    pixels, source = one_image(model.info, spec.sample, spec.image, spec.data)
    x = _traced(model, path, normalize(relit(pixels, spec.light), model.info.mean, model.info.std))
    rows = Rows(tap.axes)(x)
    yield Progress(1, 2, f"{path} of {spec.n} calibration images")
    rule = OutlierRule(bits=4, outlier_bits=8, kappa=spec.kappa, refresh=spec.refresh)
    none = torch.zeros_like(rows, dtype=torch.bool)
    bound = threshold(rows, none, spec.kappa)
    raw = rows.abs() > bound
    dynamic = outlier_list(rows, rule)
    seen = None
    if static is None or spec.bits is not None:
        seen = _calibration(spec, model, path)
        static = _static_list(Rows(tap.axes)(seen), spec.kappa)
    raw, dynamic, rows = raw[0], dynamic[0], rows[0]
    order = _order(model, path)
    peaks = rows.abs().amax(0)
    values = {
        "model": spec.model.name,
        "layer": spec.layer,
        "tensor": spec.tensor,
        "direction": order.name,
        "path": path,
        "grid": list(order.grid),
        "source": source,
        "steps": rows.shape[0],
        "channels": rows.shape[1],
        "n": spec.n,
        "kappa": spec.kappa,
        "refresh": spec.refresh,
        "share_raw": raw.float().mean().item(),
        "share_dynamic": dynamic.float().mean().item(),
        "share_static": static.float().mean().item(),
        "missed_by_static": _ratio((raw & ~static).sum(), raw.sum()),
        "jaccard": _overlap(raw),
        "top_channels": peaks.topk(min(10, len(peaks))).indices.tolist(),
        "light": spec.light,
        "seed": spec.seed,
    }
    arrays = {
        "magnitude": rows.abs(),
        "raw": raw.to(torch.uint8),
        "dynamic": dynamic.to(torch.uint8),
        "static": static.to(torch.uint8),
        "threshold": bound[0, :, 0].float(),
        "cells": torch.tensor(order.cells),
    }
    if spec.bits is not None:
        assert seen is not None
        more, rounded = rounding(path, tap, x, seen, replace(rule, bits=spec.bits, outlier_bits=spec.outlier_bits))
        values, arrays = values | more, arrays | rounded
    yield Progress(2, 2, f"{values['share_raw']:.2%} outliers")
    return Report("outliers", values, run_info(spec.seed, started, model.device), arrays)


def static_list(spec: OutlierSpec, model: VisionModel) -> Tensor:
    """Outliers of the mean over calibration images, bool [c]; hangs on no image that is looked at.

    Raises:
        ValueError: see `outliers`.
    """
    path, tap = find_tap(model, spec.layer, spec.tensor, spec.direction)
    return _static_list(Rows(tap.axes)(_calibration(spec, model, path)), spec.kappa)


def relit(pixels: Tensor, light: float) -> Tensor:
    """Pixels uint8 [b 3 h w] as many times as bright, clipped at white."""
    return (pixels.float() * light).round().clamp(max=255).to(torch.uint8)


def mixer_of(model: VisionModel, layer: int) -> tuple[str, Sequence[ScanOrder]]:
    """(path, orders of its scans) of a layer's mixer.

    Raises:
        ValueError: there is no such layer.
    """
    mixers = model.mixers()
    if not 0 <= layer < len(mixers):
        raise ValueError(f"layer is {layer}, {model.info.name} has layers 0 to {len(mixers) - 1}")
    return list(mixers.items())[layer]


def find_tap(model: VisionModel, layer: int, tensor: str, direction: str) -> tuple[str, Tap]:
    """(path, tap) of a tensor of a layer, in one direction where the layer has more than one scan.

    Raises:
        ValueError: unknown layer, tensor or direction.
    """
    mixer, orders = mixer_of(model, layer)
    if tensor not in TENSORS:
        raise ValueError(f"unknown tensor {tensor!r}; known: {', '.join(TENSORS)}")
    names = scan_names(orders)
    direction = direction or names[0]
    if direction not in names:
        raise ValueError(f"unknown direction {direction!r}; layer {layer} of {model.info.name} has {', '.join(names)}")
    pattern = f"{mixer}.{TENSORS[tensor].format(scan=names.index(direction))}"
    ((path, tap),) = match_taps(model, pattern).items()
    return path, tap


def _calibration(spec: OutlierSpec, model: VisionModel, path: str) -> Tensor:
    """The tensor of `n` calibration images."""
    calib = f"real:{spec.n}:{spec.data}" if spec.data else f"real:{spec.n}"
    return _traced(model, path, calibration_set(calib, spec.model, model, spec.seed).images)


def _static_list(rows: Tensor, kappa: float) -> Tensor:
    """Outliers [c] of the mean of |x| over samples and steps of rows [b l c]."""
    mean = rows.abs().mean((0, 1))
    return mean > threshold(mean, torch.zeros_like(mean, dtype=torch.bool), kappa)


def _traced(model: VisionModel, path: str, images: Tensor) -> Tensor:
    with torch.no_grad(), record(model, path) as trace:
        model(images.to(model.device))
    return trace.tensors[path].cpu()


def _order(model: VisionModel, path: str) -> ScanOrder:
    """The order in which the tensor's steps read the image: that of its scan, or of the tokens outside of scans."""
    parts = path.split(".")
    for end in range(len(parts), 0, -1):
        module = model.get_submodule(".".join(parts[:end]))
        if isinstance(module, ScanModule):
            return module.order
    grids = [orders[0].grid for mixer, orders in model.mixers().items() if path.startswith(f"{mixer}.")]
    return row_major(grids[0], model.info.cls_index)


def _overlap(raw: Tensor) -> float | None:
    """Mean over neighboring steps of |both| / |either|, where either has an outlier."""
    both, either = (raw[1:] & raw[:-1]).sum(1), (raw[1:] | raw[:-1]).sum(1)
    shares = both[either > 0] / either[either > 0]
    return shares.mean().item() if len(shares) else None


def _ratio(part: Tensor, whole: Tensor) -> float | None:
    return (part / whole).item() if whole else None
