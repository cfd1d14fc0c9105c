"""A width for every site under a budget of average bits, so that the damages measured one by one add up to the least.

A multiple-choice knapsack, solved over the frontier of costs and damages: a state stays if no cheaper one does as
little damage. That is exact as long as the frontier has at most `MOST_STATES` states (sizes of layers share large
factors, so it has a few thousand for a Vim); a longer one is thinned, and what is chosen is still within the budget.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from ouro.quant.bits import FLOAT

WIDTHS = (3, 4, 6, 8)
"""Candidates, where nothing else is said."""
MOST_STATES = 20_000
KINDS = ("weights", "activations")
"""What has a mean of its own; the budget holds for each of the two."""


@dataclass(frozen=True, slots=True)
class Item:
    """What gets one width: a site, or some that share it.

    paths: of its taps. kind: one of `KINDS`. size: elements, of activations those of one image.
    damages: width -> damage when only this item is rounded.
    """

    name: str
    paths: tuple[str, ...]
    kind: str
    size: int
    damages: Mapping[int, float]


@dataclass(frozen=True, slots=True)
class Allocation:
    """Tap path -> width; mean bits of weights and of activations by elements, and the sum of the damages.

    More bits never hurt, noise aside: an item's damage at a width is the least one measured at it or at fewer bits.
    """

    site_bits: Mapping[str, int]
    mean_bits: Mapping[str, float]
    predicted: float


def check_budget(budget: float, widths: Sequence[int]) -> None:
    """Refuses a budget that no choice of widths can meet, and one that none can spend.

    Raises:
        ValueError: no widths, one that is not 2 to 8 or comes twice, or a budget below the smallest or above the largest.
    """
    allowed = ", ".join(map(str, widths)) or "none"
    if not widths or len(set(widths)) != len(widths) or not all(2 <= width <= 8 for width in widths):
        raise ValueError(f"the widths to choose from are {allowed}; give different ones of 2 to 8 bits, as in 3,4,6,8")
    least = min(widths)
    if not budget >= least:
        raise ValueError(
            f"budget is {budget:g} bits, the smallest width to choose from is {least} (of {allowed}); give a budget of at "
            f"least {least}, or smaller widths"
        )
    most = max(widths)
    if budget > most:
        wider = ", or larger widths" if most < 8 else ""
        raise ValueError(
            f"budget is {budget:g} bits, the largest width to choose from is {most} (of {allowed}); give a budget of at "
            f"most {most}{wider}"
        )


def allocate(items: Sequence[Item], budget: float) -> Allocation:
    """The widths with the least sum of damages such that mean weight bits and mean activation bits are <= budget.

    Bits that nothing needs are spent all the same, on the widest widths that fit. A kind without items counts 32 bits.

    Raises:
        ValueError: no items, or a budget that they cannot meet.
    """
    if not items:
        raise ValueError("there is nothing to choose widths for: the plan rounds no site outside the recurrence")
    for item in items:
        check_budget(budget, sorted(item.damages))
    site_bits: dict[str, int] = {}
    mean_bits: dict[str, float] = {}
    predicted = 0.0
    for kind in KINDS:
        chosen = [item for item in items if item.kind == kind]
        total = sum(item.size for item in chosen)
        # a millionth of a bit of one element is rounding of budget * total
        widths = _widths(chosen, math.floor(budget * total + 1e-6))
        spent = sum(item.size * width for item, width in zip(chosen, widths, strict=True))
        mean_bits[kind] = spent / total if total else float(FLOAT)
        for item, width in zip(chosen, widths, strict=True):
            site_bits |= dict.fromkeys(item.paths, width)
            predicted += _envelope(item)[width]
    return Allocation(site_bits, mean_bits, predicted)


def _envelope(item: Item) -> dict[int, float]:
    """Width -> the least damage at it or at fewer bits, from the narrowest on."""
    widths = sorted(item.damages)
    least = np.minimum.accumulate([item.damages[width] for width in widths])
    return dict(zip(widths, least.tolist(), strict=True))


def _widths(items: Sequence[Item], capacity: int) -> list[int]:
    """One width per item, of which the sizes times the widths are at most the capacity."""
    costs, damages = np.zeros(1, np.int64), np.zeros(1)
    trail = []
    for item in items:
        choices = _envelope(item)
        cost = (costs[:, None] + item.size * np.array(list(choices))).ravel()
        damage = (damages[:, None] + np.array(list(choices.values()))).ravel()
        kept = _undominated(cost, damage)
        trail.append((kept // len(choices), [list(choices)[place] for place in kept % len(choices)]))
        costs, damages = cost[kept], damage[kept]
    # along the frontier damage falls as cost rises: the last state that can be paid is the best one
    state = int(np.searchsorted(costs, capacity, side="right")) - 1
    widths = []
    for parents, chosen in reversed(trail):
        widths.append(chosen[state])
        state = parents[state]
    return _filled(items, widths[::-1], capacity)


def _undominated(cost: np.ndarray, damage: np.ndarray) -> np.ndarray:
    """Places of the Pareto-optimal states, by rising cost; at most `MOST_STATES` of them."""
    order = np.lexsort((damage, cost))
    least = np.minimum.accumulate(damage[order])
    kept = order[np.concatenate([[True], least[1:] < least[:-1]])]
    if len(kept) <= MOST_STATES:
        return kept
    # evenly by cost; the cheapest stays, so that every budget can be met
    grid = np.linspace(cost[kept[0]], cost[kept[-1]], MOST_STATES)
    return kept[np.unique(np.searchsorted(cost[kept], grid))]


def _filled(items: Sequence[Item], widths: Sequence[int], capacity: int) -> list[int]:
    """The same widths or wider ones: what is left goes to one item after the other."""
    left = capacity - sum(item.size * width for item, width in zip(items, widths, strict=True))
    filled = []
    for item, width in zip(items, widths, strict=True):
        wider = max(new for new in item.damages if new == width or (new > width and item.size * (new - width) <= left))
        left -= item.size * (wider - width)
        filled.append(wider)
    return filled
