"""Raster order and scan order: who reads which patch when, where the class token sits, and the way back."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from ouro.types import CLASS_TOKEN, PADDING, ScanOrder


def row_major(grid: tuple[int, int], cls_index: int | None = None) -> ScanOrder:
    """Rows from the top left; a class token, if any, is read at step `cls_index` (Vim puts it in the middle)."""
    order = ScanOrder(grid, tuple(range(grid[0] * grid[1])), "forward")
    return order if cls_index is None else with_class_token(order, cls_index)


def column_major(grid: tuple[int, int]) -> ScanOrder:
    """Columns from the top left."""
    height, width = grid
    return ScanOrder(grid, tuple(row * width + column for column in range(width) for row in range(height)), "columns")


def window(grid: tuple[int, int], size: int) -> ScanOrder:
    """Windows of `size` x `size` patches in rows from the top left, rows inside each window.

    Source: Huang et al. 2024 (LocalMamba). Windows that stick out at the bottom or right read PADDING there.

    Raises:
        ValueError: size is not positive.
    """
    if size < 1:
        raise ValueError(f"window size is {size}, expected at least 1")
    height, width = grid
    return ScanOrder(
        grid,
        tuple(
            row * width + column if row < height and column < width else PADDING
            for top in range(0, height, size)
            for left in range(0, width, size)
            for row in range(top, top + size)
            for column in range(left, left + size)
        ),
        f"windows of {size}",
    )


ZIGZAGS = 8
"""How many paths `zigzag` knows."""


def zigzag(grid: tuple[int, int], index: int) -> ScanOrder:
    """Path `index` of 8 that turn around at every border: from each corner along the rows, then along the columns.

    Source: Hu et al. 2024 (ZigMa), agrees with zigzag_path (CompVis/zigma, utils/utils_zigzag.py) on square grids.
    Corners come in the order top left, top right, bottom left, bottom right.

    Raises:
        ValueError: there is no such path.
    """
    if not 0 <= index < ZIGZAGS:
        raise ValueError(f"zigzag path is {index}, expected 0 to {ZIGZAGS - 1}")
    height, width = grid
    corner, along_columns = divmod(index, 2)
    bottom, right = divmod(corner, 2)
    rows, columns = range(height)[:: -1 if bottom else 1], range(width)[:: -1 if right else 1]
    if along_columns:
        cells = [row * width + column for j, column in enumerate(columns) for row in rows[:: -1 if j % 2 else 1]]
    else:
        cells = [row * width + column for i, row in enumerate(rows) for column in columns[:: -1 if i % 2 else 1]]
    return ScanOrder(grid, tuple(cells), f"zigzag {index}")


def with_class_token(order: ScanOrder, step: int) -> ScanOrder:
    """The same path with the class token read at `step`, all later cells one step later."""
    return ScanOrder(order.grid, (*order.cells[:step], CLASS_TOKEN, *order.cells[step:]), order.name)


def reverse(order: ScanOrder) -> ScanOrder:
    """The same path walked from its end."""
    name = "backward" if order.name == "forward" else f"{order.name} back"
    return ScanOrder(order.grid, order.cells[::-1], name)


def scan_names(orders: Sequence[ScanOrder]) -> list[str]:
    """Names of the scans of one mixer, those of their orders; orders that share a name are numbered."""
    names = [order.name for order in orders]
    return [name if names.count(name) == 1 else f"{name} {index}" for index, name in enumerate(names)]


def class_step(order: ScanOrder) -> int | None:
    """The step that reads the class token, or None."""
    return order.cells.index(CLASS_TOKEN) if CLASS_TOKEN in order.cells else None


def raster_steps(order: ScanOrder) -> Tensor:
    """steps[p] = the scan step that reads raster cell p, int64 [p].

    Raises:
        ValueError: the order does not read every cell of its grid exactly once.
    """
    height, width = order.grid
    patches = [cell for cell in order.cells if cell >= 0]
    if sorted(patches) != list(range(height * width)):
        raise ValueError(
            f"a scan order over a {height}x{width} grid must read each of its {height * width} cells once, "
            f"this one reads {len(patches)} patches"
        )
    cells = torch.tensor(order.cells)
    return torch.argsort(cells, stable=True)[-height * width :]


def to_raster(x: Tensor, order: ScanOrder, dim: int = -1) -> Tensor:
    """Gathers the patch steps of x along `dim` into row-major order; class token and padding are dropped."""
    return x.index_select(dim, raster_steps(order).to(x.device))


def from_raster(x: Tensor, order: ScanOrder, dim: int = -1, fill: float = 0.0) -> Tensor:
    """Inverse of `to_raster`: puts raster cells at their scan steps; other steps hold `fill`."""
    shape = list(x.shape)
    shape[dim] = len(order.cells)
    return x.new_full(shape, fill).index_copy(dim, raster_steps(order).to(x.device), x)
