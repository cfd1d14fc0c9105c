"""Sets of images side by side: who recognizes them, how they spread, how near they are to real ones, what they give."""

from __future__ import annotations

import os
import time
from collections.abc import Generator
from dataclasses import asdict, dataclass
from typing import Any

import torch

from ouro.evaluate.quality import Coverage, coverage, diversity, features, frechet, similarity_density
from ouro.gen.synthesize import recognized
from ouro.jobs.bench.compare import CompareSpec, compare
from ouro.jobs.calibration import calibration_set
from ouro.jobs.inputs import open_model, source_of
from ouro.jobs.provenance import run_info
from ouro.jobs.synthesize import judges_of
from ouro.progress import staged
from ouro.quant.apply import weights_digest
from ouro.quant.calibrate import images_digest
from ouro.store import Store
from ouro.types import CalibrationSet, ModelSource, Progress, Report
from ouro.vision import VisionModel

OTHER_DRAW = 1000
"""Added to the seed for the real images that sets are measured against: never those that are among the sets."""

_LOOKING = 0.4
"""About the share of the time that goes by before anything is quantized."""


@dataclass(frozen=True, slots=True)
class QualitySpec:
    """Sets as (label, set), see `ouro.jobs.quantize.calibration_set`, measured against real images.

    reference: "real:N"; drawn with another seed than a set "real:N" is, so that real images score what they can.
    methods, bits: what is calibrated on every set; no methods leave accuracy out. limit: held-out images of `data`.

    Raises:
        ValueError: no sets, or a label twice.
    """

    model: ModelSource
    sets: tuple[tuple[str, str], ...]
    reference: str = "real:128"
    methods: tuple[str, ...] = ("clipped", "ouro")
    bits: tuple[str, ...] = ("w4a4o8",)
    limit: int = 250
    seed: int = 0
    data: str = ""
    device: str = "auto"

    def __post_init__(self) -> None:
        object.__setattr__(self, "model", source_of(self.model))
        labels = [label for label, _ in self.sets]
        if not labels or len(set(labels)) < len(labels):
            raise ValueError(
                f"sets are {', '.join(labels) or 'missing'}; give one or more, each with a label of its own"
            )


def quality(spec: QualitySpec, *, root: str | os.PathLike[str] | None = None) -> Generator[Progress, None, Report]:
    """The report has {model, reference, n_reference, bins, rows: [{label, calib, n, recognized, diversity, frechet,
    overlap, outside, ks, similarity, entropy, sites, density, accuracy}], fp_top1, seed}.

    `recognized`: {model: share} of its class as the model itself and independent ones see it, empty without labels.
    `overlap`, `outside`, `ks` are means over `sites` ([{path, site, overlap, outside, ks}]), `similarity` and `entropy`
    mean cosine of patches and differential entropy of its density, `density` [blocks][bins] over [-1, 1].
    `accuracy`: {"METHOD BITS": top-1} after quantization.

    Raises:
        ValueError: an unknown model, or a set that does not fit it.
    """
    started = time.perf_counter()
    model = open_model(spec.model, spec.device)
    real = calibration_set(
        spec.reference, spec.model, model, spec.seed + OTHER_DRAW, root=root, device=spec.device
    ).images
    wanted = features(model, real)
    judges = dict(judges_of(spec.model.name, model))
    store, rows = Store(root), []
    for number, (label, calib) in enumerate(spec.sets):
        at = round(1000 * _LOOKING * number / len(spec.sets))
        yield Progress(at, 1000, f"{label}: looked at through {spec.model.name}")
        made = calibration_set(calib, spec.model, model, spec.seed, root=root, device=spec.device)
        key = {"job": "quality", "model": spec.model.name, "weights": weights_digest(model)}
        key |= {"set": images_digest(made.images), "real": images_digest(real)}
        run = store.open(key)
        seen = run.report()
        if seen is None:
            seen = {"n_reference": len(real)} | _looked_at(model, made, real, wanted, judges)
            run.save_report(seen)
        rows.append({"label": label, "calib": calib, "n": len(made.images)} | seen | {"accuracy": {}})
    fp_top1 = None
    if spec.methods:
        chosen = CompareSpec(
            spec.model,
            spec.methods,
            spec.bits,
            spec.sets,
            (spec.seed,),
            limit=spec.limit,
            data=spec.data,
            device=spec.device,
        )
        job = compare(chosen, root=root)
        compared = (yield from staged(job, _LOOKING, 1, "quantized with every set")).values
        metric = compared["metric"]
        fp_top1 = compared[f"fp_{metric}"]
        for row in rows:
            cells = [cell for cell in compared["cells"] if cell["calib"] == row["label"]]
            row["accuracy"] = {f"{cell['method']} {cell['bits']}": cell[metric] for cell in cells}
    values = {"model": spec.model.name, "reference": spec.reference, "n_reference": len(real), "rows": rows}
    values |= {"fp_top1": fp_top1, "limit": spec.limit, "seed": spec.seed, "spec": asdict(spec)}
    return Report("quality", values, run_info(spec.seed, started))


def _looked_at(
    model: VisionModel, made: CalibrationSet, real: torch.Tensor, wanted: torch.Tensor, judges: dict[str, VisionModel]
) -> dict[str, Any]:
    """All of a row that needs no quantization."""
    own, labels = features(model, made.images), made.labels
    shares = {}
    if labels is not None:
        shares = {name: recognized(judge, made.images, labels) for name, judge in ({"itself": model} | judges).items()}
    sites = coverage(model, made.images, real)
    density = similarity_density(model, made.images)
    places = torch.linspace(-1, 1, 2 * density.shape[1] + 1, dtype=torch.float64)[1::2]
    width = 2 / density.shape[1]
    entropy = -(density * density.clamp(min=1e-12).log()).sum(1) * width
    return {
        "recognized": shares,
        # two images are of one class, or they have no class
        "diversity": diversity(own, labels if labels is not None and labels.dim() == 1 else None),
        "frechet": frechet(own, wanted),
        **{name: _mean(sites, name) for name in ("overlap", "outside", "ks")},
        "similarity": ((density * places).sum(1) * width).mean().item(),
        "entropy": entropy.mean().item(),
        "sites": [asdict(site) for site in sites],
        "density": [[round(value, 5) for value in row] for row in density.tolist()],
    }


def _mean(sites: list[Coverage], name: str) -> float:
    return sum(getattr(site, name) for site in sites) / len(sites)
