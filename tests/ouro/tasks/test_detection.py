"""Detection: precision as pycocotools has it, suppression by hand, no sample sees another, losses as torchvision's."""

from __future__ import annotations

import contextlib
import io
import re
from types import SimpleNamespace

import pytest
import torch
from torchvision.models.detection._utils import BoxCoder
from torchvision.models.detection.retinanet import RetinaNet
from torchvision.ops import box_iou, nms

from ouro.data import load
from ouro.models import create_model
from ouro.tasks.detection import KEPT, Detection, detections
from ouro.tasks.precision import KINDS, _as_coco, average_precision, matches
from ouro.tasks.resample import weights
from ouro.types import Batch, ModelInfo
from tests.zoo import inputs, small

TASK = Detection()


def info(classes=12, names=()) -> ModelInfo:
    return ModelInfo("toy", "vmamba", (), None, (3, 96, 96), (0,), (1,), classes, names, task="detection")


def judged(count=40, seed=0, crowd=True) -> torch.Tensor:
    """Rows of scenes with made-up detections: near boxes, wrong classes, doubles, none."""
    stream = torch.Generator().manual_seed(seed)
    _, truth = load("scenes_det").images(0, count)
    rows = torch.full((count, 4 + KEPT, 7), float(KINDS["nothing"]))
    for image, objects in enumerate(truth):
        there = objects[:, 4] >= 0
        rows[image, :4, :5], rows[image, :4, 5] = objects[:, :5], 0.0
        rows[image, :4, 6] = torch.where(there, 0.0, -1.0)
        if crowd and image % 7 == 0:
            rows[image, 0, 6] = 1.0
        place = 4
        for one in objects[there]:
            for _ in range(int(torch.randint(0, 4, (), generator=stream))):
                label = one[4] if torch.rand((), generator=stream) < 0.8 else torch.randint(12, (), generator=stream)
                rows[image, place, :4] = one[:4] + 3 * torch.randn(4, generator=stream)
                rows[image, place, 4:] = torch.tensor([float(label), float(torch.rand((), generator=stream)), 2.0])
                place += 1
    return rows


def by_pycocotools(rows) -> list[float]:
    """AP, AP50, AP75 by pycocotools alone, its accumulation and summary included."""
    from pycocotools.cocoeval import COCOeval

    with contextlib.redirect_stdout(io.StringIO()):
        judge = COCOeval(*_as_coco(rows, 12), "bbox")
        judge.evaluate()
        judge.accumulate()
        judge.summarize()
    return judge.stats[:3].tolist()


@pytest.mark.parametrize("seed", range(4))
def test_precision_is_that_of_pycocotools(seed) -> None:
    rows = judged(seed=seed)
    score = TASK.score(rows)
    assert [score["ap"], score["ap50"], score["ap75"]] == pytest.approx(by_pycocotools(rows), abs=1e-9)
    assert TASK.primary(rows) == score["ap"] and score["ci95"][0] < score["ap"] < score["ci95"][1]


def test_resamples_are_the_scores_of_drawn_images() -> None:
    rows = judged(12)
    counts, scores = weights(12), TASK.resampled(rows)
    for number in (0, 3, 77):
        chosen = torch.repeat_interleave(torch.arange(12), counts[number].long())
        assert scores[number].item() == pytest.approx(by_pycocotools(rows[chosen])[0], abs=1e-9)


def test_perfect_answers_and_none() -> None:
    rows = judged(10, crowd=False)
    rows[:, 4:] = float(KINDS["nothing"])
    assert TASK.primary(rows) == 0.0
    for image in rows:
        there = image[:, 6] == 0
        count = int(there.sum())
        image[4 : 4 + count] = image[there]
        image[4 : 4 + count, 5], image[4 : 4 + count, 6] = 0.9, 2.0
    score = TASK.score(rows)
    assert score["ap"] == score["ap50"] == 1.0 and score["ci95"] == [1.0, 1.0]


def test_a_class_without_an_object_does_not_count() -> None:
    rows = judged(10)
    rows[:, :, 4] += (rows[:, :, 6] >= 0) * 3.0
    each = torch.stack([average_precision(one, torch.ones(1, 10).double())[0] for one in matches(rows)])
    assert each[:3].isnan().all() and TASK.score(rows)["per_class"][:3] == [None] * 3


