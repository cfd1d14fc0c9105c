"""One picture against what a model was trained on: is it far from all that the model knows?"""

from __future__ import annotations

import os
import time
from collections.abc import Generator
from dataclasses import dataclass
from typing import Any

from ouro.data import normalize
from ouro.data.source import own_data, own_images
from ouro.evaluate.familiarity import NEIGHBORS, PATCHES, Familiarity, familiarity, strangeness
from ouro.jobs.inputs import one_image, open_model, source_of
from ouro.jobs.provenance import run_info
from ouro.quant.apply import weights_digest
from ouro.settings import check_counts
from ouro.store import Store
from ouro.types import ModelSource, Progress, Report
from ouro.vision import VisionModel


@dataclass(frozen=True, slots=True)
class FamiliarSpec:
    """An image file, or image `sample` of `data`, and how many images of the model's own set it is compared with.

    known: calibration images that are remembered. held_out: test images that say what is usual.
    """

    model: ModelSource
    sample: int | None = None
    image: str | None = None
    data: str = ""
    known: int = 64
    held_out: int = 100
    seed: int = 0
    device: str = "auto"

    def __post_init__(self) -> None:
        object.__setattr__(self, "model", source_of(self.model))
        check_counts(self, "known", "held_out")


def familiar(spec: FamiliarSpec, *, root: str | os.PathLike[str] | None = None) -> Generator[Progress, None, Report]:
    """What a model knows is remembered once per machine; every further picture takes one forward.

    The report has {model, data, source, strangeness, limit, far, seed}: `data` is the model's own set, `strangeness` 0
    for a usual image of it, and `limit` what one in a hundred of its held-out images is beyond.

    Args:
        root: where runs are stored; `ouro.store.default_root()` by default.

    Raises:
        ValueError: no such image, or a model whose own images do not come along.
    """
    started = time.perf_counter()
    model = open_model(spec.model, spec.device)
    info, own = model.info, own_data("", model.info)
    pixels, source = one_image(info, spec.sample, spec.image, spec.data)
    yield Progress(0, 2, f"what {spec.model} knows of {own}")
    known = _known(spec, model, own, root)
    yield Progress(1, 2, source)
    value = strangeness(model, normalize(pixels, info.mean, info.std), known).item()
    values = {"model": spec.model.name, "data": own, "source": source, "strangeness": value, "limit": known.limit}
    values |= {"far": value > known.limit, "seed": spec.seed}
    return Report("familiarity", values, run_info(spec.seed, started, model.device))


def _known(spec: FamiliarSpec, model: VisionModel, own: str, root: str | os.PathLike[str] | None) -> Familiarity:
    """What the model knows, from the store where it was remembered before."""
    key: dict[str, Any] = {
        "job": "familiarity",
        "model": spec.model.name,
        "weights": weights_digest(model),
        "data": own,
    }
    key |= {"known": spec.known, "held_out": spec.held_out, "patches": PATCHES, "neighbors": NEIGHBORS}
    key["seed"] = spec.seed
    run = Store(root).open(key)
    report, memory = run.report(), run.load_tensors()
    if report is not None and memory is not None:
        patches, images = (
            {name.partition(":")[2]: x for name, x in memory.items() if name.startswith(f"{kind}:")}
            for kind in ("patches", "images")
        )
        usual = {path: (tuple(one), tuple(other)) for path, (one, other) in report["usual"].items()}
        return Familiarity(patches, images, usual, report["limit"])
    known = familiarity(
        model,
        own_images(model.info, "calib", spec.known),
        own_images(model.info, "test", spec.held_out),
        seed=spec.seed,
    )
    kept = {f"patches:{path}": x for path, x in known.patches.items()}
    run.save_tensors(kept | {f"images:{path}": x for path, x in known.images.items()})
    run.save_report({"usual": dict(known.usual), "limit": known.limit})
    return known
