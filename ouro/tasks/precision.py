"""Average precision as COCO defines it: matches by pycocotools, sums over images by ourselves, so that images may count
more than once.

An image's detections and objects are rows [r 7] of x0, y0, x1, y1, class, score, kind; see `KINDS`.
"""

from __future__ import annotations

import contextlib
import io
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor

KINDS = {"nothing": -1, "object": 0, "crowd": 1, "detection": 2}
"""What a row stands for: padding, an object to be found, a group that counts neither way, or what was found."""
THRESHOLDS = tuple(np.linspace(0.5, 0.95, 10).round(2).tolist())
"""Overlaps at which a detection counts as right, the score is the mean over them."""
_RECALLS = torch.linspace(0, 1, 101, dtype=torch.float64)


@dataclass(frozen=True, slots=True, eq=False)
class Matches:
    """Of one class: every detection, best first, and how many objects each image has.

    image [d]: which image it is in. right, ignored: bool [t d] at every threshold. objects [n].
    """

    image: Tensor
    right: Tensor
    ignored: Tensor
    objects: Tensor


def matches(rows: Tensor) -> list[Matches]:
    """Of rows [n r 7], class by class.

    Raises:
        ValueError: no image.
    """
    if not len(rows):
        raise ValueError("no image to score")
    # imported late: only detection needs it
    from pycocotools.cocoeval import COCOeval

    found = rows[rows[:, :, 6] >= 0]
    classes = int(found[:, 4].max()) + 1 if len(found) else 1
    # it reports on its progress by printing
    with contextlib.redirect_stdout(io.StringIO()):
        judge = COCOeval(*_as_coco(rows, classes), "bbox")
        judge.params.maxDets = [100]
        judge.params.areaRng, judge.params.areaRngLbl = [[0, 1e10]], ["all"]
        judge.evaluate()
    return [_of_class(judge.evalImgs[c * len(rows) : (c + 1) * len(rows)]) for c in range(classes)]


def average_precision(of_class: Matches, weights: Tensor) -> Tensor:
    """AP at every threshold when images count `weights` [r n] times, [r t]; NaN where there is no object.

    Precision is made falling with recall and read at 101 recalls; pycocotools' numbers where every image counts once.
    """
    total = weights @ of_class.objects.double()
    counts = weights[:, of_class.image]
    values = []
    for right, ignored in zip(of_class.right, of_class.ignored, strict=True):
        hits = (counts * (right & ~ignored)).cumsum(1)
        misses = (counts * (~right & ~ignored)).cumsum(1)
        recall = hits / total.clamp(min=1)[:, None]
        precision = hits / (hits + misses).clamp(min=1e-12)
        falling = precision.flip(1).cummax(1).values.flip(1)
        place = torch.searchsorted(recall.contiguous(), _RECALLS.expand(len(weights), -1).contiguous())
        padded = torch.cat([falling, torch.zeros(len(weights), 1, dtype=torch.float64)], dim=1)
        values.append(padded.gather(1, place).mean(1))
    return torch.where(total[:, None] > 0, torch.stack(values, dim=1), torch.nan)


def _as_coco(rows: Tensor, classes: int) -> tuple[Any, Any]:
    """(truth, detections) as pycocotools holds them; images and classes are numbered from 1."""
    from pycocotools.coco import COCO

    truth: Any = COCO()
    annotations: list[dict[str, Any]] = []
    found: list[dict[str, Any]] = []
    for image, listed in enumerate(rows.tolist(), 1):
        for x0, y0, x1, y1, label, score, kind in listed:
            entry = {"image_id": image, "category_id": int(label) + 1, "bbox": [x0, y0, x1 - x0, y1 - y0]}
            if kind == KINDS["detection"]:
                found.append(entry | {"score": score})
            elif kind >= 0:
                area = (x1 - x0) * (y1 - y0)
                annotations.append(entry | {"id": len(annotations) + 1, "area": area, "iscrowd": int(kind)})
    truth.dataset = {
        "info": {}, "images": [{"id": image} for image in range(1, len(rows) + 1)], "annotations": annotations,
        "categories": [{"id": label} for label in range(1, classes + 1)],
    }  # fmt: skip
    truth.createIndex()
    if found:
        return truth, truth.loadRes(found)
    nothing: Any = COCO()
    nothing.dataset = truth.dataset | {"annotations": []}
    nothing.createIndex()
    return truth, nothing


def _of_class(images: list[dict[str, Any] | None]) -> Matches:
    """pycocotools' results of one class, image by image."""
    scores, place, right, ignored = [], [], [], []
    objects = torch.zeros(len(images), dtype=torch.int64)
    for number, result in enumerate(images):
        if result is None:
            continue
        objects[number] = int((np.asarray(result["gtIgnore"]) == 0).sum())
        count = len(result["dtScores"])
        scores += result["dtScores"]
        place += [number] * count
        right.append(np.asarray(result["dtMatches"]).reshape(len(THRESHOLDS), count) > 0)
        ignored.append(np.asarray(result["dtIgnore"]).reshape(len(THRESHOLDS), count).astype(bool))
    if not scores:
        empty = torch.zeros(len(THRESHOLDS), 0, dtype=torch.bool)
        return Matches(torch.zeros(0, dtype=torch.int64), empty, empty, objects)
    order = np.argsort(-np.asarray(scores), kind="mergesort")
    return Matches(
        torch.tensor(place)[order.copy()], torch.from_numpy(np.concatenate(right, 1)[:, order]),
        torch.from_numpy(np.concatenate(ignored, 1)[:, order]), objects,
    )  # fmt: skip