def test_images_without_objects_have_no_precision_and_hide_none() -> None:
    rows = judged(10, crowd=False)
    rows[1:, :4, 6] = float(KINDS["nothing"])
    # many resamples have no object, and every score is a number
    scores = TASK.resampled(rows)
    assert (weights(10)[:, 0] == 0).sum() > 100 and scores.isfinite().all()
    assert (scores[weights(10)[:, 0] == 0] == TASK.primary(rows)).all()
    rows[0, :4, 6] = float(KINDS["nothing"])
    for ask in (TASK.score, TASK.primary, TASK.resampled):
        with pytest.raises(ValueError, match="none of the 10 images has an object, so there is no average precision"):
            ask(rows)


def suppressed(boxes, scores, threshold):
    """Non-maximum suppression with nothing but loops."""
    left, kept = scores.argsort(descending=True, stable=True).tolist(), []
    while left:
        best = left.pop(0)
        kept.append(best)
        left = [place for place in left if box_iou(boxes[best, None], boxes[place, None]).item() <= threshold]
    return kept


@pytest.mark.parametrize("count", [0, 1, 2, 57])
@pytest.mark.parametrize("threshold", [0.0, 0.3, 0.5, 1.0])
def test_suppression_is_that_of_loops(count, threshold) -> None:
    stream = torch.Generator().manual_seed(count)
    corners = 20 * torch.rand(count, 2, generator=stream)
    boxes = torch.cat([corners, corners + 15 * torch.rand(count, 2, generator=stream)], dim=1)
    scores = torch.rand(count, generator=stream)
    assert nms(boxes, scores, threshold).tolist() == suppressed(boxes, scores, threshold)


def test_detections_are_the_best_that_do_not_overlap() -> None:
    candidates = torch.full((4, 8 + 2), -9.0)
    candidates[:, 4:8] = torch.tensor([[0, 0, 10, 10], [1, 0, 11, 10], [0, 0, 10, 10], [40, 40, 50, 60]]).float()
    candidates[0, 8], candidates[1, 8], candidates[2, 9], candidates[3, 9] = 2.0, 1.0, 0.0, -1.0
    found = detections(candidates)
    assert found[:, 4].tolist() == [0.0, 1.0, 1.0]
    assert found[:, 5].tolist() == pytest.approx(torch.tensor([2.0, 0.0, -1.0]).sigmoid().tolist())
    assert len(detections(torch.full((4, 10), -9.0))) == 0


@pytest.fixture(scope="module")
def model():
    return create_model("vmamba_nano_det")


def test_the_loss_is_torchvisions(model) -> None:
    """RetinaNet's own loss on the same logits, boxes and anchors, image by image."""
    with torch.no_grad():
        outputs = model.train()(inputs(model, 3))
    model.eval()
    _, rows = load("scenes_det").images(0, 3)
    for image in range(3):
        boxes = rows[image][rows[image, :, 4] >= 0]
        targets = [{"boxes": boxes[:, :4], "labels": boxes[:, 4].long()}]
        anchors = outputs[image, :, :4]
        head = model.head
        head.regression_head._loss_type = "giou"
        offsets = BoxCoder((1.0, 1.0, 1.0, 1.0)).encode_single(outputs[image, :, 4:8], anchors)
        found = {"cls_logits": outputs[image : image + 1, :, 8:], "bbox_regression": offsets[None]}
        net = SimpleNamespace(
            proposal_matcher=RetinaNet.__init__.__globals__["det_utils"].Matcher(0.5, 0.4, allow_low_quality_matches=True),
            head=head,
        )  # fmt: skip
        wanted = sum(RetinaNet.compute_loss(net, targets, found, [anchors]).values())
        assert TASK.loss(outputs[image : image + 1], rows[image : image + 1]).item() == pytest.approx(
            wanted.item(), rel=1e-4
        )


def test_an_image_without_objects_has_a_loss() -> None:
    outputs = torch.zeros(1, 5, 8 + 3)
    nothing = torch.zeros(1, 2, 6)
    nothing[:, :, 4] = -1
    assert TASK.loss(outputs, nothing).item() > 0
    crowd = nothing.clone()
    crowd[0, 0] = torch.tensor([0, 0, 5, 5, 1, 1.0])
    assert torch.equal(TASK.loss(outputs, crowd), TASK.loss(outputs, nothing))


