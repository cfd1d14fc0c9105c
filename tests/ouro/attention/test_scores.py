"""Scores of maps against masks: exact, per sample, and refused where they are undefined."""

from __future__ import annotations

import re

import numpy as np
import pytest
import torch
from sklearn.metrics import roc_auc_score

from ouro.attention.scores import auroc, bootstrap, leakage, mask_to_grid, pointing
from tests.testing import assert_close


@pytest.fixture
def samples():
    g = torch.Generator().manual_seed(0)
    # few values, so that many are tied
    values = torch.randint(0, 6, (20, 7, 9), generator=g).float()
    return values, torch.rand(20, 7, 9, generator=g) < 0.3


def test_auroc_agrees_with_sklearn(samples):
    values, mask = samples
    pairs = zip(values.flatten(1).numpy(), mask.flatten(1).numpy(), strict=True)
    expected = torch.tensor([roc_auc_score(inside, row) for row, inside in pairs], dtype=torch.float64)
    assert_close(auroc(values, mask), expected, name="AUROC")


def test_auroc_only_sees_ranks(samples):
    values, mask = samples
    assert auroc(values.exp() * 1e-3, mask).equal(auroc(values, mask))
    assert_close(auroc(-values, mask), 1 - auroc(values, mask), name="of the negative map")
    assert auroc(torch.ones_like(values), mask).eq(0.5).all()


def test_pointing_shares_ties():
    mask = torch.tensor([[[True, False], [False, False]]]).expand(3, 2, 2)
    values = torch.tensor([[[9.0, 1], [1, 1]], [[1, 9], [1, 1]], [[9, 9], [9, 1]]])
    assert_close(pointing(values, mask), torch.tensor([1, 0, 1 / 3]).double(), name="pointing", rtol=1e-6)


def test_leakage_is_the_share_outside():
    mask = torch.tensor([[[True, False], [False, False]]]).expand(3, 2, 2)
    values = torch.tensor([[[3.0, 1], [0, 0]], [[-3, 1], [0, 0]], [[0, 0], [0, 0]]])
    assert leakage(values, mask).tolist() == [0.25, 0.25, 0.75]


def test_mask_to_grid_takes_the_majority():
    mask = torch.zeros(1, 4, 6, dtype=torch.bool)
    mask[0, :2, :3] = True
    mask[0, 2:, 3:5] = True
    assert mask_to_grid(mask, (2, 2)).tolist() == [[[True, False], [False, True]]]
    assert mask_to_grid(mask, (2, 2), share=0.7).tolist() == [[[True, False], [False, False]]]


def test_bootstrap_covers_and_repeats():
    g = torch.Generator().manual_seed(0)
    draws = torch.randn(200, 50, generator=g, dtype=torch.float64)
    low, high = bootstrap(draws, seed=1)
    covered = ((low < 0) & (high > 0)).double().mean()
    assert 0.85 <= covered <= 1
    # near the normal interval
    assert_close((high - low).mean(), torch.tensor(2 * 1.96 / np.sqrt(200)).double(), name="width", rtol=0.05)
    again = bootstrap(draws, seed=1)
    assert again[0].equal(low)
    assert again[1].equal(high)


@pytest.mark.parametrize(("shape", "resamples"), [((0, 2), 9), ((5,), 9), ((5, 2), 0)])
def test_bootstrap_of_nothing_is_refused(shape, resamples):
    expected = (
        r"values are \(.*\), expected \(samples, scores\) with one"
        if resamples
        else "resamples is 0, expected 1 or more"
    )
    with pytest.raises(ValueError, match=f"^{expected}"):
        bootstrap(torch.rand(shape), resamples=resamples)


def test_bootstrap_pairs_columns():
    values = torch.randn(50, 1, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    low, high = bootstrap(torch.cat([values, values + 1, torch.ones_like(values)], dim=1))
    assert_close(low[1] - low[0], torch.tensor(1.0).double(), name="low")
    assert_close(high[1] - high[0], torch.tensor(1.0).double(), name="high")
    assert_close(torch.stack([low[2], high[2]]), torch.ones(2).double(), name="a constant")


@pytest.mark.parametrize(
    ("values", "mask", "message"),
    [
        (torch.ones(1, 2, 2), torch.zeros(1, 2, 2), "mask 0 is all background: AUROC needs both; leave the sample out"),
        (torch.ones(1, 2, 2), torch.ones(1, 2, 2), "mask 0 is all object"),
        (torch.ones(1, 2, 2) / 0 * 0, torch.eye(2)[None], "the map holds NaN, which has no rank"),
        (
            torch.ones(1, 2, 2),
            torch.ones(1, 4, 4),
            "map (1, 2, 2) and mask (1, 4, 4) differ, expected (b, h, w) for both",
        ),
    ],
)
def test_auroc_refuses(values, mask, message):
    with pytest.raises(ValueError, match=re.escape(message)):
        auroc(values, mask)
