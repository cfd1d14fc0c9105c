"""Is h_p a better map than h? Every family, layer, reduction, window and weighting, scored against masks of scenes."""

from __future__ import annotations

import os
import time
from collections.abc import Generator, Sequence
from dataclasses import asdict, dataclass
from functools import partial
from typing import Any

import torch
from torch import Tensor

from ouro.attention.maps import by_mixer
from ouro.attention.patched import WEIGHTS
from ouro.attention.scores import SCORES, bootstrap
from ouro.attention.survey import neighborhoods, score
from ouro.data import normalize
from ouro.data.source import open_data, own_data
from ouro.jobs.explain import batch_size
from ouro.jobs.inputs import data_key, open_model, source_of
from ouro.jobs.pool import in_processes
from ouro.jobs.provenance import run_info
from ouro.models import variant
from ouro.quant.apply import weights_digest
from ouro.registry import MODELS
from ouro.store import Store
from ouro.taps import record
from ouro.types import ModelSource, Progress, Report

PIECE = 50
"""Images that one process scores and keeps at a time."""


@dataclass(frozen=True, slots=True)
class NeighborhoodSpec:
    """models: with masks to score against. n: the first so many images of each test split.

    Raises:
        ValueError: an unknown model or weighting, an even window, or fewer than two images.
    """

    models: tuple[ModelSource, ...] = tuple(
        map(ModelSource, ("vim_nano", "vmamba_nano", "localvmamba_nano", "mambavision_nano"))
    )
    windows: tuple[int, ...] = (1, 3, 5, 7)
    weights: tuple[str, ...] = tuple(WEIGHTS)
    n: int = 500
    seed: int = 0
    workers: int = 2
    data: str = ""
    device: str = "auto"
    engine: str = ""

    def __post_init__(self) -> None:
        object.__setattr__(self, "models", tuple(map(source_of, self.models)))
        for model in self.models:
            MODELS.get(model.name)
        for weights in self.weights:
            if weights not in WEIGHTS:
                raise ValueError(f"unknown weights {weights!r}; known: {', '.join(WEIGHTS)}")
        for window in self.windows:
            if window < 1 or window % 2 == 0:
                raise ValueError(f"window is {window}, expected an odd number from 1 up")
        if self.n < 2:
            raise ValueError(f"n is {self.n}, expected 2 or more: an interval needs a spread")


@dataclass(frozen=True, slots=True)
class _Unit:
    model: ModelSource
    start: int
    count: int


def survey_neighborhoods(
    spec: NeighborhoodSpec, *, root: str | os.PathLike[str] | None = None
) -> Generator[Progress, None, Report]:
    """The report has {n, windows, weights, models: [{model, data, scored, rows, best}], seed}.

    rows: {layer, source, reduction, auroc, pointing, leakage: {mean, ci95}, gain: {mean, ci95, seen}}; `gain` is the
    AUROC less that of h in the same layer and reduction, image by image, None for h itself; `seen` is "better", "worse"
    or "not resolved" by its interval (bootstrap over images). best: per source the row of greatest AUROC, picked after
    the fact.

    Raises:
        ValueError: a data set without masks, or with fewer images than n.
    """
    started = time.perf_counter()
    units = [
        _Unit(model, start, min(PIECE, spec.n - start)) for model in spec.models for start in range(0, spec.n, PIECE)
    ]
    yield Progress(0, len(units), f"{spec.n} images for each of {len(spec.models)} models")
    scores: dict[_Unit, dict[str, Tensor]] = {}
    for unit, rows in in_processes(partial(_scored, spec=spec, root=root), units, spec.workers, spec.engine):
        scores[unit] = rows
        yield Progress(len(scores), len(units), f"{unit.model}: {unit.start + unit.count} of {spec.n}")
    models = [_model(spec, model, [scores[unit] for unit in units if unit.model == model]) for model in spec.models]
    values = {"n": spec.n, "windows": list(spec.windows), "weights": list(spec.weights), "models": models}
    return Report("neighborhoods", values | {"seed": spec.seed, "spec": asdict(spec)}, run_info(spec.seed, started))


