"""The list of models with what is known of their weights."""

from __future__ import annotations

from typing import Any

import torch

from ouro.models import variant
from ouro.models.zigma import ZigMaConfig
from ouro.models.zoo import card, embedded_path
from ouro.registry import MODELS
from ouro.scan.order import scan_names
from ouro.tasks import task_of
from ouro.vision import VisionModel


def catalog() -> list[dict[str, Any]]:
    """One row per model; `weights` is "embedded", "hub" (downloaded on request) or "none".

    `task` is what it is for, `metric` the name of its main score (see `ouro.metrics`), `score` that score, as it came out
    on `score_n` held-out images for embedded models, or as it was published (None); of shares a part of 1. `top1` and
    `top1_n` are the same of a classifier, in percent.
    """
    return [catalog_row(name) for name in MODELS]


def catalog_row(name: str) -> dict[str, Any]:
    """The row of one model, which is built for it.

    Raises:
        ValueError: unknown name.
    """
    entry = variant(name)
    # on the meta device nothing is allocated or initialised
    with torch.device("meta"):
        model = entry.build(entry.config, name)
    facts = card(name) or {}
    row = {"name": name, "data": entry.data, **described(model), "weights": weights_of(name)}
    published = None if entry.top1 is None else entry.top1 / 100
    return row | scored(facts.get(row["metric"], published), facts.get("n"), row)


def takes_pictures(name: str) -> bool:
    """Whether a model takes pictures, and not latents of them, known without building it."""
    config = variant(name).config
    return not isinstance(config, ZigMaConfig) or config.channels == 3


def weights_of(name: str) -> str:
    """Where the weights of a model are: "embedded", "hub" or "none"."""
    entry = variant(name)
    if entry.embedded:
        return "embedded" if embedded_path(entry.weights or "").exists() else "none"
    return "none" if entry.weights is None else "hub"


def scored(score: float | None, n: int | None, row: dict[str, Any]) -> dict[str, Any]:
    """What a row says of a score."""
    top1 = score if row["metric"] == "top1" else None
    percent = None if top1 is None else 100 * top1
    return {"score": score, "score_n": n, "top1": percent, "top1_n": None if percent is None else n}


def described(model: VisionModel) -> dict[str, Any]:
    """What a row says of a model as it was built, whatever its weights are."""
    mixers = model.mixers()
    return {
        "task": model.info.task,
        "metric": task_of(model).metric,
        "family": model.info.family,
        "input_size": list(model.info.input_size),
        "classes": model.info.num_classes,
        "parameters": sum(p.numel() for p in model.parameters()),
        "layers": len(mixers),
        "grid": list(model.info.stages[-1].grid),
        "scans": [scan_names(orders) for orders in mixers.values()],
        "steps": next(stage.L for stage in model.info.stages if stage.depth),
    }
