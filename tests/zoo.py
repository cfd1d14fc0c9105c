"""Every registered model in a size that runs in a moment; what tests of all families are parametrized over."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest
import torch
from torch import Tensor

from ouro.models import create_model, variant
from ouro.models.family import Family
from ouro.registry import MODELS

NAMES = list(MODELS)

_SMALL: dict[str, dict[str, Any]] = {
    "VimConfig": {"width": 32, "depth": 2, "image": 24, "patch": 4},
    "VMambaConfig": {"width": 16, "depths": (1, 1), "image": 24},
    "LocalVimConfig": {"width": 32, "image": 24, "patch": 4},
    "LocalVMambaConfig": {"width": 16, "depths": (1, 1), "image": 24},
    "MambaVisionConfig": {
        "width": 16, "stem": 8, "depths": (1, 2, 2), "heads": (1, 2, 2), "windows": (3, 3, 2), "conv_stages": 1,
        "image": 24,
    },
    "ZigMaConfig": {"width": 32, "depth": 3, "image": 6},
    "MaskRCNNConfig": {"channels": 8, "hidden": 16, "proposals": 20, "image": 32},
    "DetectorConfig": {"channels": 32, "more": 1, "image": 24},
    "SegmenterConfig": {"channels": 8, "aux": 8, "image": 24},
}  # fmt: skip
"""Name of a family's config -> the fields that make it small; all that a name stands for besides stays."""


def small(name: str, seed: int = 0) -> Family:
    """A small model of this name; weights drawn by the seed."""
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        model = create_model(name, **_all_changes(name))
        # layer scales and zeroed projections would hide what is in front of them
        with torch.no_grad():
            for parameter in model.parameters():
                if parameter.abs().max() < 1e-3:
                    parameter.normal_(std=0.1)
    return model


def _all_changes(name: str) -> dict[str, Any]:
    """What makes the config of this name small, its backbone's and its classes included."""
    config = variant(name).config
    changes = _changes(config)
    if hasattr(config, "body"):
        changes |= {"body": replace(config.body, **_changes(config.body))}
        # as many features as the shortened backbone has
        body = changes["body"]
        count = body.depth if hasattr(body, "depth") else len(body.depths)
        features = [feature for feature in config.features if feature < count]
        changes |= {"features": tuple(features), "scales": config.scales[: len(features)]} if config.features else {}
    return changes | ({"num_classes": 5, "class_names": ()} if getattr(config, "num_classes", 0) else {})


def _changes(config: Any) -> dict[str, Any]:
    """What makes a config small."""
    changes = dict(_SMALL[type(config).__name__])
    if hasattr(config, "directions"):
        changes["directions"] = config.directions[:2]
    if hasattr(config, "stride"):
        # as much overlap of patches as at full size
        changes["stride"] = config.stride * changes["patch"] // config.patch
    return changes


def _distinct() -> list[str]:
    """The first name of each small model: `vim_base`, for one, is `vim_tiny` of another size, and no other when small.

    How pixels are normalized and what the classes of a backbone are called makes no other model either.
    """
    first: dict[Any, str] = {}
    blank = {"mean": (0.0,) * 3, "std": (1.0,) * 3, "class_names": ()}
    for name in NAMES:
        config = replace(variant(name).config, **_all_changes(name))
        if hasattr(config, "body"):
            config = replace(config, body=replace(config.body, num_classes=0, **blank))
        first.setdefault((variant(name).build, replace(config, **blank)), name)
    return list(first.values())


DISTINCT = _distinct()
_FIRST = {type(variant(name).config): name for name in reversed(NAMES)}.values()
EACH = [name if name in _FIRST else pytest.param(name, marks=pytest.mark.full) for name in NAMES]
"""For `parametrize`: every name; all but the first of each family in the full suite only."""


def skeleton(name: str) -> Family:
    """The model at its full size, on the meta device: shapes without values."""
    with torch.device("meta"):
        return create_model(name)


def inputs(model: Family, count: int = 3, seed: int = 0) -> Tensor:
    """Images in the model's own size."""
    return torch.randn(count, *model.info.input_size, generator=torch.Generator().manual_seed(seed))


def official(model: Family) -> dict[str, Tensor]:
    """The state dict as the official code would save it: what belongs to one scan each is stacked, or joined."""
    state: dict[str, Tensor] = {}
    parts: dict[str, list[Tensor]] = {}
    for key, value in model.state_dict().items():
        place = model.official(key)
        if place.parts == 1:
            state[place.key] = value.clone()
        else:
            parts.setdefault(place.key, []).append(value)
    # the only ones without an axis for the scans
    return state | {key: (torch.cat if key.endswith(("A_logs", "Ds")) else torch.stack)(x) for key, x in parts.items()}
