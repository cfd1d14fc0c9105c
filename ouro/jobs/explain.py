"""Implicit attention of a model: maps of one image, for h and for h_p, and how well maps find the object on many."""

from __future__ import annotations

import time
from collections.abc import Generator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from ouro.attention.maps import by_mixer, merge, raster_matrices
from ouro.attention.patched import WEIGHTS
from ouro.attention.scores import bootstrap
from ouro.attention.survey import MERGED, Key, score, survey
from ouro.data import normalize, providing
from ouro.data.captions import captions
from ouro.data.source import open_data, own_data
from ouro.jobs.inputs import check_sample, image_file, open_model, source_of
from ouro.jobs.provenance import run_info
from ouro.taps import record
from ouro.tasks import task_of
from ouro.types import ModelSource, Progress, Report, ScanRecord
from ouro.vision import VisionModel

HEADLINE = "received"
"""The reduction behind the headline scores: h and h_p both have it, and it was fixed before any score was seen."""
BATCH = 8
_TRANSITION_BYTES = 2**30
"""Largest transition [b l l n] of one scan: a long scan gets smaller batches."""
_SOURCES = ("h", "h_p")
_SCORES = ("auroc", "pointing", "leakage")


@dataclass(frozen=True, slots=True)
class ExplainSpec:
    """What to look at: image `sample` of the test split, or an `image` file; with n, scores over the first n images.

    layer: whose matrices are kept and whose scores make the headline; the last one by default.
    data: "" is the set that the model was trained on.
    """

    model: ModelSource
    sample: int | None = 0
    image: str | None = None
    layer: int | None = None
    window: int = 5
    weights: str = "delta"
    n: int = 0
    seed: int = 0
    data: str = ""
    device: str = "auto"

    def __post_init__(self) -> None:
        object.__setattr__(self, "model", source_of(self.model))
        if self.weights not in WEIGHTS:
            raise ValueError(f"unknown weights {self.weights!r}; known: {', '.join(WEIGHTS)}")
        if self.window < 1 or self.window % 2 == 0:
            raise ValueError(f"window is {self.window}, expected an odd number from 1 up")
        if self.n < 0:
            raise ValueError(f"n is {self.n}, expected 0 (score the one image) or more")
        if self.n == 0 and self.sample is None and self.image is None:
            raise ValueError("nothing to explain: give a sample, an image file or n, a number of images to score")


@dataclass(frozen=True, slots=True)
class _Scored:
    """Scores of some images: {score: [s k]}, a column per key."""

    keys: list[Key]
    rows: Mapping[str, Tensor]


