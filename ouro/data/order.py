"""A fixed order of a finite set in which every stretch holds the classes in their overall proportions."""

from __future__ import annotations

import numpy as np


def stratified(labels: np.ndarray) -> np.ndarray:
    """A random order [n] of the images with these labels, always the same one: what is cut from it is even in classes."""
    # raw words, not Generator methods: only the bit stream of a BitGenerator is promised never to change
    shuffled = np.argsort(np.random.Philox(key=[0, 0]).random_raw(len(labels)), kind="stable")
    rank = np.empty(len(labels))
    for label in np.unique(labels):
        members = shuffled[labels[shuffled] == label]
        rank[members] = (np.arange(len(members)) + 0.5) / len(members)
    return np.argsort(rank, kind="stable")
