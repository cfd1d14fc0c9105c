"""Rounding stays on its grid, keeps 0, and has the gradients of LSQ."""

import pytest
import torch

from ouro.quant.grid import Grid, asymmetric, clipped, dequantize, fake_quantize, quantize, range_of, symmetric
from tests.testing import assert_close

BITS = (2, 3, 4, 6, 8)


@pytest.fixture
def x():
    return 3 * torch.randn(5, 7, 11, generator=torch.Generator().manual_seed(0))


def test_grids():
    assert symmetric(4) == Grid(-7, 7)
    assert symmetric(4, narrow=False) == Grid(-8, 7)
    assert asymmetric(4) == Grid(0, 15)


@pytest.mark.parametrize("bits", BITS)
def test_symmetric_codes_are_whole_and_bounded(x, bits):
    codes = quantize(x, torch.tensor(0.05), symmetric(bits))
    assert torch.equal(codes, codes.round())
    assert codes.abs().max() == 2 ** (bits - 1) - 1
    assert len(dequantize(codes, torch.tensor(0.05)).unique()) <= 2**bits - 1


@pytest.mark.parametrize("bits", BITS)
def test_asymmetric_range_is_reached_and_zero_is_exact(x, bits):
    x = x.abs() - 1
    scale, zero = range_of(x.min(), x.max(), bits)
    codes = quantize(x, scale, asymmetric(bits), zero)
    assert (codes.min(), codes.max()) == (0, 2**bits - 1)
    y = fake_quantize(torch.cat([x.flatten(), torch.zeros(1)]), scale, asymmetric(bits), zero)
    assert y[-1] == 0
    assert (y[:-1] - x.flatten()).abs().max() <= scale * 1.0001


@pytest.mark.parametrize("low, high", [(0.0, 0.0), (1.0, 2.0), (-2.0, -1.0)])
def test_range_always_holds_zero(low, high):
    scale, zero = range_of(torch.tensor(low), torch.tensor(high), 4)
    assert scale > 0 and 0 <= zero <= 15


def test_rounding_is_half_to_even():
    x = torch.tensor([0.5, 1.5, 2.5, -0.5, -1.5])
    assert quantize(x, torch.tensor(1.0), symmetric(4)).tolist() == [0, 2, 2, 0, -2]


def test_values_on_the_grid_stay(x):
    scale = torch.tensor(0.25)
    once = fake_quantize(x, scale, symmetric(4))
    assert torch.equal(fake_quantize(once, scale, symmetric(4)), once)


@pytest.mark.parametrize("zero", [None, torch.tensor(3.0)], ids=["symmetric", "asymmetric"])
def test_clipped_is_where_rounding_errs_by_more_than_half_a_step(zero):
    x, scale = torch.linspace(-9, 9, 1001), torch.tensor(0.7)
    grid = symmetric(4) if zero is None else asymmetric(4)
    error = (fake_quantize(x, scale, grid, zero) - x).abs()
    cut = clipped(x, scale, grid, zero)
    assert cut.any() and torch.equal(cut, error > scale / 2 * (1 + 1e-5))


def test_nothing_is_written_in_place(x):
    copy, version = x.clone(), x._version
    scale, zero = torch.tensor(0.3), torch.tensor(4.0)
    fake_quantize(x, scale, asymmetric(4), zero)
    assert torch.equal(x, copy) and x._version == version
    assert (scale, zero) == (torch.tensor(0.3), torch.tensor(4.0))


@pytest.mark.parametrize("zero", [None, torch.tensor([3.0, 9.0, 0.0])], ids=["symmetric", "asymmetric"])
def test_gradients_are_those_of_lsq(zero):
    x = torch.tensor([[-9.0, -0.4, 0.7], [0.3, 0.55, 9.0], [0.3, 5.0, 1.0]], requires_grad=True)
    scale = torch.tensor([0.5, 0.25, 1.0], requires_grad=True)
    grid = symmetric(4) if zero is None else asymmetric(4)
    column = None if zero is None else zero[:, None]
    upstream = torch.arange(1.0, 10.0).view(3, 3)
    fake_quantize(x, scale[:, None], grid, column).backward(upstream)
    to_scale = torch.zeros(3)
    for i in range(3):
        shift = 0 if zero is None else zero[i].item()
        for j in range(3):
            ratio = (x[i, j] / scale[i]).item()
            low, high = grid.low - shift, grid.high - shift
            inside = low <= ratio <= high
            assert x.grad[i, j] == (upstream[i, j] if inside else 0)
            slope = round(ratio) - ratio if inside else (low if ratio < low else high)
            to_scale[i] += upstream[i, j] * slope
    assert_close(scale.grad, to_scale, name="d/ds")
