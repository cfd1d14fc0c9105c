"""Which of the registered models a checkpoint belongs to, and what its tensors say of that model's config."""

from __future__ import annotations

from dataclasses import fields, replace
from functools import lru_cache
from typing import Any

import torch

from ouro.models.checkpoint import Checkpoint, few
from ouro.models.family import Family
from ouro.models.shapes import Shapes
from ouro.registry import MODELS

_MADE_TO_FIT = ("image", "num_classes", "class_names")
"""What a training of one's own changes without making another model of it."""


def families() -> dict[type[Family], list[str]]:
    """Every family with the names registered for it."""
    names: dict[type[Family], list[str]] = {}
    for name in MODELS:
        names.setdefault(MODELS.get(name).build, []).append(name)
    return names


def skeleton(family: type[Family], config: Any, name: str) -> Family:
    """The model without values: keys, shapes and facts, at no cost in memory.

    Raises:
        ValueError: no model has this config.
    """
    with torch.device("meta"):
        return family(config, name)


def shapes_of(family: type[Family], checkpoint: Checkpoint) -> Shapes:
    """A checkpoint's shapes, as a family asks for them."""
    shapes = {key: tuple(value.shape) for key, value in checkpoint.tensors(family.whole).items()}
    return Shapes(shapes, family.official_name, checkpoint.grid)


def family_of(checkpoint: Checkpoint) -> type[Family] | None:
    """The family that shares most of a checkpoint's names, of those whose mark is there; None where it is nobody's."""

    def shared(family: type[Family]) -> float:
        own, names = _templates(family), shapes_of(family, checkpoint).templates
        return len(own & names) / len(own | names)

    marked = [family for family in families() if shapes_of(family, checkpoint).anywhere(family.mark)]
    return max(marked, key=shared, default=None)


def identify(checkpoint: Checkpoint) -> str:
    """The registered name that a checkpoint is nearest to: the one it gives itself, or the one it differs least from.

    Raises:
        ValueError: it belongs to no known family.
    """
    family = family_of(checkpoint)
    if family is None:
        raise ValueError(
            f"{checkpoint.label} looks like none of {few(known.__name__ for known in families() if not known.whole)}: its tensors are "
            f"called {few(checkpoint.state, 3)}; where a wrapper of yours is in front of the names, give rename"
        )
    names = families()[family]
    own = checkpoint.metadata.get("model")
    return own if own in names else min(names, key=lambda name: _distance(name, checkpoint))


def config_of(name: str, checkpoint: Checkpoint, **known: Any) -> dict[str, Any]:
    """What must be changed in the config of `name` for a checkpoint to fit; class names go with another number of classes.

    Args:
        known: what is decided already, and may be needed to read the rest.

    Raises:
        ValueError: unknown name or option, or a checkpoint of which more must be said (a grid, directions).
    """
    family: type[Family] = MODELS.get(name).build
    config, shapes = with_options(name, **known), shapes_of(family, checkpoint)
    try:
        read = family.config_from(shapes, config)
        # once more, because one thing that is known may change what follows from another, as a stride does the image
        read = family.config_from(shapes, replace(read, **known))
    except ValueError as error:
        raise ValueError(f"{checkpoint.label} as {name}: {error}") from error
    changes = _differences(read, config)
    return {key: value for key, value in changes.items() if key not in known}


def with_options(name: str, **options: Any) -> Any:
    """The config of `name` with these fields replaced; names of classes only stay where there are as many classes.

    Raises:
        ValueError: unknown name or option, or a value that no config can have.
    """
    config = MODELS.get(name).config
    # a family's own options first, then those of all
    known = [field.name for field in sorted(fields(config), key=lambda field: bool(field.kw_only))]
    if unknown := [key for key in options if key not in known]:
        raise ValueError(f"{name} has no option {unknown[0]!r}; known: {', '.join(known)}")
    classes = options.get("num_classes")
    if classes is not None and "class_names" not in options and classes != len(config.class_names):
        options = options | {"class_names": ()}
    return type(config)(**{key: options.get(key, getattr(config, key)) for key in known})


@lru_cache
def _templates(family: type[Family]) -> frozenset[str]:
    name = families()[family][0]
    model = skeleton(family, MODELS.get(name).config, name)
    return frozenset(shapes_of(family, Checkpoint(model.state_dict(), name, name)).templates)


def _differences(config: Any, other: Any) -> dict[str, Any]:
    """Fields of the first in which they differ."""
    values = {field.name: getattr(config, field.name) for field in fields(config)}
    return {key: value for key, value in values.items() if value != getattr(other, key)}


def _distance(name: str, checkpoint: Checkpoint) -> tuple[int, int]:
    """(differences of the architecture, differences) between a checkpoint and a registered config."""
    try:
        changes = config_of(name, checkpoint)
    except ValueError:
        # more must be said to build it, whichever name it is given
        return len(fields(MODELS.get(name).config)), 0
    return len(set(changes) - set(_MADE_TO_FIT)), len(changes)
