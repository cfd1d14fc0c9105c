"""The path from noise to data, and what hangs on (seed, index) alone."""

from __future__ import annotations

import pytest
import torch

from ouro.diffusion.flow import along, noise, spread_times, velocity


def test_the_path_begins_in_noise_and_ends_in_data_at_its_velocity() -> None:
    x0, x1 = noise((3, 4, 4), 0, range(5)), noise((3, 4, 4), 1, range(5))
    t = torch.rand(5, generator=torch.Generator().manual_seed(0))
    assert torch.equal(along(x0, x1, torch.zeros(5)), x0) and torch.equal(along(x0, x1, torch.ones(5)), x1)
    for i, x in enumerate(along(x0, x1, t)):
        torch.testing.assert_close(x, t[i] * x1[i] + (1 - t[i]) * x0[i])
    step = (along(x0, x1, t + 0.25) - along(x0, x1, t)) / 0.25
    torch.testing.assert_close(step, velocity(x0, x1), atol=1e-5, rtol=1e-5)


def test_noise_hangs_on_seed_and_index_alone() -> None:
    whole = noise((3, 8, 8), 7, range(6))
    assert torch.equal(noise((3, 8, 8), 7, [4, 1]), whole[[4, 1]])
    assert not torch.equal(noise((3, 8, 8), 8, [4]), whole[[4]])
    assert whole.dtype == torch.float32 and whole.mean().abs() < 0.1 and (whole.std() - 1).abs() < 0.1


@pytest.mark.parametrize("count", [1, 3, 64])
def test_times_take_one_from_each_part(count: int) -> None:
    t = spread_times(count, 3)
    assert torch.equal((t * count).floor().sort().values, torch.arange(count).float())
    assert torch.equal(t, spread_times(count, 3))
    assert count == 1 or not torch.equal(t.sort().values, t)
