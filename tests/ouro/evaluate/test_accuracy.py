"""Intervals are Wilson's, counting is exact, and NaN is never an answer."""

import pytest
import torch
from torch import nn

from ouro.evaluate.accuracy import accuracy, outcomes, wilson


@pytest.mark.parametrize(
    ("right", "n", "low", "high"),
    [
        # Newcombe 1998, table I (score interval, method 3)
        (81, 263, 0.2553, 0.3662),
        (15, 148, 0.0624, 0.1605),
        (0, 20, 0.0, 0.1611),
        (1, 29, 0.0061, 0.1718),
    ],
)
def test_wilson_agrees_with_published_intervals(right, n, low, high):
    assert wilson(right, n) == pytest.approx((low, high), abs=5e-5)


def test_wilson_is_symmetric_and_inside_the_unit_interval():
    for n in (1, 7, 1000):
        for right in {0, 1, n // 2, n}:
            low, high = wilson(right, n)
            assert 0 <= low <= right / n <= high <= 1
            assert wilson(n - right, n) == pytest.approx((1 - high, 1 - low))


@pytest.mark.parametrize(("right", "n"), [(0, 0), (3, 2), (-1, 2)])
def test_wilson_refuses_what_is_no_proportion(right, n):
    with pytest.raises(ValueError, match=rf"^{right} of {n} is no proportion$"):
        wilson(right, n)


def test_accuracy_of_outcomes():
    assert accuracy(torch.tensor([True, False, True, True])) == {"n": 4, "top1": 0.75, "ci95": list(wilson(3, 4))}
    with pytest.raises(ValueError, match=r"^0 of 0 is no proportion$"):
        accuracy(torch.zeros(0, dtype=torch.bool))


class Table(nn.Module):
    """Its logits are the images' own pixels."""

    def __init__(self):
        super().__init__()
        self.scale = nn.Parameter(torch.ones(()))

    def forward(self, images):
        return images.flatten(1) * self.scale


def test_outcomes_image_by_image():
    images = torch.eye(4).view(4, 1, 2, 2)
    found = list(outcomes(Table(), [(images[:3], torch.tensor([0, 1, 0])), (images[3:], torch.tensor([3]))]))
    assert [x.tolist() for x in found] == [[True, True, False], [True]]


def test_outcomes_need_labels():
    with pytest.raises(ValueError, match=r"^these images have no labels; accuracy needs "):
        list(outcomes(Table(), [(torch.zeros(1, 1, 2, 2), None)]))


def test_nan_logits_are_an_error():
    images = torch.zeros(3, 1, 2, 2)
    images[1] = torch.nan
    with pytest.raises(RuntimeError, match=r"^the model's logits are NaN for 1 of 3 images; is an input NaN\?$"):
        list(outcomes(Table(), [(images, torch.zeros(3, dtype=torch.long))]))