def _scored(unit: _Unit, *, spec: NeighborhoodSpec, root: Any) -> dict[str, Tensor]:
    """{"LAYER/SOURCE/REDUCTION/SCORE": [s]} of some images, kept once measured."""
    model = open_model(unit.model, spec.device)
    data = own_data(spec.data, model.info)
    places = [(window, weights) for window in spec.windows for weights in spec.weights]
    key: dict[str, Any] = {
        "job": "neighborhoods",
        "model": unit.model.name,
        "weights": weights_digest(model),
        **data_key(spec.data, model.info),
    }
    key |= {"start": unit.start, "count": unit.count, "places": [list(place) for place in places]}
    run = Store(root).open(key)
    kept = run.load_tensors()
    if kept is not None:
        return kept
    dataset = open_data(data, "test", model.info)
    if "masks" not in dataset.provides:
        raise ValueError(f"{data}, the data of {unit.model}, has no masks to score against")
    if spec.n > len(dataset):
        raise ValueError(f"n is {spec.n}, the test split of {data} has {len(dataset)} images")
    parts: dict[str, list[Tensor]] = {}
    at_once = batch_size(model)
    for start in range(unit.start, unit.start + unit.count, at_once):
        count = min(at_once, unit.start + unit.count - start)
        images = normalize(dataset.images(start, count)[0], model.info.mean, model.info.std)
        with torch.no_grad():
            with record(model, "*.scans.*") as trace:
                model(images.to(model.device))
            maps = dict(neighborhoods(list(by_mixer(trace.scans).values()), places))
        for name, columns in score(maps, dataset.masks(start, count).to(model.device)).items():
            for (layer, source, reduction), column in zip(maps, columns.T, strict=True):
                parts.setdefault(f"{layer}/{source}/{reduction}/{name}", []).append(column.cpu())
    joined = {path: torch.cat(columns) for path, columns in parts.items()}
    run.save_tensors(joined)
    return joined


def _model(spec: NeighborhoodSpec, model: ModelSource, parts: Sequence[dict[str, Tensor]]) -> dict[str, Any]:
    columns = {path: torch.cat([part[path] for part in parts]) for path in parts[0]}
    means = {path: _mean(column, spec.seed) for path, column in columns.items()}
    rows: list[dict[str, Any]] = []
    order = ["h", *(f"h_p {window} {weights}" for window in spec.windows for weights in spec.weights)]
    places = {tuple(path.split("/")[:3]) for path in columns}
    # a file has its own order
    for layer, source, reduction in sorted(places, key=lambda key: (int(key[0]), order.index(key[1]), key[2])):
        place = f"{layer}/{source}/{reduction}"
        row: dict[str, Any] = {"layer": int(layer), "source": source, "reduction": reduction, "gain": None}
        row |= {score: means[f"{place}/{score}"] for score in SCORES}
        if source != "h":
            plain = columns[f"{layer}/h/{reduction}/auroc"]
            row["gain"] = gain = _mean(columns[f"{place}/auroc"] - plain, spec.seed)
            low, high = gain["ci95"]
            gain["seen"] = "better" if low > 0 else "worse" if high < 0 else "not resolved"
        rows.append(row)
    best = {
        source: max((row for row in rows if row["source"] == source), key=lambda row: row["auroc"]["mean"])
        for source in order
    }
    scored = len(next(iter(columns.values())))
    return {
        "model": model.name,
        "data": spec.data or variant(model.name).data,
        "scored": scored,
        "rows": rows,
        "best": best,
    }


def _mean(column: Tensor, seed: int) -> dict[str, Any]:
    low, high = bootstrap(column[:, None], seed=seed)
    return {"mean": column.mean().item(), "ci95": [low.item(), high.item()]}
