"""Whether a data set poses a task as a model knows it: what its targets are, and its classes one by one."""

from __future__ import annotations

import logging
from collections.abc import Sequence

from torch import Tensor

from ouro.data import IGNORED, Dataset
from ouro.data.views import plain
from ouro.registry import DATASETS
from ouro.types import ModelInfo

_log = logging.getLogger(__name__)

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


def check_targets(targets: Tensor, shape: Sequence[int], classes: int) -> None:
    """Refuses what is not one of so many classes at every place of `shape`; IGNORED is one of a map's.

    Raises:
        ValueError: another shape or type, or a class that the model does not have.
    """
    what = "classes" if len(shape) == 1 else "maps of classes"
    if not isinstance(targets, Tensor) or targets.is_floating_point() or tuple(targets.shape) != tuple(shape):
        raise ValueError(f"targets are {_described(targets)}, expected {what} as an int64 tensor {tuple(shape)}")
    _check_known(targets if len(shape) == 1 else targets[targets != IGNORED], classes)


def check_boxes(targets: Tensor, images: int, classes: int) -> None:
    """Refuses what is not rows [b m 6] of x0, y0, x1, y1, class, crowd, with a class of the model or -1.

    Raises:
        ValueError: another shape, or a class that the model does not have.
    """
    if not isinstance(targets, Tensor) or targets.dim() != 3 or (len(targets), targets.shape[2]) != (images, 6):
        words = "rows of x0, y0, x1, y1, class, crowd for every image"
        raise ValueError(f"targets are {_described(targets)}, expected {words}, a tensor ({images}, m, 6)")
    named = targets[:, :, 4]
    _check_known(named[named != -1], classes)


def _check_known(named: Tensor, classes: int) -> None:
    strange = named[(named < 0) | (named >= classes)]
    if len(strange):
        raise ValueError(
            f"a target has the class {strange[0].item():g}, the model has classes 0 to {classes - 1}; are these targets "
            "of another data set?"
        )


def _described(targets: object) -> str:
    if not isinstance(targets, Tensor):
        return f"a {type(targets).__name__}"
    return f"{str(targets.dtype).removeprefix('torch.')} {tuple(targets.shape)}"


def require_classes(dataset: Dataset, source: str, info: ModelInfo) -> None:
    """As many classes as the model has, and the same where both have names.

    Names 0, 1, ... are none, unless the model has such names, too. Where nothing says in which order the model learned
    them, and they are sorted otherwise elsewhere, this is said in one line.

    Raises:
        ValueError: the message has the first that differs.
    """
    given, known = dataset.classes, info.class_names
    if len(given) != info.num_classes:
        raise ValueError(f"{source} has {len(given)} classes, {info.name} has {info.num_classes}")
    if not known or (_are_numbers(given) and not _are_numbers(known)):
        _warn_of_order(dataset, source, info)
        return
    pairs = [(a, b) for a, b in zip(given, known, strict=True) if plain(a) != plain(b)]
    if not pairs:
        return
    a, b = pairs[0]
    if {plain(name) for name in given} == {plain(name) for name in known}:
        # sets that `open_data` opens have the model's order, but for those that a model has made
        words = f"{source} has the classes of {info.name} in another order"
        raise ValueError(f"{words}: {a!r} where the model has {b!r}; take one that numbers them as the model does")
    raise ValueError(
        f"{source} has a class {a!r} where {info.name} knows {b!r}; take its own data set, rename the folders, or say "
        "with class names what its classes are"
    )


def _are_numbers(names: Sequence[str]) -> bool:
    return all(name.isdecimal() for name in names)


def _warn_of_order(dataset: Dataset, source: str, info: ModelInfo) -> None:
    """Numbers are sorted as numbers here, as text by torchvision's ImageFolder; their order may be either in a checkpoint."""
    given, text = dataset.classes, sorted(dataset.classes)
    place = next((place for place, pair in enumerate(zip(given, text, strict=True)) if pair[0] != pair[1]), None)
    if not dataset.sorts_classes or place is None:
        return
    own, other = (", ".join(names[place : place + 3]) for names in (given, text))
    _log.warning(
        "%s: from class %d on folders are taken in the order %s ...; torchvision's ImageFolder sorts them as text, "
        "%s ...: if %s learned that order, give it with --class-names",
        source, place, own, other, info.name,
    )  # fmt: skip
