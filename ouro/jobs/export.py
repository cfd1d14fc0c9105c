"""A data set with masks or boxes, written as files that other tools read."""

from __future__ import annotations

import time
from collections.abc import Generator
from dataclasses import dataclass

import torch

from ouro.data import kind, load
from ouro.data.export import export as written
from ouro.jobs.provenance import run_info
from ouro.types import Progress, Report


@dataclass(frozen=True, slots=True)
class ExportSpec:
    """data: a set that draws its images, such as "scenes_det". size: side of the images. seed: which series of scenes."""

    data: str
    out: str
    num: int = 100
    split: str = "test"
    size: int = 96
    seed: int = 0


def export(spec: ExportSpec) -> Generator[Progress, None, Report]:
    """Writes, one Progress per image; the report has {data, split, num, size, seed, classes, path, read_as}.

    Raises:
        ValueError: an unknown set or split, one without masks or boxes, or more images than there are.
        WriteError: the folder cannot be written.
    """
    started = time.perf_counter()
    series = {"seed": spec.seed} if "series" in kind(spec.data).provides else {}
    dataset = load(spec.data, split=spec.split, size=spec.size, **series)
    for done in written(dataset, spec.out, spec.num):
        yield Progress(done, spec.num, f"{done} images")
    boxes = dataset.targets == "boxes"
    values = {
        "data": spec.data, "split": spec.split, "num": spec.num, "size": spec.size, "seed": spec.seed,
        "classes": list(dataset.classes), "path": spec.out,
        "read_as": f"coco:{spec.out}/annotations.json" if boxes else f"masks:{spec.out}",
    }  # fmt: skip
    return Report("export", values, run_info(spec.seed, started, torch.device("cpu")))
