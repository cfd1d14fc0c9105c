"""The helpers that other tests trust."""

import re

import pytest
import torch

from tests.measure import spans, summary
from tests.testing import assert_close


def test_assert_close_accepts_rounding():
    x = torch.randn(3, 63, generator=torch.Generator().manual_seed(0))
    assert_close(x.half(), x)
    assert_close(x, x * (1 + 1e-6))


def test_assert_close_names_the_worst_place():
    expected = torch.ones(2, 3)
    actual = expected.clone()
    actual[1, 2], actual[0, 0] = 3.0, 1.5
    message = "y: 2 of 6 differ; max abs 2.000e+00, relative RMS 8.416e-01, worst at (1, 2): 3.0, expected 1.0"
    with pytest.raises(AssertionError, match=re.escape(message)):
        assert_close(actual, expected, name="y")


@pytest.mark.parametrize(
    ("actual", "expected"),
    [
        pytest.param(torch.tensor([torch.nan]), torch.tensor([torch.nan]), id="nan"),
        pytest.param(torch.tensor([torch.inf]), torch.tensor([1.0]), id="inf"),
        pytest.param(torch.tensor([1]), torch.tensor([2]), id="whole numbers"),
        pytest.param(torch.ones(1), torch.ones(1, 1), id="shape"),
    ],
)
def test_assert_close_refuses(actual, expected):
    with pytest.raises(AssertionError):
        assert_close(actual, expected)


def test_empty_memory_is_poisoned(device):
    x = torch.ones(2, device=device)
    assert torch.empty(2, 3, device=device, requires_grad=True).isnan().all()
    assert torch.empty_like(x).isnan().all()
    assert x.new_empty(3).isnan().all()
    assert torch.empty(2, dtype=torch.int64, device=device).dtype == torch.int64
    assert torch.nn.Linear(2, 2, device=device).weight.isfinite().all()


@pytest.mark.unpoisoned
def test_poison_can_be_left_out():
    assert torch.empty.__module__ != "tests.conftest" and not hasattr(torch.empty, "__wrapped__")


def test_missed_lines_are_written_in_short() -> None:
    assert spans([7, 1, 3, 2, 9, 10]) == "1-3 7 9-10" and spans([]) == ""
    measured = {
        "totals": {"percent_covered": 66.666, "num_statements": 9, "missing_lines": 3},
        "files": {"b.py": {"missing_lines": [4, 5, 8]}, "a.py": {"missing_lines": []}},
    }
    assert summary(measured) == {"percent": 66.67, "lines": 9, "missed": 3, "files": {"b.py": "4-5 8"}}
