"""Classification: intervals are Wilson's, counting is exact, no sample sees another, and classes have to be the same."""

from __future__ import annotations

import logging
import re
from types import SimpleNamespace

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from ouro.tasks.classification import Classification, wilson
from ouro.types import ModelInfo
from tests.testing import assert_close

TASK = Classification()


def info(classes: int = 5, names: tuple[str, ...] = ()) -> ModelInfo:
    return ModelInfo("toy", "vim", (), None, (3, 8, 8), (0,), (1,), classes, names)


@pytest.mark.parametrize(
    ("right", "n", "low", "high"),
    [
        # Newcombe 1998, table I (score interval, method 3)
        (81, 263, 0.2553, 0.3662),
        (15, 148, 0.0624, 0.1605),
        (0, 20, 0.0, 0.1611),
        (1, 29, 0.0061, 0.1718),
    ],
)
def test_wilson_agrees_with_published_intervals(right, n, low, high):
    assert wilson(right, n) == pytest.approx((low, high), abs=5e-5)


def test_wilson_is_symmetric_and_inside_the_unit_interval():
    for n in (1, 7, 1000):
        for right in {0, 1, n // 2, n}:
            low, high = wilson(right, n)
            assert 0 <= low <= right / n <= high <= 1
            assert wilson(n - right, n) == pytest.approx((1 - high, 1 - low))


@pytest.mark.parametrize(("right", "n"), [(0, 0), (3, 2), (-1, 2)])
def test_wilson_refuses_what_is_no_proportion(right, n):
    with pytest.raises(ValueError, match=rf"^{right} of {n} is no proportion$"):
        wilson(right, n)


def test_score_of_outcomes():
    assert TASK.score(torch.tensor([True, False, True, True])) == {"n": 4, "top1": 0.75, "ci95": list(wilson(3, 4))}
    with pytest.raises(ValueError, match=r"^0 of 0 is no proportion$"):
        TASK.score(torch.zeros(0, dtype=torch.bool))


@given(st.lists(st.integers(1, 9), min_size=1, max_size=4), st.integers(0, 2**31))
def test_parts_are_scored_like_the_whole(sizes, seed):
    stream = torch.Generator().manual_seed(seed)
    logits, labels = torch.randn(sum(sizes), 4, generator=stream), torch.randint(4, (sum(sizes),), generator=stream)
    parts = zip(logits.split(sizes), labels.split(sizes), strict=True)
    joined = torch.cat([TASK.outcomes(x, y) for x, y in parts])
    assert TASK.score(joined) == TASK.score(TASK.outcomes(logits, labels))
    assert torch.equal(TASK.cat(logits.split(sizes)), logits)


@pytest.mark.parametrize("kind", ["cross_entropy", "mae"])
def test_no_sample_sees_another(kind):
    logits, labels = torch.randn(6, 4), torch.tensor([0, 1, 2, 3, 0, 1])
    whole = TASK.loss(logits, labels, kind)
    assert_close(torch.cat([TASK.loss(logits[i : i + 1], labels[i : i + 1], kind) for i in range(6)]), whole)
    other = torch.randn(6, 4)
    divergence = TASK.divergence(logits, other)
    assert_close(torch.cat([TASK.divergence(logits[i : i + 1], other[i : i + 1]) for i in range(6)]), divergence)


def test_equal_outputs_do_not_diverge_and_agree():
    logits = torch.randn(5, 4)
    assert torch.equal(TASK.divergence(logits, logits), torch.zeros(5, dtype=torch.float64))
    assert torch.equal(TASK.agreement(logits, 2 * logits), torch.ones(5, dtype=torch.float64))
    assert TASK.divergence(logits, -logits).min() > 0


def test_targets_have_every_class_once_per_round_wherever_they_begin():
    whole = TASK.draw(info(5), 0, 0, 20)
    assert [sorted(part.tolist()) for part in whole.split(5)] == 4 * [[0, 1, 2, 3, 4]]
    assert torch.equal(torch.cat([TASK.draw(info(5), 0, first, 3) for first in range(0, 18, 3)]), whole[:18])
    assert not torch.equal(whole, TASK.draw(info(5), 1, 0, 20))


def test_an_answer_has_a_name_where_there_are_names():
    logits = torch.tensor([0.0, 3.0])
    assert TASK.answer(logits, info(2))["predicted"] == 1
    assert TASK.answer(logits, info(2, ("cat", "dog")))["predicted"] == "dog"


def data(*classes: str, sorts: bool = True) -> SimpleNamespace:
    return SimpleNamespace(targets="labels", classes=classes, sorts_classes=sorts)


def test_classes_that_are_the_same_are_accepted():
    TASK.require(data("half disk", "Ring"), "folder:x", info(2, ("half_disk", "ring")))
    TASK.require(data("cat", "dog"), "folder:x", info(2))
    TASK.require(data("00", "01"), "folder:x", info(2, ("cat", "dog")))


@pytest.mark.parametrize(
    ("classes", "message"),
    [
        (("a", "b", "c"), "folder:x has 3 classes, toy has 2"),
        ((), "folder:x has no labels; accuracy needs a data set with one folder per class"),
        (("dog", "cat"), "folder:x has the classes of toy in another order: 'dog' where the model has 'cat'; take "),
        (("cat", "fox"), "folder:x has a class 'fox' where toy knows 'dog'; take its own data set, rename the folders"),
    ],
)
def test_other_classes_are_refused(classes, message):
    with pytest.raises(ValueError, match=f"^{re.escape(message)}"):
        TASK.require(data(*classes), "folder:x", info(2, ("cat", "dog")))


def test_names_that_are_numbers_count_where_the_models_are_numbers_too():
    names = ("0", "1", "10", "11", *map(str, range(2, 10)))
    TASK.require(data(*names), "folder:x", info(12, names))
    TASK.require(data("00", "01"), "folder:x", info(2, ("0", "1")))
    with pytest.raises(ValueError, match="in another order: '2' where the model has '10'"):
        TASK.require(data(*map(str, range(12))), "folder:x", info(12, names))
    with pytest.raises(ValueError, match="has a class '0' where toy knows '1'"):
        TASK.require(data("0", "1"), "folder:x", info(2, ("1", "2")))


@pytest.mark.parametrize("names", [(), tuple("abcdefghijkl")], ids=["no names", "words"])
def test_it_is_said_that_folders_of_numbers_may_be_sorted_otherwise(names, caplog):
    with caplog.at_level(logging.WARNING):
        TASK.require(data(*map(str, range(12)), sorts=False), "x", info(12, names))
        TASK.require(data(*map("{:02d}".format, range(12))), "folder:x", info(12, names))
        TASK.require(data(*"0123"), "folder:x", info(4, names[:4]))
        assert not caplog.records
        TASK.require(data(*map(str, range(12))), "folder:x", info(12, names))
    assert [record.getMessage() for record in caplog.records] == [
        "folder:x: from class 2 on folders are taken in the order 2, 3, 4 ...; torchvision's ImageFolder sorts them as text, "
        "10, 11, 2 ...: if toy learned that order, give it with --class-names"
    ]


def test_nan_is_never_an_answer():
    with pytest.raises(RuntimeError, match=r"^the model's logits are NaN for 1 of 2 images; is an input NaN\?$"):
        TASK.check(torch.tensor([[0.0, 1], [torch.nan, 0]]))


def test_an_unknown_loss_is_refused():
    with pytest.raises(ValueError, match="^unknown output loss 'mse'; known: cross_entropy, mae$"):
        TASK.loss(torch.zeros(1, 2), torch.zeros(1, dtype=torch.long), "mse")


@pytest.mark.parametrize(
    ("targets", "words"),
    [
        (torch.zeros(4, 1).long(), "targets are int64 (4, 1), expected classes as an int64 tensor (4,)"),
        (torch.zeros(1).long(), "targets are int64 (1,), expected classes as an int64 tensor (4,)"),
        (torch.zeros(4), "targets are float32 (4,), expected classes as an int64 tensor (4,)"),
        ([0, 1, 2, 0], "targets are a list, expected classes as an int64 tensor (4,)"),
        (torch.tensor([0, 1, 2, 3]), "a target has the class 3, the model has classes 0 to 2; "),
        (torch.tensor([0, 1, -1, 2]), "a target has the class -1, the model has classes 0 to 2; "),
    ],
)
def test_targets_that_are_no_classes_of_the_images_are_refused(targets, words) -> None:
    with pytest.raises(ValueError, match=f"^{re.escape(words)}"):
        TASK.outcomes(torch.randn(4, 3), targets)


def test_a_model_without_classes_has_none_to_draw() -> None:
    with pytest.raises(ValueError, match="^toy has no classes to make images for; take a model with its head$"):
        TASK.draw(info(0), 0, 0, 2)
