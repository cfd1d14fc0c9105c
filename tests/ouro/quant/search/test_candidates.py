"""The scales that are tried: around the one that gives the peak the greatest code, and tied by powers of two."""

import pytest
import torch

from ouro.quant.grid import fake_quantize, symmetric
from ouro.quant.search.candidates import candidates, initial, power_of_two, with_initial
from tests.testing import assert_close


def test_candidates_reach_from_a_hundredth_to_past_the_start():
    tried = candidates(torch.tensor([2.0, 5.0]))
    assert tried.shape == (2, 100)
    assert_close(tried[:, 0], torch.tensor([0.02, 0.05]))
    assert_close(tried.amax(1), torch.tensor([2.376, 5.94]))
    assert_close(tried.diff(), torch.tensor([[2.0], [5.0]]) * 0.0119 * torch.ones(2, 99))
    assert with_initial(torch.tensor(3.0)).shape == (101,) and with_initial(torch.tensor(3.0))[0] == 3


@pytest.mark.parametrize("bits", (4, 8))
def test_the_peak_gets_the_greatest_code(bits):
    scale = initial(torch.tensor([5.0, 0.0]), bits)
    assert_close(scale, torch.tensor([5.0 / (2 ** (bits - 1) - 0.5), 1.0]))
    peak = torch.tensor([5.0, -5.0])
    codes = fake_quantize(peak, scale[0], symmetric(bits, narrow=False)) / scale[0]
    greatest = 2 ** (bits - 1) - 1
    assert codes[0].round() == greatest and -codes[1].round() in (greatest, greatest + 1)


def test_power_of_two_ties_to_the_first():
    tied = power_of_two(torch.tensor([0.3, 0.31, 0.7, 5.0, 0.1]))
    assert_close(tied, 0.3 * torch.tensor([1.0, 1.0, 2.0, 16.0, 0.25]))
