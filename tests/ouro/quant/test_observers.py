"""Step sizes from histograms are those that a search over the data itself finds."""

import pytest
import torch

from ouro.quant.grid import asymmetric, fake_quantize, range_of, symmetric
from ouro.quant.observers import (
    Rows,
    best_channel_scale,
    best_range,
    histogram,
    max_channel_scale,
    ranges,
)
from tests.testing import assert_close


@pytest.mark.parametrize(
    ("axes", "shape", "rows"),
    [
        ("b l c", (2, 5, 3), (2, 5, 3)),
        ("b e l", (2, 3, 5), (2, 5, 3)),
        ("b n l", (2, 4, 5), (2, 5, 4)),
        ("b g n l", (2, 3, 4, 5), (2, 5, 12)),
        ("b h w c", (2, 3, 4, 5), (2, 12, 5)),
        ("e n", (3, 4), (1, 1, 12)),
        ("e", (3,), (1, 1, 3)),
    ],
)
def test_rows_and_back(axes, shape, rows):
    x = torch.randn(shape)
    as_rows = Rows(tuple(axes.split()))
    assert as_rows(x).shape == rows
    assert torch.equal(as_rows.back(as_rows(x), x), x)


def test_a_scan_tensor_reads_as_rows_without_a_copy():
    x = torch.randn(2, 5, 3).transpose(1, 2)
    assert Rows(("b", "e", "l"))(x).data_ptr() == x.data_ptr()


@pytest.fixture
def chunks():
    generator = torch.Generator().manual_seed(0)
    return [torch.randn(3, 7, 20, generator=generator).exp() - 1.2 for _ in range(2)]


def test_ranges_hold_zero_and_skip_what_is_masked(chunks):
    low, high = ranges(chunks, per_step=True)
    every = torch.cat(chunks)
    assert torch.equal(high, every.amax((0, 2))) and torch.equal(low, every.amin((0, 2)))
    keep = [chunk < 2 for chunk in chunks]
    assert ranges(chunks, per_step=False, keep=keep)[1] <= 2
    low, high = ranges([torch.full((1, 2, 3), 5.0)], per_step=False)
    assert (low, high) == (0, 5)


def test_histogram_counts_every_value_once(chunks):
    seen = histogram(chunks, *ranges(chunks, per_step=True), 4)
    assert seen.counts.sum(1).tolist() == [6 * 20] * 7
    keep = [chunk < 2 for chunk in chunks]
    masked = histogram(chunks, *ranges(chunks, per_step=False, keep=keep), 4, keep=keep)
    assert masked.counts.sum() == sum(int(mask.sum()) for mask in keep)


def error(x, scale, grid, zero=None):
    return (fake_quantize(x, scale, grid, zero) - x).abs().pow(2.4).mean().item()


@pytest.mark.parametrize("bits", (3, 4, 8))
@pytest.mark.parametrize("signed", [True, False])
def test_search_comes_within_two_percent_of_the_best_candidate(chunks, bits, signed):
    every = torch.cat(chunks)
    low, high = ranges(chunks, per_step=False)
    scale, zero = best_range(histogram(chunks, low, high, bits), bits, signed=signed)
    grid = symmetric(bits) if signed else asymmetric(bits)
    errors = []
    for i in range(1, 101):
        if signed:
            errors.append(error(every, torch.maximum(high, -low) * i / 100 / grid.high, grid))
        else:
            errors.append(error(every, *(range_of(low * i / 100, high * i / 100, bits)[:1]), grid,
                                range_of(low * i / 100, high * i / 100, bits)[1]))  # fmt: skip
    assert error(every, scale, grid, zero) <= min(errors) * 1.02


def test_search_is_independent_per_step(chunks):
    low, high = ranges(chunks, per_step=True)
    scale, _ = best_range(histogram(chunks, low, high, 4), 4, signed=True)
    for t in range(7):
        alone = [chunk[:, t : t + 1] for chunk in chunks]
        own, _ = best_range(histogram(alone, *ranges(alone, per_step=True), 4), 4, signed=True)
        assert_close(scale[t : t + 1], own, name=f"step {t}")


def test_constant_and_empty_tensors_get_usable_steps():
    for value in (0.0, 3.0):
        rows = [torch.full((2, 4, 5), value)]
        scale, zero = best_range(histogram(rows, *ranges(rows, per_step=True), 4), 4, signed=False)
        assert (scale > 0).all() and zero.isfinite().all()
        assert_close(fake_quantize(rows[0], scale[:, None], asymmetric(4), zero[:, None]), rows[0], name="constant")


def test_channel_scales():
    weight = torch.randn(6, 50, generator=torch.Generator().manual_seed(0))
    weight[2] = 0
    clipped, full = best_channel_scale(weight, 4), max_channel_scale(weight, 4)
    assert (clipped > 0).all() and (clipped <= full).all() and full[2] == 1
    grid = symmetric(4)
    for row, small, large in zip(weight, clipped, full, strict=True):
        assert error(row, small, grid) <= error(row, large, grid)
        candidates = [error(row, large * i / 100, grid) for i in range(1, 101)]
        assert error(row, small, grid) <= min(candidates) * 1.001
