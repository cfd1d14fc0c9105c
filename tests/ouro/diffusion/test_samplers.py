"""Samplers: what they are exact for, how their error falls, guidance, and that pictures do not see each other."""

from __future__ import annotations

import math

import pytest
import torch
from torch import Tensor

from ouro.diffusion.flow import noise
from ouro.diffusion.samplers import SAMPLERS, guided, sample, trajectory
from ouro.types import NO_CLASS
from tests.zoo import small


@pytest.fixture(scope="module")
def model():
    return small("zigma_nano")


def ends_at(name: str, field, x: Tensor, steps: int) -> Tensor:
    *_, (_, x) = SAMPLERS[name](field, x, [number / steps for number in range(steps + 1)])
    return x


@pytest.mark.parametrize("name", list(SAMPLERS))
def test_a_constant_field_is_followed_exactly(name: str) -> None:
    x, v = torch.zeros(2, 3), torch.tensor([1.0, -2.0, 0.5])
    torch.testing.assert_close(ends_at(name, lambda x, t: v.expand_as(x), x, 4), v.expand(2, 3), atol=0, rtol=0)


@pytest.mark.parametrize(("name", "order"), [("euler", 1), ("heun", 2)])
def test_the_error_falls_with_the_order(name: str, order: int) -> None:
    # dx/dt = x cos t: x(1) = x(0) exp(sin 1)
    x = torch.ones(1, dtype=torch.float64)
    exact = math.exp(math.sin(1))
    errors = [abs(ends_at(name, lambda x, t: x * math.cos(t), x, steps).item() - exact) for steps in (32, 64)]
    assert math.log2(errors[0] / errors[1]) == pytest.approx(order, abs=0.1)


def test_guidance_goes_on_from_none_beyond_the_class(model) -> None:
    x, y = noise(model.info.input_size, 0, range(3)), torch.tensor([0, 3, 4])
    t = torch.full((3,), 0.25)
    with torch.no_grad():
        wanted, free = model(x, t, y), model(x, t, torch.full((3,), NO_CLASS))
    assert torch.equal(guided(model, y)(x, 0.25), wanted)
    assert torch.equal(guided(model, None)(x, 0.25), free)
    torch.testing.assert_close(guided(model, y, 0.0)(x, 0.25), free)
    torch.testing.assert_close(guided(model, y, 2.5)(x, 0.25), free + 2.5 * (wanted - free))


def test_a_picture_does_not_see_the_others(model) -> None:
    x0, y = noise(model.info.input_size, 0, range(5)), torch.arange(5)
    whole = sample(model, x0, y, steps=3, guidance=1.5)
    torch.testing.assert_close(sample(model, x0[[3, 1]], y[[3, 1]], steps=3, guidance=1.5), whole[[3, 1]])


def test_a_trajectory_has_every_time_and_leaves_gradients_as_they_were(model) -> None:
    x0 = noise(model.info.input_size, 0, range(2))
    seen = []
    for t, x in trajectory(model, x0, torch.tensor([1, 2]), sampler="euler", steps=4):
        assert torch.is_grad_enabled() and not x.requires_grad
        seen.append((t, x))
    assert [t for t, _ in seen] == [0, 0.25, 0.5, 0.75, 1] and torch.equal(seen[0][1], x0)
    with torch.no_grad():
        step = x0 + 0.25 * model(x0, torch.zeros(2), torch.tensor([1, 2]))
    torch.testing.assert_close(seen[1][1], step)


def test_errors_say_what_is_allowed(model) -> None:
    x0 = noise(model.info.input_size, 0, range(1))
    with pytest.raises(ValueError, match="^unknown sampler 'dopri5'; known: euler, heun$"):
        trajectory(model, x0, sampler="dopri5")
    with pytest.raises(ValueError, match="^steps is 0, expected 1 or more$"):
        trajectory(model, x0, steps=0)
    with pytest.raises(ValueError, match="^guidance is 2, and there is no class to guide zigma_nano by; give classes"):
        trajectory(model, x0, guidance=2)


@pytest.mark.parametrize("strange", [5, NO_CLASS - 1])
def test_a_class_that_the_model_does_not_have_is_not_drawn_as_any(model, strange: int) -> None:
    """The row of the embedding behind the last class is that of no class."""
    y = torch.tensor([NO_CLASS, strange])
    with pytest.raises(
        ValueError, match=f"^y has the class {strange}, zigma_nano has classes 0 to 4, and -1 is for any"
    ):
        guided(model, y)
