"""Frechet distance of clouds of features, each taken for a normal distribution.

|m1 - m2|^2 + tr(C1 + C2 - 2 (C1^1/2 C2 C1^1/2)^1/2), in float64. The square root is that of a symmetric matrix, from its
eigenvalues, so that a singular covariance (fewer samples than features) needs no ridge. Biased upwards for few samples:
compare clouds of one size, or with a floor.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor


@dataclass(frozen=True, slots=True)
class Moments:
    """mean [... f] and covariance [... f f] of clouds of features; those of one sample have no spread."""

    mean: Tensor
    covariance: Tensor


def moments(features: Tensor, weights: Tensor | None = None) -> Moments:
    """Of features [n f], or of as many clouds as there are rows of weights [r n], how often each sample is in each."""
    x = features.double()
    w = torch.ones(len(x), dtype=torch.float64, device=x.device) if weights is None else weights
    total = w.sum(-1)[..., None]
    mean = w @ x / total
    # around the common mean: little is lost where the covariance is the difference of two large numbers
    x, center = x - x.mean(0), mean - x.mean(0)
    second = (w[..., None] * x).transpose(-1, -2) @ x / total[..., None]
    covariance = second - center[..., :, None] * center[..., None, :]
    return Moments(mean, covariance * (total / (total - 1).clamp(min=1))[..., None])


def distance(first: Moments, second: Moments) -> Tensor:
    """[...], 0 or more."""
    root = _square_root(first.covariance)
    shared = torch.linalg.eigvalsh(root @ second.covariance @ root).clamp(min=0).sqrt().sum(-1)
    spread = (first.covariance + second.covariance).diagonal(dim1=-2, dim2=-1).sum(-1)
    return ((first.mean - second.mean).square().sum(-1) + spread - 2 * shared).clamp(min=0)


def _square_root(matrix: Tensor) -> Tensor:
    values, vectors = torch.linalg.eigh(matrix)
    return (vectors * values.clamp(min=0).sqrt()[..., None, :]) @ vectors.transpose(-1, -2)
