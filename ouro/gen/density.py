"""A Gaussian kernel density at evenly spaced places, and its gradient, compiled for CPUs: only places in reach count."""

from __future__ import annotations

import math

import numpy as np
import torch
from numba import njit, prange
from torch import Tensor

from ouro.scan.cpu import run_kernel

REACH = 8.0
"""Bandwidths; a Gaussian is 1e-14 of its peak there, less than float32 can add to it."""


@njit(error_model="numpy", inline="always")
def _near(s, low, spacing, reach, points):
    """(first, behind the last) of the places low + k spacing within reach of s; all, where they are one place."""
    if not spacing > 0:
        return 0, points
    first = max(0, int(np.ceil((s - reach - low) / spacing)))
    return first, max(first, min(points, int(np.floor((s + reach - low) / spacing)) + 1))


@njit(error_model="numpy", parallel=True, cache=True, nogil=True)
def _forward(pairs, places, bandwidth, reach, sums):
    """sums [b k] = sum over i of exp(-((places[b, k] - pairs[b, i]) / bandwidth)^2 / 2)."""
    points = places.shape[1]
    for b in prange(len(pairs)):
        row, total = places[b], sums[b]
        low, spacing = row[0], (row[points - 1] - row[0]) / (points - 1)
        for s in pairs[b]:
            first, last = _near(s, low, spacing, reach, points)
            for k in range(first, last):
                z = (row[k] - s) / bandwidth
                total[k] += np.exp(-(z * z) / 2)


@njit(error_model="numpy", parallel=True, cache=True, nogil=True)
def _backward(pairs, places, bandwidth, reach, upstream, into):
    """into [b i] = sum over k of upstream[b, k] d sums[b, k] / d pairs[b, i]."""
    points = places.shape[1]
    for b in prange(len(pairs)):
        row, weights = places[b], upstream[b]
        low, spacing = row[0], (row[points - 1] - row[0]) / (points - 1)
        for i in range(pairs.shape[1]):
            s = pairs[b, i]
            first, last = _near(s, low, spacing, reach, points)
            total = 0.0
            for k in range(first, last):
                z = (row[k] - s) / bandwidth
                total += weights[k] * np.exp(-(z * z) / 2) * z
            into[b, i] = total / bandwidth


def forward(pairs: Tensor, places: Tensor, bandwidth: float) -> Tensor:
    """mean over i of N(places[b, k]; pairs[b, i], bandwidth^2), [b k], in float64 inside. Two places or more."""
    sums = np.zeros(places.shape)
    run_kernel(_forward, *_arrays(pairs, places), bandwidth, REACH * bandwidth, sums)
    return (torch.from_numpy(sums) * _factor(pairs, bandwidth)).to(pairs.dtype)


def backward(pairs: Tensor, places: Tensor, bandwidth: float, upstream: Tensor) -> Tensor:
    """The gradient of `forward` for pairs, [b i], given that of its result."""
    into = np.empty(pairs.shape)
    weights = (upstream.detach().double() * _factor(pairs, bandwidth)).contiguous().numpy()
    run_kernel(_backward, *_arrays(pairs, places), bandwidth, REACH * bandwidth, weights, into)
    return torch.from_numpy(into).to(pairs.dtype)


def _arrays(pairs: Tensor, places: Tensor) -> list[np.ndarray]:
    return [x.detach().double().contiguous().numpy() for x in (pairs, places)]


def _factor(pairs: Tensor, bandwidth: float) -> float:
    return 1 / (bandwidth * math.sqrt(2 * math.pi) * pairs.shape[1])
