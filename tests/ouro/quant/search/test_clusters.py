"""Clusters in one dimension are the best there are, in ascending order, and none is empty."""

import itertools

import pytest
import torch

from ouro.quant.search.clusters import clusters


def within(values, labels):
    """Sum of squares around the means of the clusters."""
    return sum(float((values[labels == k] - values[labels == k].mean()).square().sum()) for k in labels.unique())


@pytest.mark.parametrize("seed", range(5))
@pytest.mark.parametrize("k", (1, 2, 3, 4))
def test_clusters_are_ascending_and_the_best_there_are(seed, k):
    means = torch.randn(9, generator=torch.Generator().manual_seed(seed)).exp()
    labels = clusters(means, k)
    assert labels.dtype == torch.int64 and labels.unique().tolist() == list(range(k))
    assert labels[means.argsort()].diff().min() >= 0
    places = means.sort().values
    every = (
        torch.bucketize(torch.arange(9), torch.tensor(cuts), right=True)
        for cuts in itertools.combinations(range(1, 9), k - 1)
    )
    best = min(within(places, cut) for cut in every) if k > 1 else within(means, labels)
    assert within(means, labels) == pytest.approx(best, rel=1e-5)
    assert torch.equal(labels, clusters(means, k))


def test_clusters_of_one_of_all_and_of_repeated_values():
    means = torch.tensor([3.0, 1.0, 2.0, 1.0])
    assert clusters(means, 1).tolist() == [0] * 4
    assert clusters(torch.tensor([3.0, 1.0, 2.0]), 3).tolist() == [2, 0, 1]
    assert clusters(means, 4).tolist() == [2, 0, 1, 0]
    assert clusters(torch.full((5,), 7.0), 4).tolist() == [0] * 5
    assert clusters(torch.tensor([2.0]), 4).tolist() == [0]


def test_clusters_of_a_long_vector_take_a_moment():
    means = torch.cat([torch.randn(1000, generator=torch.Generator().manual_seed(k)) + 100 * k for k in (2, 0, 1)])
    assert clusters(means, 3).tolist() == [2] * 1000 + [0] * 1000 + [1] * 1000


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda: clusters(torch.ones(3), 0), "k is 0, expected at least 1 cluster"),
        (
            lambda: clusters(torch.ones(3, 2), 2),
            "means is (3, 2), expected a non-empty (m,), one number per token or channel",
        ),
        (
            lambda: clusters(torch.tensor([1.0, torch.nan]), 2),
            "means hold values that are not finite; look for NaN or infinity in what was recorded",
        ),
    ],
)
def test_mistakes_are_named(call, message):
    with pytest.raises(ValueError) as caught:
        call()
    assert str(caught.value) == message
