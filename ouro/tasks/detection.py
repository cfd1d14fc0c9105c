"""Detection: candidates [b a 8+k] (see `ouro.models.dense.Detector`), boxes with a class, COCO's average precision."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from ouro._torchvision_ops import declare_missing_ops
from ouro.data import Dataset
from ouro.data.boxes import padded, present
from ouro.streams import stream
from ouro.tasks import Task
from ouro.tasks.fitting import check_boxes, require_classes, require_targets
from ouro.tasks.precision import KINDS, THRESHOLDS, Matches, average_precision, matches
from ouro.tasks.resample import interval, weights
from ouro.types import Batch, ModelInfo

declare_missing_ops()

from torchvision.models.detection._utils import Matcher  # noqa: E402
from torchvision.ops import batched_nms, box_iou, generalized_box_iou_loss, sigmoid_focal_loss  # noqa: E402

LEAST_SCORE, OVERLAP, CONSIDERED, KEPT = 0.05, 0.5, 1000, 100
"""What is a detection: score at least, overlap with a better one of its class at most; the best 1000 candidates are
looked at, the best 100 of what is left are kept. torchvision's defaults."""
SHOWN = 0.3
"""Score from which a detection is one for people, and for `agreement`."""
_BOXES = 3
"""Purpose of the stream that draws boxes for synthetic images."""


class Detection(Task):
    """Objects with box and class. L_O of synthetic images is the training loss on drawn boxes, our reading of the paper."""

    name = "detection"
    metric = "ap"
    targets = "boxes"
    quick = False

    def tensor(self, outputs: Tensor) -> Tensor:
        # anchors are the same in every model
        return outputs[:, :, 4:]

    def answer(self, output: Tensor, info: ModelInfo) -> dict[str, Any]:
        """{objects: [{class, score, box}]} of candidates [a 8+k], the surest first."""
        names = info.class_names or tuple(map(str, range(info.num_classes)))
        rows = [row for row in detections(output).tolist() if row[5] >= SHOWN]
        return {"objects": [{"class": names[int(row[4])], "score": row[5], "box": row[:4]} for row in rows]}

    def shown(self, outputs: Tensor) -> Tensor:
        """Detections from score 0.3 on, the surest first: rows [b m 6] of x0, y0, x1, y1, class, score; -1 is no class."""
        rows = [detections(output) for output in outputs]
        kept = [one[one[:, 5] >= SHOWN].tolist() for one in rows]
        return padded(kept, max(map(len, kept), default=0))

    def told(self, target: Tensor, info: ModelInfo) -> dict[str, Any]:
        """{objects: [{class, box}]} of rows [m 6]."""
        names = info.class_names or tuple(map(str, range(info.num_classes)))
        return {"objects": [{"class": names[int(row[4])], "box": row[:4]} for row in present(target).tolist()]}

    def require(self, dataset: Dataset, source: str, info: ModelInfo) -> None:
        require_targets(dataset, source, info, self.targets)
        require_classes(dataset, source, info)

    def draw(self, info: ModelInfo, seed: int, first: int, count: int) -> Tensor:
        """One to four boxes of drawn classes, a fifth to a half of the side wide: rows [count 4 6]."""
        return padded([_drawn(info, seed, index) for index in range(first, first + count)], 4)

    def teach(self, model: nn.Module, batch: Batch, smoothing: float) -> tuple[Tensor, Tensor]:
        """Mean of the images' losses, see `loss`."""
        outputs = model(batch.inputs)
        return self.loss(outputs, batch.labels).mean(), outputs.detach()

    def note(self, outputs: Tensor, batch: Batch) -> dict[str, float]:
        """Nothing: precision of a handful of images says nothing."""
        return {}

    def loss(self, outputs: Tensor, targets: Tensor, kind: str = "cross_entropy") -> Tensor:
        """Focal loss of the classes and generalized IoU loss of the boxes, per matched anchor, [b]; RetinaNet's.

        "mae" puts the absolute error of the class probabilities in the focal loss's place.
        """
        if kind not in ("cross_entropy", "mae"):
            raise ValueError(f"unknown output loss {kind!r}; known: cross_entropy, mae")
        return torch.stack([_loss(one, rows, kind) for one, rows in zip(outputs, targets, strict=True)])

    def divergence(self, exact: Tensor, rounded: Tensor) -> Tensor:
        """KL of the class probabilities, plus 1 - IoU of the boxes times the exact best probability; summed over candidates."""
        exact, rounded = exact.double(), rounded.double()
        classes = _bernoulli(exact[:, :, 8:], rounded[:, :, 8:]).sum(2)
        best = exact[:, :, 8:].sigmoid().amax(2)
        return (classes + best * (1 - _overlap(exact[:, :, 4:8], rounded[:, :, 4:8]))).sum(1)

    def agreement(self, exact: Tensor, rounded: Tensor) -> Tensor:
        """Share of the detections from score 0.3 on of both that have a partner: same class, overlap of a half."""
        return torch.tensor([_agree(one, other) for one, other in zip(exact, rounded, strict=True)]).double()

    def outcomes(self, outputs: Tensor, targets: Tensor | None) -> Tensor:
        """Objects and detections as rows [b m+100 7] of `ouro.tasks.precision`, on the CPU."""
        if targets is None:
            raise ValueError("these images have no boxes; average precision needs a data set with boxes")
        check_boxes(targets, len(outputs), outputs.shape[2] - 8)
        return torch.stack([_judged(one, rows) for one, rows in zip(outputs.cpu(), targets.cpu(), strict=True)])

    def score(self, outcomes: Tensor) -> dict[str, Any]:
        """{n, ap, ci95, ap50, ap75, per_class}: AP is the mean over overlaps from 0.5 to 0.95 and over classes.

        per_class: None for a class without an object. The interval is that of AP on resampled images.

        Raises:
            ValueError: no image has an object.
        """
        found = _matched(outcomes)
        each = _whole(found, len(outcomes))
        per_class = [None if math.isnan(x) else x for x in each.mean(1).tolist()]
        return {
            "n": len(outcomes), "ap": each.nanmean().item(), "ci95": interval(_resampled(found, len(outcomes))),
            "ap50": each[:, 0].nanmean().item(), "ap75": each[:, THRESHOLDS.index(0.75)].nanmean().item(),
            "per_class": per_class,
        }  # fmt: skip

    def primary(self, outcomes: Tensor) -> float:
        return _whole(_matched(outcomes), len(outcomes)).nanmean().item()

    def resampled(self, outcomes: Tensor) -> Tensor:
        """AP of resamples of the images."""
        return _resampled(_matched(outcomes), len(outcomes))


