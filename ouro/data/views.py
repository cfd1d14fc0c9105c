"""A data set seen otherwise than it is: its first images only."""

from __future__ import annotations

from typing import Any

from torch import Tensor

from ouro.data import Dataset, check_range


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
