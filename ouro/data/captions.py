"""What images show in a few words: the classes that their targets name, whatever kind of targets these are."""

from __future__ import annotations

from collections.abc import Sequence

from torch import Tensor

from ouro.data import IGNORED
from ouro.data.boxes import present

GROUND = "background"
"""The class of pixels that show no object; nobody says of an image that it shows this."""


def captions(targets: Tensor, kind: str, names: Sequence[str]) -> list[str]:
    """One line for each image, "circle, square": its classes in the order of their numbers, "" where there is none.

    Args:
        targets: [n ...], as `kind` (see `ouro.data.Dataset`) says.
        names: of the classes; a class without one goes by its number.
    """
    return [", ".join(_named(_classes(target, kind), names)) for target in targets]


def _classes(target: Tensor, kind: str) -> list[int]:
    if kind == "segments":
        return target[target != IGNORED].unique().tolist()
    if kind == "boxes":
        return present(target)[:, 4].long().unique().tolist()
    return [int(target)]


def _named(classes: Sequence[int], names: Sequence[str]) -> list[str]:
    words = [names[number] if 0 <= number < len(names) else str(number) for number in classes if number >= 0]
    return [word for word in words if word != GROUND]
