"""Top-1 accuracy: outcomes image by image, and the interval that n images leave open."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from math import sqrt
from typing import Any

import torch
from torch import Tensor, nn

from ouro.data import batches as read_batches
from ouro.data.source import open_data
from ouro.vision import VisionModel


def outcomes(model: nn.Module, batches: Iterable[tuple[Tensor, Tensor | None]]) -> Iterator[Tensor]:
    """For each batch (images [b 3 h w], labels [b]): whether the model's first guess is right, bool [b] on the CPU.

    Raises:
        ValueError: images without labels.
        RuntimeError: logits that are NaN.
    """
    device = next(model.parameters()).device
    for images, labels in batches:
        if labels is None:
            raise ValueError("these images have no labels; accuracy needs a data set with one folder per class")
        with torch.no_grad():
            logits = model(images.to(device)).cpu()
        if logits.isnan().any():
            bad = int(logits.isnan().any(1).sum())
            raise RuntimeError(f"the model's logits are NaN for {bad} of {len(logits)} images; is an input NaN?")
        yield logits.argmax(1) == labels


def wilson(right: int, n: int, z: float = 1.959964) -> tuple[float, float]:
    """Wilson score interval of a proportion: 95 % by default, inside [0, 1], honest at both ends.

    Raises:
        ValueError: no trial, or more successes than trials.
    """
    if not 0 <= right <= n or n < 1:
        raise ValueError(f"{right} of {n} is no proportion")
    share = right / n
    center = (share + z * z / (2 * n)) / (1 + z * z / n)
    half = z / (1 + z * z / n) * sqrt(share * (1 - share) / n + z * z / (4 * n * n))
    # the share itself belongs to the interval, whatever rounding says
    return max(0.0, min(share, center - half)), min(1.0, max(share, center + half))


def accuracy(right: Tensor) -> dict[str, Any]:
    """{n, top1, ci95} of outcomes image by image (bool [n]); accuracies as parts of 1.

    Raises:
        ValueError: no image.
    """
    hits, n = int(right.sum()), len(right)
    low, high = wilson(hits, n)
    return {"n": n, "top1": hits / n, "ci95": [low, high]}


def evaluate(model: VisionModel, data: str = "scenes", *, limit: int | None = None, batch: int = 64) -> dict[str, Any]:
    """Top-1 of a model, float or with quantizers attached, on the test split of a data set, or on a folder's images.

    Returns:
        {data, n, top1, ci95}; accuracies as parts of 1.

    Raises:
        ValueError: unknown data set, or images without labels.
        RuntimeError: logits that are NaN.
    """
    dataset = open_data(data, "test", model.info)
    seen = read_batches(dataset, batch, limit=limit, mean=model.info.mean, std=model.info.std)
    return {"data": data, **accuracy(torch.cat(list(outcomes(model, seen))))}