def _matched(outcomes: Tensor) -> list[Matches]:
    """What was found of every class.

    Raises:
        ValueError: no image has an object, so there is nothing to find.
    """
    if len(outcomes) and not (outcomes[:, :, 6] == KINDS["object"]).any():
        raise ValueError(
            f"none of the {len(outcomes)} images has an object, so there is no average precision; take others"
        )
    return matches(outcomes)


def _per_class(found: Sequence[Matches], counts: Tensor) -> Tensor:
    """AP [r k t] when images count so often [r n]."""
    return torch.stack([average_precision(one, counts) for one in found], dim=1)


def _whole(found: Sequence[Matches], n: int) -> Tensor:
    """AP of n images as they are [k t]."""
    return _per_class(found, torch.ones(1, n).double())[0]


def _resampled(found: Sequence[Matches], n: int) -> Tensor:
    """AP of resamples of n images [r]; one without any object says nothing, and counts as the images as they are."""
    drawn = _per_class(found, weights(n)).mean(2).nanmean(1)
    return torch.where(drawn.isnan(), _whole(found, n).mean(1).nanmean(), drawn)


def detections(candidates: Tensor) -> Tensor:
    """Candidates of one image [a 8+k] -> detections [d 6]: x0, y0, x1, y1, class, score; the surest first."""
    scores, classes = candidates[:, 8:].sigmoid(), candidates.shape[1] - 8
    flat = scores.flatten()
    chosen = flat.topk(min(CONSIDERED, len(flat)))
    places = chosen.indices[chosen.values > LEAST_SCORE]
    anchors, labels = places // classes, places % classes
    boxes = candidates[anchors, 4:8]
    kept = batched_nms(boxes, flat[places], labels, OVERLAP)[:KEPT]
    return torch.cat([boxes[kept], labels[kept, None].to(boxes), flat[places][kept, None]], dim=1)