def test_no_image_sees_another(model) -> None:
    with torch.no_grad():
        outputs = model(inputs(model, 3))
    others, (_, rows) = outputs.flip(0), load("scenes_det").images(0, 3)
    whole = (
        TASK.loss(outputs, rows),
        TASK.divergence(outputs, others),
        TASK.agreement(outputs, others),
        TASK.outcomes(outputs, rows),
    )
    for image in range(3):
        one = slice(image, image + 1)
        alone = (
            TASK.loss(outputs[one], rows[one]), TASK.divergence(outputs[one], others[one]),
            TASK.agreement(outputs[one], others[one]), TASK.outcomes(outputs[one], rows[one]),
        )  # fmt: skip
        for many, single in zip(whole, alone, strict=True):
            assert torch.allclose(many[one].double(), single.double(), rtol=1e-5)
    assert (
        TASK.divergence(outputs, outputs).abs().max() < 1e-9 and TASK.agreement(outputs, outputs).tolist() == [1.0] * 3
    )


def test_drawn_boxes_lie_inside_and_are_functions_of_seed_and_number() -> None:
    rows = TASK.draw(info(), 5, 3, 6)
    assert rows.shape == (6, 4, 6) and torch.equal(rows[2], TASK.draw(info(), 5, 5, 1)[0])
    there = rows[rows[:, :, 4] >= 0]
    assert (there[:, :2] >= 0).all() and (there[:, 2:4] <= 96).all() and (there[:, 2:4] > there[:, :2]).all()


def test_answers_are_for_people() -> None:
    candidates = torch.full((1, 10), -9.0)
    candidates[0, 4:8], candidates[0, 9] = torch.tensor([1.0, 2.0, 3.0, 4.0]), 3.0
    (found,) = TASK.answer(candidates, info(2, ("cat", "dog")))["objects"]
    assert (
        found["class"] == "dog"
        and found["box"] == [1.0, 2.0, 3.0, 4.0]
        and found["score"] == pytest.approx(0.9526, abs=1e-4)
    )


def test_training_takes_the_mean_of_the_images(model) -> None:
    images, (_, rows) = inputs(model, 2), load("scenes_det").images(0, 2)
    loss, outputs = TASK.teach(model, Batch(images, rows), 0.0)
    assert loss.item() == pytest.approx(TASK.loss(outputs, rows).mean().item()) and not outputs.requires_grad


def test_boxes_keep_inside_unless_in_training() -> None:
    model = small("vmamba_nano_det")
    with torch.no_grad():
        for conv in (model.head.regression_head.bbox_reg,):
            conv.bias.fill_(1.0)
        inside, free = model(inputs(model)), model.train()(inputs(model))
    assert inside[:, :, 4:8].min() >= 0 and inside[:, :, 4:8].max() <= 24
    assert free[:, :, 4:8].min() < 0 and free[:, :, 4:8].max() > 24


def test_what_does_not_fit_is_refused() -> None:
    with pytest.raises(ValueError, match="needs boxes of objects; take one of scenes_det, coco"):
        TASK.require(SimpleNamespace(targets="segments", classes=("a",)), "scenes_seg", info())
    with pytest.raises(ValueError, match="these images have no boxes; average precision needs a data set with boxes"):
        TASK.outcomes(torch.zeros(1, 2, 10), None)
    with pytest.raises(ValueError, match="unknown output loss 'l1'; known: cross_entropy, mae"):
        TASK.loss(torch.zeros(1, 2, 10), torch.zeros(1, 1, 6), "l1")
    with pytest.raises(ValueError, match="no image to score"):
        TASK.score(torch.zeros(0, 5, 7))


@pytest.mark.parametrize(
    ("targets", "words"),
    [
        (
            torch.zeros(2, 3, 5),
            "targets are float32 (2, 3, 5), expected rows of x0, y0, x1, y1, class, crowd for every",
        ),
        (torch.zeros(3, 6), "targets are float32 (3, 6), expected rows of "),
        (torch.full((2, 1, 6), 2.0), "a target has the class 2, the model has classes 0 to 1; "),
    ],
)
def test_targets_that_are_no_boxes_of_the_images_are_refused(targets, words) -> None:
    with pytest.raises(ValueError, match=f"^{re.escape(words)}"):
        TASK.outcomes(torch.zeros(2, 2, 10), targets)
