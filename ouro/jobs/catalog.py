"""The list of models with what is known of their weights."""

from __future__ import annotations

from typing import Any

import torch

from ouro.models import variant
from ouro.models.zoo import card, embedded_path
from ouro.registry import MODELS
from ouro.scan.order import scan_names
from ouro.vision import VisionModel


def catalog() -> list[dict[str, Any]]:
    """One row per model; `weights` is "embedded", "hub" (downloaded on request) or "none".

    `top1` is in percent: measured on the held-out split for embedded models (`top1_n` images), published otherwise.
    """
    rows = []
    for name in MODELS:
        entry = variant(name)
        # on the meta device nothing is allocated or initialised
        with torch.device("meta"):
            model = entry.build(entry.config, name)
        weights = "none" if entry.weights is None else "hub"
        if entry.embedded:
            weights = "embedded" if embedded_path(entry.weights or "").exists() else "none"
        facts = card(name) or {}
        top1 = 100 * facts["top1"] if "top1" in facts else entry.top1
        row = {"name": name, "data": entry.data, **described(model), "weights": weights}
        rows.append(row | {"top1": top1, "top1_n": facts.get("n")})
    return rows


def described(model: VisionModel) -> dict[str, Any]:
    """What a row says of a model as it was built, whatever its weights are."""
    mixers = model.mixers()
    return {
        "family": model.info.family,
        "input_size": list(model.info.input_size),
        "classes": model.info.num_classes,
        "parameters": sum(p.numel() for p in model.parameters()),
        "layers": len(mixers),
        "grid": list(model.info.stages[-1].grid),
        "scans": [scan_names(orders) for orders in mixers.values()],
        "steps": next(stage.L for stage in model.info.stages if stage.depth),
    }