def _judged(candidates: Tensor, rows: Tensor) -> Tensor:
    """Rows [m+100 7]: the objects of one image, then what was found in it."""
    found = detections(candidates)
    judged = torch.full((len(rows) + KEPT, 7), float(KINDS["nothing"]))
    judged[: len(rows), :5], judged[: len(rows), 5] = rows[:, :5], 0.0
    judged[: len(rows), 6] = torch.where(rows[:, 4] >= 0, rows[:, 5], float(KINDS["nothing"]))
    judged[len(rows) : len(rows) + len(found), :6] = found
    judged[len(rows) : len(rows) + len(found), 6] = KINDS["detection"]
    return judged


def _loss(candidates: Tensor, rows: Tensor, kind: str) -> Tensor:
    """Of one image, []."""
    rows = present(rows.to(candidates.device))
    rows = rows[rows[:, 5] == 0]
    logits = candidates[:, 8:]
    wanted = torch.zeros_like(logits)
    place = torch.full((len(logits),), Matcher.BELOW_LOW_THRESHOLD, device=logits.device)
    if len(rows):
        place = Matcher(0.5, 0.4, allow_low_quality_matches=True)(box_iou(rows[:, :4], candidates[:, :4]))
    found, known = place >= 0, place != Matcher.BETWEEN_THRESHOLDS
    wanted[found, rows[place[found], 4].long()] = 1.0
    if kind == "mae":
        classes = (logits.sigmoid() - wanted)[known].abs().sum()
    else:
        classes = sigmoid_focal_loss(logits[known], wanted[known], reduction="sum")
    boxes = generalized_box_iou_loss(candidates[found, 4:8], rows[place[found], :4], reduction="sum")
    return (classes + boxes) / max(1, int(found.sum()))


def _bernoulli(exact: Tensor, rounded: Tensor) -> Tensor:
    """KL of independent yes-or-no answers with these logits."""
    yes = exact.sigmoid()
    return yes * (F.logsigmoid(exact) - F.logsigmoid(rounded)) + (1 - yes) * (
        F.logsigmoid(-exact) - F.logsigmoid(-rounded)
    )


def _overlap(one: Tensor, other: Tensor) -> Tensor:
    """IoU of boxes [... 4] pair by pair; 1 where both are the same, empty ones too."""
    low, high = one[..., :2].maximum(other[..., :2]), one[..., 2:].minimum(other[..., 2:])
    both = (high - low).clamp(min=0).prod(-1)
    areas = [(x[..., 2:] - x[..., :2]).clamp(min=0).prod(-1) for x in (one, other)]
    union = areas[0] + areas[1] - both
    same = (one == other).all(-1)
    return torch.where(same, 1.0, both / union.clamp(min=1e-12))


def _agree(one: Tensor, other: Tensor) -> float:
    found = [rows[rows[:, 5] >= SHOWN] for rows in (detections(x) for x in (one, other))]
    total = sum(map(len, found))
    if not total:
        return 1.0
    same = found[0][:, None, 4] == found[1][None, :, 4]
    pairs = (box_iou(found[0][:, :4], found[1][:, :4]) >= 0.5) & same
    return ((pairs.any(1).sum() + pairs.any(0).sum()) / total).item()


def _drawn(info: ModelInfo, seed: int, index: int) -> list[list[float]]:
    """Boxes inside the image, each with a class."""
    draws = stream(seed, _BOXES, index)
    height, width = info.input_size[1:]
    rows = []
    for _ in range(1 + draws.integers(4)):
        high, wide = (0.2 + 0.3 * draws.random(2)) * (height, width)
        y, x = draws.random(2) * (height - high, width - wide)
        rows.append([x, y, x + wide, y + high, float(draws.integers(info.num_classes))])
    return rows