def explain(spec: ExplainSpec, model: VisionModel | None = None) -> Generator[Progress, None, Report]:
    """Records forwards of the model and derives every map from them, one Progress per batch.

    Arrays of the image: "image" uint8 [3 h w]; "mask" uint8 [h w] where it is known;
    "map/{layer}/{direction}/{source}/{reduction}" float32 [H W] for all layers, with direction "forward", "backward"
    or "both", source "h", "h_p" or "delta" (its only reduction is "mean"); "matrix/h" and "matrix/h_p" float32 [P P] of
    the chosen layer, both directions, raster order, signed, row = the patch that attends.

    Values: {model, data, sample, image, label, predicted, confidence, layer, layers, grid, window, weights, n, scored,
    direction, reduction, auroc, pointing, leakage: {h, h_p}, gain, ci95, table, best: {h, h_p}, seed, seconds, device}.
    Headline scores are those of the chosen layer, both directions, reduction "received"; `gain` is AUROC of h_p less
    that of h, image by image; `ci95` has an interval for each, None for one image. `table` has every layer, direction,
    source and reduction; `best` is its best row per source, picked after the fact. `scored` counts the images whose
    object fills at least one patch. With n = 0 the scores are those of the one image; without a mask they are None and
    the table is empty.

    Args:
        model: explained in place of the one that `spec.model` stands for.

    Raises:
        ValueError: an unknown name, a layer, window or image that does not exist or fit, or no masks to score against.
    """
    started = time.perf_counter()
    if model is None:
        model = open_model(spec.model, spec.device)
    layer, grids = _layer(spec, model)
    # an image file is of no data set
    data = own_data(spec.data, model.info) if spec.n or spec.sample is not None else spec.data
    one = spec.sample is not None or spec.image is not None
    batch = batch_size(model)
    total = int(one) + -(-spec.n // batch)
    values: dict[str, Any] = {"model": spec.model.name, "data": data}
    arrays: dict[str, Tensor] = {}
    parts: list[_Scored] = []
    if one:
        yield Progress(0, total, "maps of one image")
        facts, arrays, alone = _one_image(spec, model, data, layer)
        values |= facts
        parts = [] if spec.n or alone is None else [alone]
    for start in range(0, spec.n, batch):
        parts.append(_batch(spec, model, data, start, min(batch, spec.n - start)))
        step = int(one) + len(parts)
        scored = sum(len(part.rows["auroc"]) for part in parts)
        yield Progress(step, total, f"{min(start + batch, spec.n)} of {spec.n} images", {"scored": scored})
    if not spec.n:
        yield Progress(total, total, "maps of one image")
    values |= {"layer": layer, "layers": len(grids), "grid": list(grids[layer])}
    values |= {"window": spec.window, "weights": spec.weights, "n": spec.n, **_summary(parts, layer, spec.seed)}
    run = run_info(spec.seed, started, model.device)
    values |= {"seed": spec.seed, "seconds": round(run.seconds, 2), "device": run.device}
    return Report("attention", values, run, arrays)


def _layer(spec: ExplainSpec, model: VisionModel) -> tuple[int, list[tuple[int, int]]]:
    """(the layer asked for, the grid of every layer), checked."""
    grids = [orders[0].grid for orders in model.mixers().values()]
    if not grids:
        raise ValueError(f"{spec.model.name} has no scan to explain")
    layer = len(grids) - 1 if spec.layer is None else spec.layer
    if not 0 <= layer < len(grids):
        raise ValueError(f"layer is {layer}, {spec.model.name} has layers 0 to {len(grids) - 1}")
    height, width = grids[layer]
    if spec.window > min(height, width):
        raise ValueError(
            f"window is {spec.window}, expected an odd number up to {min(height, width)}: layer {layer} has a "
            f"{height}x{width} grid"
        )
    return layer, grids


def batch_size(model: VisionModel) -> int:
    """Images at a time; does not change the result."""
    largest = max(4 * stage.L**2 * stage.N for stage in model.info.stages)
    return max(1, min(BATCH, _TRANSITION_BYTES // largest))


def _trace(model: VisionModel, pixels: Tensor) -> tuple[list[list[ScanRecord]], Tensor]:
    """The scans of every mixer, and the logits, of images uint8 [b 3 h w]."""
    images = normalize(pixels, model.info.mean, model.info.std).to(next(model.parameters()))
    with torch.no_grad(), record(model, "*.scans.*") as trace:
        logits = model(images)
    return list(by_mixer(trace.scans).values()), logits


def _one_image(
    spec: ExplainSpec, model: VisionModel, data: str, layer: int
) -> tuple[dict[str, Any], dict[str, Tensor], _Scored | None]:
    """(facts, arrays, scores where there is a mask) of the image shown."""
    mask, label = None, None
    if spec.image is not None:
        pixels = image_file(spec.image, model.info)
    else:
        assert spec.sample is not None
        dataset = open_data(data, "test", model.info)
        check_sample(spec.sample, data, dataset)
        pixels, labels = dataset.images(spec.sample, 1)
        label = None if labels is None else captions(labels, dataset.targets, dataset.classes)[0]
        mask = dataset.masks(spec.sample, 1) if "masks" in dataset.provides else None
    layers, logits = _trace(model, pixels)
    with torch.no_grad():
        maps = dict(survey(layers, spec.window, spec.weights))
        views = [raster_matrices(scan, spec.window, spec.weights) for scan in layers[layer]]
    cells = views[0]["h_p"].shape[-1]
    arrays = {"image": pixels[0]} | {"map/" + "/".join(map(str, key)): x[0].float().cpu() for key, x in maps.items()}
    for source in _SOURCES:
        matrix = merge([view[source] for view in views])
        arrays[f"matrix/{source}"] = matrix[0, :cells, :cells].float().cpu()
    facts = {
        "sample": None if spec.image is not None else spec.sample,
        "image": spec.image,
        "label": label,
        **task_of(model).answer(logits[0], model.info),
    }
    if mask is None:
        return facts, arrays, None
    arrays["mask"] = mask[0].to(torch.uint8)
    return facts, arrays, _score(maps, mask)


def _batch(spec: ExplainSpec, model: VisionModel, data: str, start: int, count: int) -> _Scored:
    """Scores of images start .. start + count of the test split."""
    dataset = open_data(data, "test", model.info)
    if "masks" not in dataset.provides:
        raise ValueError(f"{data} has no masks to score against; take {' or '.join(providing('masks'))}, or n = 0")
    if spec.n > len(dataset):
        raise ValueError(f"n is {spec.n}, the test split of {data} has {len(dataset)} images")
    layers, _ = _trace(model, dataset.images(start, count)[0])
    with torch.no_grad():
        return _score(dict(survey(layers, spec.window, spec.weights)), dataset.masks(start, count))


def _score(maps: Mapping[Key, Tensor], mask: Tensor) -> _Scored:
    rows = score(maps, mask.to(next(iter(maps.values())).device))
    return _Scored(list(maps), {name: row.cpu() for name, row in rows.items()})


def _summary(parts: Sequence[_Scored], layer: int, seed: int) -> dict[str, Any]:
    """Means and intervals over all images scored: headline, table and best rows."""
    scored = sum(len(part.rows["auroc"]) for part in parts)
    head: dict[str, Any] = {"scored": scored, "direction": MERGED, "reduction": HEADLINE}
    if not scored:
        nothing = {name: dict.fromkeys(_SOURCES) for name in _SCORES} | {"gain": None}
        return head | nothing | {"ci95": nothing, "table": [], "best": dict.fromkeys(_SOURCES)}
    keys = parts[0].keys
    place = {source: keys.index((layer, MERGED, source, HEADLINE)) for source in _SOURCES}
    columns = {name: torch.cat([part.rows[name] for part in parts]) for name in _SCORES}
    columns["gain"] = (columns["auroc"][:, place["h_p"]] - columns["auroc"][:, place["h"]]).unsqueeze(1)
    means = {name: column.mean(0).tolist() for name, column in columns.items()}
    ends = {name: _interval(column, seed) for name, column in columns.items()}
    table = []
    for k, key in enumerate(keys):
        row: dict[str, Any] = dict(zip(("layer", "direction", "source", "reduction"), key, strict=True))
        for name in ("auroc", "pointing"):
            row |= {name: means[name][k], f"{name}_lo": ends[name][k][0], f"{name}_hi": ends[name][k][1]}
        table.append(row | {"leakage": means["leakage"][k]})
    limits: dict[str, Any] = {"gain": _pair(ends["gain"][0])}
    for name in _SCORES:
        head[name] = {source: means[name][k] for source, k in place.items()}
        limits[name] = {source: _pair(ends[name][k]) for source, k in place.items()}
    best = {s: max((row for row in table if row["source"] == s), key=lambda row: row["auroc"]) for s in _SOURCES}
    return head | {"gain": means["gain"][0], "ci95": limits, "table": table, "best": best}


def _interval(column: Tensor, seed: int) -> list[tuple[float | None, float | None]]:
    """95 % interval of each column's mean; one image has none."""
    if len(column) < 2:
        return [(None, None)] * column.shape[1]
    low, high = bootstrap(column, seed=seed)
    return list(zip(low.tolist(), high.tolist(), strict=True))


def _pair(limits: tuple[float | None, float | None]) -> list[float | None] | None:
    return None if limits[0] is None else list(limits)
