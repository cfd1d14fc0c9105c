"""Frechet distance: closed forms, and scipy's square root of a matrix."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from scipy.linalg import sqrtm

from ouro.tasks.frechet import Moments, distance, moments


def cloud(n: int, f: int, seed: int) -> torch.Tensor:
    mix = np.random.default_rng(seed)
    return torch.from_numpy(mix.standard_normal((n, f)) @ mix.standard_normal((f, f)) + mix.standard_normal(f))


def test_equal_clouds_are_at_zero_and_a_shift_counts_squared() -> None:
    x = cloud(40, 5, 0)
    assert distance(moments(x), moments(x)).item() == pytest.approx(0, abs=1e-9)
    assert distance(moments(x), moments(x + 2)).item() == pytest.approx(4 * 5)


def test_of_diagonal_covariances_it_is_the_closed_form() -> None:
    a, b = torch.tensor([1.0, 4.0, 9.0]).double(), torch.tensor([4.0, 4.0, 1.0]).double()
    first, second = Moments(torch.zeros(3).double(), a.diag()), Moments(torch.ones(3).double(), b.diag())
    # |m1 - m2|^2 + sum (sqrt a - sqrt b)^2
    assert distance(first, second).item() == pytest.approx(3 + 1 + 0 + 4)


@pytest.mark.parametrize("n", [50, 4])
def test_it_agrees_with_scipy_even_where_samples_are_fewer_than_features(n: int) -> None:
    x, y = cloud(n, 6, 1), cloud(60, 6, 2)
    a, b = np.cov(x.numpy().T), np.cov(y.numpy().T)
    gap = ((x.mean(0) - y.mean(0)) ** 2).sum().item()
    expected = gap + np.trace(a) + np.trace(b) - 2 * np.trace(sqrtm(a @ b).real)
    assert distance(moments(x), moments(y)).item() == pytest.approx(expected, rel=1e-5)


def test_weights_are_repetitions() -> None:
    x, counts = cloud(7, 3, 3), torch.tensor([[1, 0, 2, 1, 0, 3, 0], [1, 1, 1, 1, 1, 1, 1]]).double()
    both = moments(x, counts)
    repeated = moments(x.repeat_interleave(counts[0].long(), 0))
    torch.testing.assert_close(both.mean[0], repeated.mean)
    torch.testing.assert_close(both.covariance[0], repeated.covariance)
    torch.testing.assert_close(both.covariance[1], torch.cov(x.T))
    assert distance(both, moments(x)).shape == (2,)
