"""Segmentation: mIoU by hand, no sample sees another, ignored pixels count nowhere, layouts are pure functions."""

from __future__ import annotations

import math
from types import SimpleNamespace

import pytest
import torch
from torch.nn import functional as F

from ouro.data import IGNORED
from ouro.tasks.resample import weights
from ouro.tasks.segmentation import Segmentation
from ouro.types import Batch, ModelInfo

TASK = Segmentation()


def info(classes=4, names=("background", "a", "b", "c"), size=(12, 16)) -> ModelInfo:
    return ModelInfo("toy", "vmamba", (), None, (3, *size), (0,), (1,), classes, names, task="segmentation")


def drawn(count=6, classes=4, size=(9, 7), seed=0):
    stream = torch.Generator().manual_seed(seed)
    logits = torch.randn(count, classes, *size, generator=stream)
    truth = torch.randint(classes - 1, (count, *size), generator=stream)
    truth[torch.rand(count, *size, generator=stream) < 0.1] = IGNORED
    return logits, truth


def by_hand(logits, truth):
    """mIoU with nothing but loops."""
    both, union = {}, {}
    for image in range(len(truth)):
        for row in range(truth.shape[1]):
            for column in range(truth.shape[2]):
                wanted = truth[image, row, column].item()
                given = logits[image, :, row, column].argmax().item()
                if wanted == IGNORED:
                    continue
                for one in {wanted, given}:
                    union[one] = union.get(one, 0) + 1
                if wanted == given:
                    both[wanted] = both.get(wanted, 0) + 1
    return {one: both.get(one, 0) / union[one] for one in union}


def test_miou_is_that_of_loops() -> None:
    logits, truth = drawn()
    score = TASK.score(TASK.outcomes(logits, truth))
    wanted = by_hand(logits, truth)
    assert score["n"] == 6 and score["miou"] == pytest.approx(sum(wanted.values()) / len(wanted))
    for one, share in wanted.items():
        assert score["per_class"][one] == pytest.approx(share)
    assert TASK.primary(TASK.outcomes(logits, truth)) == score["miou"]
    assert score["ci95"][0] < score["miou"] < score["ci95"][1]


def test_a_class_that_is_nowhere_does_not_count() -> None:
    truth = torch.zeros(2, 4, 4, dtype=torch.int64)
    logits = F.one_hot(truth, 3).permute(0, 3, 1, 2).float()
    score = TASK.score(TASK.outcomes(logits, truth))
    assert score["per_class"] == [1.0, None, None] and score["miou"] == 1.0 and score["pixel_accuracy"] == 1.0


def test_ignored_pixels_count_nowhere() -> None:
    logits, truth = drawn()
    changed = torch.where((truth == IGNORED)[:, None], -logits, logits)
    assert torch.equal(TASK.outcomes(changed, truth), TASK.outcomes(logits, truth))
    for kind in ("cross_entropy", "mae"):
        assert torch.allclose(TASK.loss(changed, truth, kind), TASK.loss(logits, truth, kind))


@pytest.mark.parametrize("kind", ["cross_entropy", "mae"])
def test_no_image_sees_another(kind) -> None:
    logits, truth = drawn()
    whole = (
        TASK.loss(logits, truth, kind), TASK.divergence(logits, logits.flip(0)), TASK.agreement(logits, logits.flip(0)),
        TASK.outcomes(logits, truth),
    )  # fmt: skip
    for image in range(6):
        one = slice(image, image + 1)
        alone = (
            TASK.loss(logits[one], truth[one], kind), TASK.divergence(logits[one], logits.flip(0)[one]),
            TASK.agreement(logits[one], logits.flip(0)[one]), TASK.outcomes(logits[one], truth[one]),
        )  # fmt: skip
        for many, single in zip(whole, alone, strict=True):
            assert torch.allclose(many[one].double(), single.double())


def test_every_class_of_a_layout_counts_the_same() -> None:
    truth = torch.zeros(1, 8, 8, dtype=torch.int64)
    truth[0, 0, 0] = 2
    logits = torch.randn(1, 3, 8, 8, generator=torch.Generator().manual_seed(0))
    losses = F.cross_entropy(logits, truth, reduction="none")[0]
    wanted = (losses[truth[0] == 0].mean() + losses[0, 0]) / 2
    assert TASK.loss(logits, truth).item() == pytest.approx(wanted.item(), rel=1e-5)


def test_divergence_is_zero_for_equals_and_positive_else() -> None:
    logits, _ = drawn()
    assert TASK.divergence(logits, logits).abs().max() < 1e-12
    assert (TASK.divergence(logits, logits.flip(0)) > 0).all()
    assert TASK.agreement(logits, logits).tolist() == [1.0] * 6


