"""Where the hidden state of each scan is large, laid back onto the image: what one direction has seen, and the other not.

Source: OuroMamba (arXiv 2503.10959), figure 3, whose subject is the scan direction; the quantity is our own choice.
"""

from __future__ import annotations

import time
from collections.abc import Generator
from dataclasses import dataclass

import torch

from ouro.data import normalize
from ouro.jobs.inputs import one_image, open_model, source_of
from ouro.jobs.outliers import mixer_of
from ouro.jobs.provenance import run_info
from ouro.scan.order import scan_names, to_raster
from ouro.taps import record
from ouro.types import ModelSource, Progress, Report


@dataclass(frozen=True, slots=True)
class DirectionSpec:
    """One image of the test split of `data` (`sample`) or an image file, and a layer."""

    model: ModelSource
    layer: int = 0
    sample: int | None = 0
    image: str | None = None
    data: str = ""
    seed: int = 0
    device: str = "auto"

    def __post_init__(self) -> None:
        object.__setattr__(self, "model", source_of(self.model))


def directions(spec: DirectionSpec) -> Generator[Progress, None, Report]:
    """Arrays: "image" uint8 [3 h w]; per scan "norm/NAME" float32 [H W], |h_t| over channels and states where step t reads.

    Values: {model, layer, source, scans, grid, steps}: names of the scans, and how many steps each has.

    Raises:
        ValueError: a layer or an image that does not exist, or a scan that does not read every patch once.
    """
    started = time.perf_counter()
    model = open_model(spec.model, spec.device)
    mixer, orders = mixer_of(model, spec.layer)
    pixels, source = one_image(model.info, spec.sample, spec.image, spec.data)
    yield Progress(0, 1, f"states of {mixer}")
    operands = (f"{mixer}.scans.*.tap_{name}" for name in ("u", "delta", "A", "B", "C", "D", "y", "h"))
    with torch.no_grad(), record(model, *operands) as trace:
        model(normalize(pixels, model.info.mean, model.info.std).to(model.device))
    names = scan_names(orders)
    arrays = {"image": pixels[0]}
    for name, scan in zip(names, trace.scans, strict=True):
        assert scan.h is not None
        norm = scan.h[0].square().sum((0, 2)).sqrt().cpu()  # [l]
        arrays[f"norm/{name}"] = to_raster(norm, scan.order).view(scan.order.grid)
    values = {
        "model": spec.model.name, "layer": spec.layer, "source": source, "scans": names, "grid": list(orders[0].grid),
        "steps": len(orders[0].cells),
    }  # fmt: skip
    return Report("directions", values, run_info(spec.seed, started, model.device), arrays)
