"""One-dimensional k-means, exact and without a random start: which time steps or channels share a scale."""

from __future__ import annotations

import numpy as np
import torch
from torch import Tensor


def clusters(means: Tensor, k: int) -> Tensor:
    """Labels [m] int64 of one-dimensional k-means over `means` [m]; cluster 0 has the smallest centroid.

    Exact and deterministic: in one dimension clusters are intervals of the sorted values, and dynamic programming finds
    the partition with the least sum of squares (of equals, the one whose intervals end earliest). Equal values share
    a cluster and none is empty: fewer distinct values than k make fewer clusters, still labeled from 0.

    Raises:
        ValueError: k is below 1, or `means` is no vector of finite numbers.
    """
    if k < 1:
        raise ValueError(f"k is {k}, expected at least 1 cluster")
    if means.dim() != 1 or len(means) == 0:
        raise ValueError(f"means is {tuple(means.shape)}, expected a non-empty (m,), one number per token or channel")
    if not means.isfinite().all():
        raise ValueError("means hold values that are not finite; look for NaN or infinity in what was recorded")
    values, place = torch.unique(means.detach().double().cpu(), return_inverse=True)
    if k >= len(values):
        return place.to(means.device)
    counts = torch.bincount(place, minlength=len(values)).numpy()
    starts = _best_intervals(values.numpy(), counts, k)
    of_value = torch.from_numpy(np.searchsorted(starts, np.arange(len(values)), side="right") - 1)
    return of_value[place].to(means.device)


def _best_intervals(values: np.ndarray, counts: np.ndarray, k: int) -> np.ndarray:
    """First index of each of k intervals of sorted values with the least sum of squares around their means."""
    # around the middle, so that differences of running sums stay exact
    centered = values - np.average(values, weights=counts)
    weight, total, squares = (
        np.concatenate([[0.0], np.cumsum(x)]) for x in (counts, counts * centered, counts * centered**2)
    )
    m = len(values)

    def spread(first: np.ndarray, end: int) -> np.ndarray:
        """Sum of squares of the interval first .. end - 1."""
        inside = total[end] - total[first]
        return np.maximum(squares[end] - squares[first] - inside**2 / (weight[end] - weight[first]), 0.0)

    cost = np.concatenate([[0.0], [spread(np.array(0), end) for end in range(1, m + 1)]])
    begins = np.zeros((k, m + 1), np.int64)
    for parts in range(1, k):
        new = np.full(m + 1, np.inf)
        for end in range(parts + 1, m + 1):
            first = np.arange(parts, end)
            costs = cost[first] + spread(first, end)
            best = int(np.argmin(costs))
            new[end], begins[parts, end] = costs[best], first[best]
        cost = new
    starts, end = np.zeros(k, np.int64), m
    for parts in range(k - 1, 0, -1):
        starts[parts] = end = begins[parts, end]
    return starts