def test_layouts_are_functions_of_seed_and_number() -> None:
    many = TASK.draw(info(), 3, 2, 5)
    assert many.shape == (5, 12, 16) and many.dtype == torch.int64
    assert torch.equal(many[2], TASK.draw(info(), 3, 4, 1)[0])
    assert not torch.equal(many, TASK.draw(info(), 4, 2, 5))
    kinds = TASK.draw(info(size=(96, 96)), 0, 0, 60).flatten(1)
    assert set(kinds.unique().tolist()) == {0, 1, 2, 3}
    # a ground where the classes say so, else any class is one
    assert ((kinds == 0).any(1)).all()
    assert (TASK.draw(info(names=()), 0, 0, 20).flatten(1)[:, 0].unique()).numel() > 1


def test_resamples_are_the_scores_of_drawn_images() -> None:
    logits, truth = drawn(9)
    outcomes = TASK.outcomes(logits, truth)
    counts, scores = weights(9), TASK.resampled(outcomes)
    for number in (0, 7, 211):
        chosen = torch.repeat_interleave(torch.arange(9), counts[number].long())
        assert scores[number].item() == pytest.approx(TASK.primary(outcomes[chosen]))


def test_training_loss_counts_both_heads() -> None:
    logits, truth = drawn()
    others = logits.flip(1)
    model = SimpleNamespace(learning=lambda images: (logits, others))
    loss, outputs = TASK.teach(model, Batch(torch.zeros(6, 3, 9, 7), truth), 0.0)
    parts = [
        0.5 * F.cross_entropy(x, truth, ignore_index=IGNORED) + 0.5 * TASK.loss(x, truth).mean()
        for x in (logits, others)
    ]
    assert loss.item() == pytest.approx((parts[0] + 0.4 * parts[1]).item()) and outputs is not None
    alone, _ = TASK.teach(SimpleNamespace(learning=lambda images: (logits, None)), Batch(torch.zeros(1), truth), 0.0)
    assert alone.item() == pytest.approx(parts[0].item())


def test_answers_are_shares_of_the_image() -> None:
    truth = torch.tensor([[0, 0, 0, 2]])
    logits = F.one_hot(truth, 4).permute(2, 0, 1).float()
    assert TASK.answer(logits, info()) == {"classes": {"background": 0.75, "b": 0.25}}
    assert list(TASK.answer(logits, info(names=()))["classes"]) == ["0", "2"]


def test_what_does_not_fit_is_refused() -> None:
    with pytest.raises(
        ValueError,
        match="scenes has one class per image, toy is for segmentation and needs a class for every "
        "pixel; take one of scenes_seg, masks, ade20k",
    ):
        TASK.require(SimpleNamespace(targets="labels", classes=("a",)), "scenes", info())
    with pytest.raises(ValueError, match="x has 2 classes, toy has 4"):
        TASK.require(SimpleNamespace(targets="segments", classes=("a", "b")), "x", info())
    with pytest.raises(
        ValueError, match="these images have no masks; mIoU needs a data set with a class for every pixel"
    ):
        TASK.outcomes(drawn()[0], None)
    with pytest.raises(ValueError, match="unknown output loss 'dice'; known: cross_entropy, mae"):
        TASK.loss(*drawn(), "dice")
    with pytest.raises(ValueError, match="no image to score"):
        TASK.score(torch.zeros(0, 4, 3))
    with pytest.raises(ValueError, match="none of the 2 images has a pixel whose class is known, so there is no mIoU"):
        TASK.score(torch.zeros(2, 4, 3))
    assert not math.isnan(TASK.primary(TASK.outcomes(*drawn())))


@pytest.mark.parametrize(
    ("change", "words"),
    [
        (lambda truth: truth[:, None], r"targets are int64 \(\d+, 1, \d+, \d+\), expected maps of classes as an int64"),
        (lambda truth: truth[:, ::2], "targets are int64 .* expected maps of classes as an int64 tensor"),
        (lambda truth: torch.full_like(truth, 200), "a target has the class 200, the model has classes 0 to "),
        (lambda truth: torch.full_like(truth, -1), "a target has the class -1, the model has classes 0 to "),
    ],
)
def test_maps_that_are_none_of_the_images_are_refused(change, words) -> None:
    """A class that the model does not have would be counted as one of the image before or behind."""
    logits, truth = drawn()
    with pytest.raises(ValueError, match=f"^{words}"):
        TASK.outcomes(logits, change(truth))
