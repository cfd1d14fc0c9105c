"""Accuracies and their differences on the same images: intervals over images and over seeds at once.

A seed changes what is calibrated on, an image what is asked: both are samples of more than was looked at. With x[s, i] the
outcome of seed s on image i, the variance of its mean is estimated as var_i(mean_s x) / n + var_s(mean_i x) / seeds, each
of which also holds the part that belongs to (seed, image) pairs: an interval is rather too wide than too narrow.
Its number of standard errors is Student's, with the degrees of freedom of Welch and Satterthwaite.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np
import torch
from torch import Tensor

from ouro.metrics import METRICS


def packed(right: Tensor) -> str:
    """Outcomes, bool [n], as hexadecimal text: four images a letter, the first one the highest bit; whole bytes."""
    return np.packbits(right.numpy()).tobytes().hex()


def unpacked(text: str, n: int) -> Tensor:
    """The outcomes, bool [n], that `packed` wrote.

    Raises:
        ValueError: text of another length.
    """
    if len(text) != 2 * -(-n // 8):
        raise ValueError(f"{len(text)} letters are no outcomes of {n} images, which take {2 * -(-n // 8)}")
    return torch.from_numpy(np.unpackbits(np.frombuffer(bytes.fromhex(text), np.uint8), count=n).astype(bool))


def interval(values: Tensor) -> tuple[float, float, float]:
    """(mean, low, high) of values [seeds n], see the module; one seed leaves the part of the images alone.

    Raises:
        ValueError: fewer than two images.
    """
    seeds, n = values.shape
    if n < 2:
        raise ValueError(f"{n} image has no interval; take two or more")
    values = values.double()
    parts = [(values.mean(0).var().item() / n, n - 1)]
    if seeds > 1:
        parts.append((values.mean(1).var().item() / seeds, seeds - 1))
    return _around(values.mean().item(), parts)


def resampled_interval(scores: Sequence[Tensor], value: float) -> tuple[float, float, float]:
    """(value, low, high) of scores of resampled images [r], one tensor per seed, around the value of the images as they are.

    As for `interval`: the variance over resamples is that of the images, to which that of the seeds is added.
    """
    values = torch.stack(list(scores)).double()
    parts = [(values.mean(0).var().item(), math.inf)]
    if len(values) > 1:
        parts.append((values.mean(1).var().item() / len(values), len(values) - 1))
    return _around(value, parts)


def resampled_difference(
    better: Sequence[Tensor], worse: Sequence[Tensor], values: tuple[float, float], *, larger_is_better: bool = True
) -> dict[str, Any]:
    """{difference, ci95, seen} of scores of the same resamples, see `resampled_interval`; positive where the first is better.

    Raises:
        ValueError: other numbers of seeds.
    """
    if len(better) != len(worse):
        raise ValueError(f"scores of {len(better)} and of {len(worse)} seeds are no pairs")
    sign = 1 if larger_is_better else -1
    gaps = [sign * (one - other) for one, other in zip(better, worse, strict=True)]
    mean, low, high = resampled_interval(gaps, sign * (values[0] - values[1]))
    return {"difference": mean, "ci95": [low, high], "seen": _seen(low, high)}


def difference(better: Sequence[Tensor], worse: Sequence[Tensor]) -> dict[str, Any]:
    """{difference, ci95, seen, won, lost}: outcomes bool [n] per seed of two sides, in the same order of images.

    won, lost: (seed, image) pairs that only the first side, or only the second, has right. seen: "yes" where the interval
    lies above 0, "no" where below, else "not resolved".

    Raises:
        ValueError: other numbers of seeds or of images.
    """
    shapes = [[tuple(outcomes.shape) for outcomes in side] for side in (better, worse)]
    if shapes[0] != shapes[1] or len({*shapes[0]}) != 1 or len(shapes[0][0]) != 1:
        told = " and of ".join(", ".join(map(str, side)) or "no seed" for side in shapes)
        raise ValueError(f"outcomes of {told} are no pairs; give both as many seeds, each of the same images [n]")
    gaps = torch.stack(list(better)).double() - torch.stack(list(worse)).double()
    mean, low, high = interval(gaps)
    return {
        "difference": mean, "ci95": [low, high], "seen": _seen(low, high), "won": int((gaps > 0).sum()), "lost": int((gaps < 0).sum()),
    }  # fmt: skip


def kept(outcomes: Tensor, resampled: Callable[[Tensor], Tensor]) -> dict[str, Any]:
    """What files keep of outcomes: {right: packed} where an image is right or wrong, else {resampled: scores}.

    Args:
        resampled: gives the scores of resamples of outcomes that are more than that, see `ouro.tasks.Task`.
    """
    if outcomes.dtype == torch.bool:
        return {"right": packed(outcomes)}
    # six digits are enough for intervals
    return {"resampled": [round(score, 6) for score in resampled(outcomes).tolist()]}


def between(better: Sequence[Mapping[str, Any]], worse: Sequence[Mapping[str, Any]], metric: str) -> dict[str, Any]:
    """How far the first cells, one per seed, are ahead of the others: what `difference` or `resampled_difference` says.

    A cell has what `kept` gave, beside it {n} of the images or {`metric`: the score of the images as they are}.
    """
    sides = (better, worse)
    if all("right" in cell for cells in sides for cell in cells):
        return difference(*([unpacked(cell["right"], cell["n"]) for cell in cells] for cells in sides))
    first, second = ([torch.tensor(cell["resampled"]) for cell in cells] for cells in sides)
    means = [sum(cell[metric] for cell in cells) / len(cells) for cells in sides]
    larger = METRICS[metric].larger_is_better
    return resampled_difference(first, second, (means[0], means[1]), larger_is_better=larger)


def _around(value: float, parts: Sequence[tuple[float, float]]) -> tuple[float, float, float]:
    """(value, low, high) by the parts of its variance, each with its degrees of freedom; see the module."""
    variance = sum(part for part, _ in parts)
    if variance == 0:
        return value, value, value
    doubt = sum(part**2 / degrees for part, degrees in parts)
    half = student(variance**2 / doubt if doubt else math.inf) * math.sqrt(variance)
    return value, value - half, value + half


def _seen(low: float, high: float) -> str:
    """Whether an interval lies above 0."""
    return "yes" if low > 0 else "no" if high < 0 else "not resolved"


def student(freedom: float) -> float:
    """The 97.5 % point of Student's t."""
    # scipy comes with scikit-learn
    from scipy.stats import t

    return float(t.ppf(0.975, freedom))
