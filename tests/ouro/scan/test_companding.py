"""Companding: its grid, what it keeps and what it passes to the gradient."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor

from ouro.scan.companding import compand
from ouro.types import Companding
from tests.testing import assert_close

POWERS = (1, 2, 3, 4)


def decays(dtype: torch.dtype = torch.float64) -> Tensor:
    """[2 5 7 3] in (0, 1], most of them near 1, as A_bar is."""
    g = torch.Generator().manual_seed(3)
    return torch.exp(-torch.randn(2, 5, 7, 3, generator=g, dtype=torch.float64).square() * 0.3).to(dtype)


def unsigned(bits: int, power: int, dtype: torch.dtype = torch.float64) -> Companding:
    return Companding(bits, torch.tensor([0.3, 0.35, 0.2], dtype=dtype), torch.tensor([0.98], dtype=dtype), power)


def signed(bits: int, power: int, dtype: torch.dtype = torch.float64) -> Companding:
    return Companding(bits, torch.zeros(1, dtype=dtype), torch.tensor([1.5, 2, 1], dtype=dtype), power, signed=True)


def values(rule: Companding, dtype: torch.dtype = torch.float64) -> Tensor:
    g = torch.Generator().manual_seed(4)
    drawn = torch.randn(2, 5, 7, 3, generator=g, dtype=torch.float64)
    return drawn.to(dtype) if rule.signed else decays(dtype)


@pytest.mark.parametrize("bits", [2, 4, 8])
def test_power_one_is_the_uniform_grid_whose_codes_start_at_high(bits: int) -> None:
    rule, x = unsigned(bits, 1), decays()
    step = (rule.high - rule.low) / (2**bits - 1)
    codes = ((rule.high - x) / step).round().clamp(0, 2**bits - 1)
    assert_close(compand(x, rule), rule.high - codes * step, name="x")


@pytest.mark.parametrize("bits", [2, 4, 8])
def test_signed_power_one_is_the_uniform_grid_around_zero(bits: int) -> None:
    rule = signed(bits, 1)
    x, most = values(rule), 2 ** (bits - 1) - 1
    assert_close(compand(x, rule), (x / rule.high * most).round().clamp(-most, most) * rule.high / most, name="x")


@pytest.mark.parametrize("power", POWERS)
@pytest.mark.parametrize("make", [unsigned, signed])
def test_codes_are_a_power_and_no_more_than_the_bits_allow(make, power: int) -> None:
    rule = make(4, power)
    rounded = compand(values(rule), rule)
    for n in range(3):
        levels = rounded[..., n].unique()
        low, high = rule.low.expand(3)[n], rule.high.expand(3)[n]
        assert len(levels) <= 16
        away = levels.abs() / high if rule.signed else (high - levels) / (high - low)
        codes = away ** (1 / power) * (7 if rule.signed else 15)
        assert_close(codes, codes.round(), atol=1e-3, name="codes")


@pytest.mark.parametrize("dtype", [torch.float64, torch.float32], ids=str)
@pytest.mark.parametrize("power", POWERS)
@pytest.mark.parametrize("make", [unsigned, signed])
def test_it_is_idempotent_monotone_and_stays_in_range(make, power: int, dtype: torch.dtype) -> None:
    rule = make(4, power, dtype)
    rounded = compand(values(rule, dtype), rule)
    # what is next to `high` is a difference of close numbers
    assert_close(compand(rounded, rule), rounded, rtol=1e-6, atol=0, name="twice")
    line = torch.linspace(-3, 3, 2001, dtype=dtype)[:, None].expand(-1, 3)
    drawn = compand(line, rule)
    assert (drawn.diff(dim=0) >= 0).all()
    low = -rule.high if rule.signed else rule.low
    assert (drawn >= low - 1e-6).all() and (drawn <= rule.high).all()


@pytest.mark.parametrize("power", POWERS)
@pytest.mark.parametrize("make", [unsigned, signed])
def test_more_bits_are_closer(make, power: int) -> None:
    x = values(make(8, 1))
    bounds = make(8, 1)
    held = x.clamp(-bounds.high if bounds.signed else bounds.low, bounds.high)
    errors = [(compand(x, make(bits, power)) - held).abs().mean() for bits in (4, 8, 16)]
    assert errors[0] > 10 * errors[1] > 1000 * errors[2] > 0


def test_a_higher_power_is_finer_near_high() -> None:
    x = 0.98 - torch.rand(50, 3, generator=torch.Generator().manual_seed(0), dtype=torch.float64) * 0.02
    errors = [(compand(x, unsigned(5, power)) - x).abs().mean() for power in POWERS]
    assert errors == sorted(errors, reverse=True)


@pytest.mark.parametrize("make", [unsigned, signed])
def test_gradient_is_straight_through_inside_and_zero_outside(make) -> None:
    rule = make(4, 2)
    rule.high.requires_grad_()
    x = values(rule).requires_grad_()
    weight = torch.rand(x.shape, generator=torch.Generator().manual_seed(1), dtype=x.dtype)
    grad, to_high = torch.autograd.grad((compand(x, rule) * weight).sum(), (x, rule.high), allow_unused=True)
    inside = (x >= (-rule.high if rule.signed else rule.low)) & (x <= rule.high)
    assert 0 < inside.sum() < inside.numel()
    assert torch.equal(grad, weight * inside) and to_high is None


def test_a_range_without_extent_holds_one_value() -> None:
    x = torch.tensor([[-1.0, 0.0], [0.5, 2.0]], requires_grad=True)
    one = torch.tensor([1.0])
    flat = compand(x, Companding(4, one, one, 2))
    none = compand(x, Companding(4, one, 0 * one, 2, signed=True))
    assert torch.equal(flat, torch.ones(2, 2)) and torch.equal(none, torch.zeros(2, 2))
    (grad,) = torch.autograd.grad((flat + none).sum(), x)
    assert grad.isfinite().all()


def test_half_precision_is_rounded_in_float32() -> None:
    rule = unsigned(8, 2)
    x = decays(torch.bfloat16)
    rounded = compand(x, rule)
    assert rounded.dtype == torch.bfloat16 and torch.equal(rounded, compand(x.float(), rule).bfloat16())


def test_the_input_is_left_alone_and_nan_is_passed_on(device: torch.device) -> None:
    rule = Companding(4, torch.zeros(1, device=device), torch.ones(1, device=device), 3)
    x = torch.tensor([0.2, torch.nan, torch.inf, -torch.inf], device=device)
    before = x.clone()
    rounded = compand(x[:, None], rule)[:, 0]
    assert torch.equal(x.nan_to_num(7), before.nan_to_num(7))
    assert rounded[1].isnan() and rounded[[2, 3]].tolist() == [1, 0]
