"""Widths under a budget: what brute force finds, within the budget, and never worse for more bits."""

import itertools
import re

import numpy as np
import pytest

from ouro.quant.search import budget as module
from ouro.quant.search.budget import WIDTHS, Item, allocate, check_budget


def items(seed, count=5, kind="weights", monotone=True):
    """Sites of made-up sizes that lose less with more bits, or as it happens."""
    random = np.random.default_rng(seed)
    made = []
    for place in range(count):
        damages = random.exponential(size=len(WIDTHS)) * random.choice([0.01, 1, 30])
        damages = sorted(damages, reverse=True) if monotone else damages
        size = int(random.integers(1, 60)) * 16
        made.append(Item(f"{kind}{place}", (f"{kind}{place}",), kind, size, dict(zip(WIDTHS, damages, strict=True))))
    return made


def mean_bits(chosen, widths):
    return sum(item.size * width for item, width in zip(chosen, widths, strict=True)) / sum(x.size for x in chosen)


@pytest.mark.parametrize("seed", range(6))
@pytest.mark.parametrize("budget", [3, 3.3, 4.5, 5.01, 7.9])
def test_allocate_finds_what_brute_force_finds(seed, budget):
    chosen = items(seed)
    allocation = allocate(chosen, budget)
    best = min(
        sum(item.damages[width] for item, width in zip(chosen, widths, strict=True))
        for widths in itertools.product(WIDTHS, repeat=len(chosen))
        if mean_bits(chosen, widths) <= budget
    )
    widths = [allocation.site_bits[item.name] for item in chosen]
    assert allocation.predicted == pytest.approx(best)
    assert allocation.predicted == pytest.approx(sum(x.damages[w] for x, w in zip(chosen, widths, strict=True)))
    assert (
        allocation.mean_bits["weights"] == pytest.approx(mean_bits(chosen, widths))
        and mean_bits(chosen, widths) <= budget
    )


def test_the_budget_holds_for_weights_and_for_activations():
    both = items(0) + items(1, 7, "activations")
    allocation = allocate(both, 4.5)
    assert max(allocation.mean_bits.values()) <= 4.5 and set(allocation.site_bits) == {item.name for item in both}
    alone = [allocate(items(0), 4.5), allocate(items(1, 7, "activations"), 4.5)]
    assert allocation.predicted == pytest.approx(sum(part.predicted for part in alone))
    assert allocation.site_bits == {**alone[0].site_bits, **alone[1].site_bits}
    assert alone[0].mean_bits["activations"] == 32


@pytest.mark.parametrize("monotone", [True, False], ids=["falling damages", "noisy damages"])
def test_a_larger_budget_never_predicts_more(monotone):
    chosen = items(3, 12, monotone=monotone)
    predicted = [allocate(chosen, budget).predicted for budget in np.linspace(3, 8, 41)]
    assert all(later <= earlier for earlier, later in itertools.pairwise(predicted))
    assert predicted[0] == pytest.approx(sum(item.damages[3] for item in chosen))


@pytest.mark.parametrize("monotone", [True, False], ids=["falling damages", "noisy damages"])
def test_the_ends_of_the_budget(monotone):
    chosen = items(4, 9, monotone=monotone)
    assert set(allocate(chosen, 8).site_bits.values()) == {8}
    assert set(allocate(chosen, 3).site_bits.values()) == {3}


def test_a_budget_is_met_exactly_where_sizes_allow():
    chosen = [Item(name, (name,), "weights", 7, {4: 1.0, 8: 0.0}) for name in "abcd"]
    allocation = allocate(chosen, 5)
    assert allocation.mean_bits["weights"] == 5 and sorted(allocation.site_bits.values()) == [4, 4, 4, 8]
    assert allocation.predicted == 3
    # a budget that a float cannot hold: 4.4 * 70 is 308.00000000000006 or 307.99999999999994 of 308 bits
    tenths = [Item(str(place), (str(place),), "weights", 7, {4: 1.0, 8: 0.0}) for place in range(10)]
    assert allocate(tenths, 4.4).mean_bits["weights"] == pytest.approx(4.4)


def test_groups_share_a_width():
    group = Item("block", ("a", "b"), "weights", 10, {3: 1.0, 8: 0.0})
    other = Item("other", ("c",), "weights", 10, {3: 2.0, 8: 0.0})
    assert allocate([group, other], 5.5).site_bits == {"a": 3, "b": 3, "c": 8}


def test_a_thinned_frontier_stays_within_the_budget_and_near_the_best(monkeypatch):
    chosen = items(5, 20)
    exact = [allocate(chosen, budget) for budget in (3, 3.5, 4.5, 6, 8)]
    monkeypatch.setattr(module, "MOST_STATES", 200)
    for budget, best in zip((3, 3.5, 4.5, 6, 8), exact, strict=True):
        allocation = allocate(chosen, budget)
        assert allocation.mean_bits["weights"] <= budget
        assert (
            best.predicted <= allocation.predicted * (1 + 1e-12)
            and allocation.predicted <= 1.1 * best.predicted + 1e-12
        )


@pytest.mark.parametrize(
    ("budget", "widths", "message"),
    [
        (2.5, WIDTHS, "budget is 2.5 bits, the smallest width to choose from is 3 (of 3, 4, 6, 8); give a budget of at "
         "least 3, or smaller widths"),
        (float("nan"), (4, 8), "budget is nan bits, the smallest width to choose from is 4 (of 4, 8); give a budget of "
         "at least 4, or smaller widths"),
        (8.01, WIDTHS, "budget is 8.01 bits, the largest width to choose from is 8 (of 3, 4, 6, 8); give a budget of at "
         "most 8"),
        (float("inf"), (3, 4), "budget is inf bits, the largest width to choose from is 4 (of 3, 4); give a budget of at "
         "most 4, or larger widths"),
        (4, (), "the widths to choose from are none; give different ones of 2 to 8 bits, as in 3,4,6,8"),
        (4, (4, 4), "the widths to choose from are 4, 4; give different ones of 2 to 8 bits, as in 3,4,6,8"),
        (4, (4, 16), "the widths to choose from are 4, 16; give different ones of 2 to 8 bits, as in 3,4,6,8"),
    ],
    ids=["too small", "nan", "too large", "inf", "none", "twice", "too wide"],
)  # fmt: skip
def test_a_budget_that_cannot_be_met_is_refused(budget, widths, message):
    with pytest.raises(ValueError, match=f"^{re.escape(message)}$"):
        check_budget(budget, widths)


def test_nothing_to_choose_for_is_refused():
    message = "there is nothing to choose widths for: the plan rounds no site outside the recurrence"
    with pytest.raises(ValueError, match=f"^{re.escape(message)}$"):
        allocate([], 4)
