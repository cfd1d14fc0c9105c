"""Square windows of a map: the tokens of each become one row of the batch."""

from __future__ import annotations

from dataclasses import dataclass, replace

from torch import Tensor
from torch.nn import functional as F

from ouro.scan.order import row_major, window
from ouro.types import ScanOrder


@dataclass(frozen=True, slots=True)
class Windows:
    """Windows of `side` x `side` cells over a grid, which is padded with zeros below and to the right to fit them.

    Tokens are row-major, in the map as in a window, and an image's windows follow each other row by row.
    """

    grid: tuple[int, int]
    side: int

    @property
    def counts(self) -> tuple[int, int]:
        """How many windows lie below and beside each other."""
        return -(-self.grid[0] // self.side), -(-self.grid[1] // self.side)

    @property
    def padded(self) -> tuple[int, int]:
        """The grid in whole windows."""
        return self.counts[0] * self.side, self.counts[1] * self.side

    def pad(self, tokens: Tensor) -> Tensor:
        """Tokens [b l c] of the grid -> of the padded grid."""
        (height, width), (below, right) = self.grid, self.padded
        if self.padded == self.grid:
            return tokens
        return F.pad(tokens.unflatten(1, self.grid), (0, 0, 0, right - width, 0, below - height)).flatten(1, 2)

    def crop(self, tokens: Tensor) -> Tensor:
        """Inverse of `pad`."""
        if self.padded == self.grid:
            return tokens
        return tokens.unflatten(1, self.padded)[:, : self.grid[0], : self.grid[1]].flatten(1, 2)

    def split(self, tokens: Tensor) -> Tensor:
        """Tokens [b l c] of the padded grid -> [b * windows, side * side, c]."""
        if self.counts == (1, 1):
            return tokens
        rows, columns = self.counts
        cut = tokens.unflatten(1, (rows, self.side, columns, self.side)).transpose(2, 3)
        return cut.flatten(3, 4).flatten(0, 2)

    def join(self, windows: Tensor) -> Tensor:
        """Inverse of `split`."""
        if self.counts == (1, 1):
            return windows
        cut = windows.unflatten(1, (self.side, self.side)).unflatten(0, (-1, *self.counts))
        return cut.transpose(2, 3).flatten(1, 4)

    def order(self) -> ScanOrder:
        """Row-major: over the grid where one window holds it, with PADDING beyond it; else over a window's own cells."""
        if self.counts != (1, 1):
            return row_major((self.side, self.side))
        return replace(row_major(self.grid), cells=window(self.grid, self.side).cells)
