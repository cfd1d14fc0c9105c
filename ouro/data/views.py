"""A data set seen otherwise than it is: its first images only, or its classes by the numbers that a model has for them."""

from __future__ import annotations

import re
from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

from ouro.data import IGNORED, Dataset, check_range
from ouro.types import ModelInfo


class View:
    """Images of a whole data set, as a data set: what a view does not say itself is as of the whole."""

    def __init__(self, whole: Dataset) -> None:
        self.whole: Any = whole

    def __getattr__(self, name: str) -> Any:
        # only asked for what is not found; a copy is asked before it has a whole
        if name == "whole":
            raise AttributeError(name)
        return getattr(self.whole, name)

    def __len__(self) -> int:
        return len(self.whole)

    @property
    def provides(self) -> frozenset[str]:
        """What the whole set can, but for drawing images of its own accord."""
        return self.whole.provides & {"masks"}


class First(View):
    """The first `count` images."""

    def __init__(self, whole: Dataset, count: int) -> None:
        super().__init__(whole)
        self.count = count

    def __len__(self) -> int:
        return self.count

    def images(self, start: int, n: int) -> tuple[Tensor, Tensor | None]:
        """As of the whole set."""
        check_range(start, n, self.count)
        return self.whole.images(start, n)

    def masks(self, start: int, n: int) -> Tensor:
        """As of the whole set, where it provides them."""
        check_range(start, n, self.count)
        return self.whole.masks(start, n)


class Renumbered(View):
    """The same images; what the whole set calls class k is class numbers[k]."""

    def __init__(self, whole: Dataset, numbers: Sequence[int]) -> None:
        super().__init__(whole)
        self.numbers = torch.tensor(numbers)
        self.classes = tuple(whole.classes[place] for place in self.numbers.argsort().tolist())

    def images(self, start: int, n: int) -> tuple[Tensor, Tensor | None]:
        """As of the whole set, but for the numbers of the classes."""
        images, targets = self.whole.images(start, n)
        if targets is None:
            return images, None
        targets = targets.clone()
        classes = targets[..., 4] if self.targets == "boxes" else targets
        # what stands for no class stays; IGNORED is a class like others where images have one each
        known = classes != IGNORED if self.targets == "segments" else classes >= 0
        classes[known] = self.numbers[classes[known].long()].to(classes)
        return images, targets


def numbered_for(dataset: Dataset, info: ModelInfo) -> Any:
    """The data set with the class numbers of a model, where both name the same classes in another order; else as it is."""
    given, known = ([plain(name) for name in names] for names in (dataset.classes, info.class_names))
    if given == known or sorted(given) != sorted(known) or len(set(known)) < len(known):
        return dataset
    return Renumbered(dataset, [known.index(name) for name in given])


def plain(name: str) -> str:
    """A class name without what people write it with: case, spaces, hyphens, underscores, zeros before a number."""
    text = re.sub(r"[\s_-]+", "", name).casefold()
    return str(int(text)) if text.isdecimal() else text
