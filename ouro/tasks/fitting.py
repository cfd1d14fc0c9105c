"""Whether a data set poses a task as a model knows it: what its targets are, and its classes one by one."""

from __future__ import annotations

import re

from ouro.data import Dataset
from ouro.registry import DATASETS
from ouro.types import ModelInfo

_WORDS = {"labels": "one class per image", "segments": "a class for every pixel", "boxes": "boxes of objects"}
"""What the targets of a data set are, see `ouro.data.Dataset`."""


def require_targets(dataset: Dataset, source: str, info: ModelInfo, wanted: str) -> None:
    """Refuses a data set, spelled `source`, with targets of another task.

    Raises:
        ValueError: the message names sets that have them.
    """
    if dataset.targets != wanted:
        known = ", ".join(name for name in DATASETS if DATASETS.get(name).targets == wanted)
        raise ValueError(
            f"{source} has {_WORDS[dataset.targets]}, {info.name} is for {info.task} and needs {_WORDS[wanted]}; take "
            f"one of {known}"
        )


def require_classes(dataset: Dataset, source: str, info: ModelInfo) -> None:
    """As many classes as the model has, and the same where both have names; names 0, 1, ... are none.

    Raises:
        ValueError: the message has the first that differs.
    """
    given, known = dataset.classes, info.class_names
    if len(given) != info.num_classes:
        raise ValueError(f"{source} has {len(given)} classes, {info.name} has {info.num_classes}")
    if not known or all(name.isdecimal() for name in given):
        return
    pairs = [(a, b) for a, b in zip(given, known, strict=True) if _plain(a) != _plain(b)]
    if not pairs:
        return
    a, b = pairs[0]
    if {_plain(name) for name in given} == {_plain(name) for name in known}:
        words = f"{source} has the classes of {info.name} in another order"
        raise ValueError(f"{words}: {a!r} where the model has {b!r}; say the model's own order with class names")
    raise ValueError(
        f"{source} has a class {a!r} where {info.name} knows {b!r}; take its own data set, rename the folders, or say "
        "with class names what its classes are"
    )


def _plain(name: str) -> str:
    """A class name without what people write it with: case, spaces, hyphens, underscores."""
    return re.sub(r"[\s_-]+", "", name).casefold()
