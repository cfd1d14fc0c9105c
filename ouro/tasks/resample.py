"""Resamples of images, for scores that are no mean over images: mIoU, average precision, Frechet distance.

Images are drawn anew from those that were looked at, by the number of images alone: so every model that is scored on the
same images is scored on the same resamples, and a difference of scores has resamples as well.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import torch
from torch import Tensor

COUNT = 500
"""Resamples of a score; the ends of its interval are known to about a tenth of its width."""
_SEED = 20_260_101


def weights(n: int, count: int = COUNT) -> Tensor:
    """How often each of n images is in each resample, float64 [count n].

    Raises:
        ValueError: no image.
    """
    if n < 1:
        raise ValueError("no image to score")
    draws = np.random.Generator(np.random.PCG64([_SEED, n])).integers(n, size=(count, n))
    return torch.from_numpy(np.stack([np.bincount(row, minlength=n) for row in draws])).double()


def interval(scores: Sequence[float] | Tensor) -> list[float]:
    """The middle 95 % of the scores of resamples."""
    values = torch.as_tensor(scores, dtype=torch.float64)
    values = values[values.isfinite()]
    if not len(values):
        return [float("nan")] * 2
    return [torch.quantile(values, q).item() for q in (0.025, 0.975)]
