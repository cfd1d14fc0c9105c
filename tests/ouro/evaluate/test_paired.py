"""Intervals over images and seeds: what they cover, what they reduce to, and that outcomes survive being written."""

from __future__ import annotations

import pytest
import torch

from ouro.evaluate.paired import (
    between,
    difference,
    interval,
    kept,
    packed,
    resampled_difference,
    resampled_interval,
    student,
    unpacked,
)


@pytest.mark.parametrize("n", [1, 7, 8, 9, 250, 2000])
def test_outcomes_come_back_from_their_text(n) -> None:
    right = torch.rand(n, generator=torch.Generator().manual_seed(n)) < 0.7
    text = packed(right)
    assert len(text) == 2 * -(-n // 8) and torch.equal(unpacked(text, n), right)


def test_what_was_kept_is_compared_as_it_was() -> None:
    sides = [torch.rand(40, generator=torch.Generator().manual_seed(seed)) < 0.7 for seed in (1, 2)]
    cells = [[{"n": 40, **kept(side, torch.clone)}] for side in sides]
    assert between(*cells, "top1") == difference([sides[0]], [sides[1]])
    scores = [torch.tensor([0.5, 0.6, 0.7]), torch.tensor([0.51, 0.58, 0.64])]
    cells = [[{"miou": score, **kept(each, torch.clone)}] for score, each in zip((0.6, 0.58), scores, strict=True)]
    wanted = resampled_difference([scores[0]], [scores[1]], (0.6, 0.58))
    assert between(*cells, "miou")["ci95"] == pytest.approx(wanted["ci95"], abs=1e-5)
    # of a distance the smaller one is ahead
    swapped = [[{**cell, "frechet": cell["miou"]} for cell in side] for side in cells]
    assert between(*swapped, "frechet")["difference"] == pytest.approx(-0.02)


def test_text_of_another_length_is_refused() -> None:
    assert packed(torch.tensor([True, False, False, True])) == "90"
    with pytest.raises(ValueError, match="4 letters are no outcomes of 20 images, which take 6"):
        unpacked("90ff", 20)


def test_one_seed_has_the_interval_of_a_mean() -> None:
    values = torch.tensor([[0.0, 1.0, 1.0, 1.0]])
    mean, low, high = interval(values)
    half = 3.182 * values.std().item() / 2
    assert mean == 0.75 and (low, high) == pytest.approx((0.75 - half, 0.75 + half), abs=1e-3)


def test_where_images_agree_the_seeds_decide() -> None:
    # every image has what its seed has: mean 0.2, standard error of three seeds 0.1 / sqrt(3)
    values = torch.tensor([0.1, 0.2, 0.3])[:, None].expand(3, 50)
    mean, low, high = interval(values)
    half = 4.303 * 0.1 / 3**0.5
    assert mean == pytest.approx(0.2) and (low, high) == pytest.approx((0.2 - half, 0.2 + half), abs=1e-3)


def test_an_interval_covers_as_often_as_it_says() -> None:
    draw = torch.Generator().manual_seed(0)
    held = 0
    for _ in range(400):
        seeds, images = torch.randn(3, 1, generator=draw), 3 * torch.randn(1, 60, generator=draw)
        low, high = interval(seeds + images + 5 * torch.randn(3, 60, generator=draw))[1:]
        held += low <= 0 <= high
    # 95 % of 400 are 380, with a deviation of 4.4; these intervals are on the safe side
    assert held >= 367


def test_a_difference_is_of_the_same_images() -> None:
    draw = torch.Generator().manual_seed(1)
    worse = [torch.rand(1000, generator=draw) < 0.8 for _ in range(3)]
    # whatever the worse side has right the better one has too, and 30 more
    better = [one.clone() for one in worse]
    for one in better:
        one[(~one).nonzero()[:30]] = True
    result = difference(better, worse)
    assert result["difference"] == pytest.approx(0.03) and (result["won"], result["lost"]) == (90, 0)
    assert result["seen"] == "yes" and difference(worse, better)["seen"] == "no"
    # unpaired, two means of 1000 images 3 points apart are within each other's intervals
    assert interval(torch.stack(better))[1] < interval(torch.stack(worse))[2]
    same = difference(worse, worse)
    assert (same["difference"], same["ci95"], same["seen"]) == (0, [0, 0], "not resolved")


def test_what_is_no_pair_is_refused() -> None:
    right = torch.ones(10, dtype=torch.bool)
    for better, worse, told in (
        ([right, right], [right], r"\(10,\), \(10,\) and of \(10,\)"),
        ([right, right[:9]], [right, right[:9]], r"\(10,\), \(9,\) and of \(10,\), \(9,\)"),
        ([right[0]], [right[0]], r"\(\) and of \(\)"),
        ([], [], "no seed and of no seed"),
    ):
        with pytest.raises(ValueError, match=f"^outcomes of {told} are no pairs; give both as many seeds"):
            difference(better, worse)
    with pytest.raises(ValueError, match="1 image has no interval; take two or more"):
        interval(torch.ones(3, 1))


def test_student_is_wider_for_fewer() -> None:
    assert student(4) == pytest.approx(2.776, abs=1e-3) and student(2) == pytest.approx(4.303, abs=1e-3)


def test_resampled_scores_have_the_interval_of_their_spread() -> None:
    scores = 0.6 + 0.02 * torch.randn(4000, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    value, low, high = resampled_interval([scores], 0.61)
    assert value == 0.61 and (low + high) / 2 == pytest.approx(0.61)
    assert (high - low) / 2 == pytest.approx(1.96 * scores.std().item(), rel=1e-3)
    # seeds that agree on every resample add nothing, seeds that do not add what they differ by
    same = resampled_interval([scores, scores], 0.61)
    apart = resampled_interval([scores - 0.05, scores + 0.05], 0.61)
    assert same[2] - same[1] == pytest.approx(high - low, rel=1e-2)
    assert apart[2] - apart[1] > 5 * (high - low)
    assert resampled_interval([torch.full((10,), 0.5)] * 2, 0.5) == (0.5, 0.5, 0.5)


def test_a_resampled_difference_is_that_of_the_same_images() -> None:
    stream = torch.Generator().manual_seed(1)
    images = 0.1 * torch.randn(500, generator=stream)
    better, worse = 0.7 + images, 0.68 + images + 0.001 * torch.randn(500, generator=stream)
    gap = resampled_difference([better], [worse], (0.7, 0.68))
    assert gap["seen"] == "yes" and gap["difference"] == pytest.approx(0.02) and gap["ci95"][0] > 0.015
    # of a distance the smaller one is ahead
    turned = resampled_difference([better], [worse], (0.7, 0.68), larger_is_better=False)
    assert turned["seen"] == "no" and turned["difference"] == pytest.approx(-0.02)
    with pytest.raises(ValueError, match="scores of 1 and of 2 seeds are no pairs"):
        resampled_difference([better], [worse, worse], (0.7, 0.68))
