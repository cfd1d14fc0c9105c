"""Scan orders: to raster and back is the identity, class token and padding stay where they are."""

from __future__ import annotations

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from ouro.scan.order import class_step, from_raster, raster_steps, reverse, row_major, to_raster, window
from ouro.scan.window import box_sum
from ouro.types import CLASS_TOKEN, PADDING, ScanOrder


@given(st.integers(1, 5), st.integers(1, 5), st.randoms(use_true_random=False), st.integers(0, 3))
def test_raster_and_back_is_the_identity_on_patches(height, width, random, extra) -> None:
    cells = [*range(height * width), CLASS_TOKEN, *[PADDING] * extra]
    random.shuffle(cells)
    order = ScanOrder((height, width), tuple(cells))
    x = torch.arange(len(cells)).float()
    raster = to_raster(x, order)
    assert [cells[int(step)] for step in raster] == list(range(height * width))
    back = from_raster(raster, order, fill=-1)
    patches = torch.tensor(cells) >= 0
    assert torch.equal(back[patches], x[patches]) and (back[~patches] == -1).all()


def test_vim_reads_its_class_token_in_the_middle() -> None:
    order = row_major((14, 14), 98)
    assert class_step(order) == 98 and len(order.cells) == 197
    assert reverse(order).cells[0] == 195 and class_step(reverse(order)) == 98
    assert raster_steps(order)[97] == 97 and raster_steps(order)[98] == 99


def test_an_order_without_class_token_has_no_class_step() -> None:
    assert class_step(row_major((2, 3))) is None


def test_an_order_that_misses_a_cell_is_refused() -> None:
    with pytest.raises(ValueError, match="a scan order over a 2x2 grid must read each of its 4 cells once"):
        raster_steps(ScanOrder((2, 2), (0, 1, 2, 2)))


@pytest.mark.parametrize(("grid", "size"), [((14, 14), 7), ((14, 14), 2), ((4, 6), 2), ((6, 9), 3), ((3, 5), 1)])
def test_a_window_path_follows_the_official_index_formula(grid: tuple[int, int], size: int) -> None:
    steps = {cell: step for step, cell in enumerate(window(grid, size).cells)}
    for row in range(grid[0]):
        for column in range(grid[1]):
            number = grid[1] // size * (row // size) + column // size
            expected = number * size**2 + row % size * size + column % size
            assert steps[row * grid[1] + column] == expected


@pytest.mark.parametrize(("grid", "size"), [((7, 7), 2), ((5, 3), 2), ((4, 9), 7), ((2, 2), 7)])
def test_windows_that_stick_out_read_padding(grid: tuple[int, int], size: int) -> None:
    height, width = (-(-side // size) * size for side in grid)
    # the path over the padded map, whose cells at the bottom and right are no cells of ours
    padded = [divmod(cell, width) for cell in window((height, width), size).cells]
    expected = [row * grid[1] + column if row < grid[0] and column < grid[1] else PADDING for row, column in padded]
    order = window(grid, size)
    assert order.cells == tuple(expected)
    x = torch.arange(len(expected)).float()
    assert torch.equal(from_raster(to_raster(x, order), order, fill=-1) >= 0, torch.tensor(expected) >= 0)


def test_a_window_needs_a_size() -> None:
    with pytest.raises(ValueError, match="window size is 0, expected at least 1"):
        window((2, 2), 0)


@pytest.mark.parametrize("size", [1, 3, 5, 7])
def test_box_sum_counts_the_cells_inside_the_grid(size: int) -> None:
    x = torch.rand(2, 4, 6, dtype=torch.float64)
    half = size // 2
    expected = torch.empty_like(x)
    for row in range(4):
        for column in range(6):
            inside = x[:, max(0, row - half) : row + half + 1, max(0, column - half) : column + half + 1]
            expected[:, row, column] = inside.sum((1, 2))
    assert torch.allclose(box_sum(x, size), expected)
