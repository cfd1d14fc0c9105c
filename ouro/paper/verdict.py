"""What a stored measurement says of a claim: seen, opposite, not seen, not resolved, or not measured, and by what interval."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

from ouro.evaluate.paired import student
from ouro.tasks.classification import wilson

SEEN, NOT_SEEN, OPPOSITE, NOT_RESOLVED, NOT_MEASURED = "seen", "not seen", "opposite", "not resolved", "not measured"
WORDS = (SEEN, NOT_SEEN, OPPOSITE, NOT_RESOLVED, NOT_MEASURED)
NOTHING_TO_DECIDE = "no claim"
"""The word for a figure that explains, such as the overview of a method."""
LEVEL = 0.05
MAIN = "vim_micro_cifar10"
"""The model of real images: where it has points, they decide, and what models of drawn scenes say stands beside them."""


@dataclass(frozen=True, slots=True)
class Point:
    """One claim of a figure or table. word: one of `WORDS`, or `NOTHING_TO_DECIDE`. why: the numbers that decide.

    model: what it was measured on, if that is one of the embedded models. interval: (value, low, high, reference), where an
    interval decides: whether it holds the reference.
    """

    claim: str
    word: str
    why: str = ""
    model: str = ""
    interval: tuple[float, float, float, float] | None = None


def overall(points: Sequence[Point]) -> str:
    """One word for all: what is opposite or not seen anywhere is said first, then what is not resolved, then what is seen.

    Points on real images decide where there are any (see `MAIN`). A claim that was not measured does not hide what others say.
    """
    points = [point for point in points if point.model == MAIN] or points
    words = {point.word for point in points} - {NOTHING_TO_DECIDE}
    known = words - {NOT_MEASURED}
    if not words:
        return NOTHING_TO_DECIDE
    return next((word for word in (OPPOSITE, NOT_SEEN, NOT_RESOLVED, SEEN) if word in known), NOT_MEASURED)


def sided(low: float, high: float) -> str:
    """Seen where an interval lies above 0, opposite where it lies below."""
    return SEEN if low > 0 else OPPOSITE if high < 0 else NOT_RESOLVED


def by_interval(
    claim: str, difference: float, low: float, high: float, unit: str = "points", scale: float = 100
) -> Point:
    """Seen where the whole interval of (what should be larger) - (the other) is above 0, opposite where it is below."""
    value, low, high = scale * difference, scale * low, scale * high
    known = f"{value:+.1f} {unit} ({low:+.1f} to {high:+.1f})"
    return Point(claim, sided(low, high), known, interval=(value, low, high, 0.0))


def by_counts(claim: str, better: int, worse: int, what: str) -> Point:
    """A sign test (exact, two-sided) over cases in which the difference is resolved by itself."""
    n, fewer = better + worse, min(better, worse)
    p = min(1.0, 2 * sum(math.comb(n, k) for k in range(fewer + 1)) / 2**n)
    word = NOT_RESOLVED if p > LEVEL else SEEN if better > worse else OPPOSITE
    return Point(claim, word, f"better in {better} and worse in {worse} {what} (sign test p = {p:.2g})")


def by_share(claim: str, share: float, n: int, chance: float) -> Point:
    """Seen where Wilson's 95 % interval of a share lies above chance, not seen where it holds it."""
    low, high = wilson(round(share * n), n)
    word = SEEN if low > chance else OPPOSITE if high < chance else NOT_SEEN
    share, low, high, chance = (100 * part for part in (share, low, high, chance))
    known = f"{share:.1f} % of {n} ({low:.1f} to {high:.1f}), chance {chance:.1f} %"
    return Point(claim, word, known, interval=(share, low, high, chance))


def by_means(claim: str, better: tuple[float, float, int], worse: tuple[float, float, int]) -> Point:
    """Means (mean, standard deviation, seeds) of two methods: Welch's 95 % interval of their difference."""
    (a, s, n), (b, t, m) = better, worse
    if min(n, m) < 2:
        return Point(claim, NOT_RESOLVED, f"{100 * (a - b):+.1f} points, one seed: no interval")
    variance, other = s * s / n, t * t / m
    spread = math.sqrt(variance + other)
    if spread == 0:
        return by_interval(claim, a - b, a - b, a - b)
    freedom = (variance + other) ** 2 / (variance**2 / (n - 1) + other**2 / (m - 1))
    half = student(freedom) * spread
    return by_interval(claim, a - b, a - b - half, a - b + half)
