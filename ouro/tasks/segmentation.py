"""Segmentation: logits [b k h w], the class of every pixel, mean intersection over union."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from ouro.data import IGNORED, Dataset
from ouro.streams import stream
from ouro.tasks import Task
from ouro.tasks.fitting import check_targets, require_classes, require_targets
from ouro.tasks.resample import interval, weights
from ouro.types import Batch, ModelInfo

AUXILIARY = 0.4
"""Weight of the auxiliary head's loss, as in mmsegmentation's configurations."""
_LAYOUTS = 4
"""Purpose of the stream that draws the layouts of synthetic images."""


class Segmentation(Task):
    """One class per pixel, the largest logit's. Class 0 is the ground where the classes say so, a class like others if not.

    The loss of synthetic images is our reading of the paper's L_O, which is written for one class per image: a layout is
    drawn for every image, and its pixels are to be of its classes; every class of a layout counts the same, however few
    pixels it has.
    """

    name = "segmentation"
    metric = "miou"
    targets = "segments"

    def answer(self, output: Tensor, info: ModelInfo) -> dict[str, Any]:
        """{classes: {class name, or number: part of the pixels}} of logits [k h w], the largest part first."""
        return self.told(output.argmax(0), info)

    def shown(self, outputs: Tensor) -> Tensor:
        """The class of every pixel, int64 [b h w]."""
        return outputs.argmax(1)

    def told(self, target: Tensor, info: ModelInfo) -> dict[str, Any]:
        """{classes: {class name, or number: part of the pixels that have one}} of classes [h w], the largest part first."""
        numbers, counts = target[target != IGNORED].unique(return_counts=True)
        order = counts.argsort(descending=True, stable=True).tolist()
        names = info.class_names or tuple(map(str, range(info.num_classes)))
        shares = (counts / counts.sum()).tolist()
        return {"classes": {names[int(numbers[place])]: shares[place] for place in order}}

    def require(self, dataset: Dataset, source: str, info: ModelInfo) -> None:
        require_targets(dataset, source, info, self.targets)
        require_classes(dataset, source, info)

    def draw(self, info: ModelInfo, seed: int, first: int, count: int) -> Tensor:
        """Layouts: one to four ellipses of drawn classes on the ground, int64 [count h w]."""
        return torch.stack([_layout(info, seed, index) for index in range(first, first + count)])

    def teach(self, model: nn.Module, batch: Batch, smoothing: float) -> tuple[Tensor, Tensor]:
        """Cross-entropy of the pixels, and of those of the auxiliary head; see `_learned`."""
        logits, others = model.learning(batch.inputs)  # type: ignore[operator]
        loss = self._learned(logits, batch.labels, smoothing)
        if others is not None:
            loss = loss + AUXILIARY * self._learned(others, batch.labels, smoothing)
        return loss, logits.detach()

    def _learned(self, logits: Tensor, targets: Tensor, smoothing: float) -> Tensor:
        """Half of it the mean over pixels, half that over the classes of each image.

        Nine of ten pixels are ground: what is left of the mean over pixels says little about which class an object has, and
        a model that learns by it alone needs several times as many images (a seventh of the mIoU against a fourteenth
        after 120 steps on scenes).
        """
        return 0.5 * _pixels(logits, targets, smoothing) + 0.5 * self.loss(logits, targets).mean()

    def loss(self, outputs: Tensor, targets: Tensor, kind: str = "cross_entropy") -> Tensor:
        """Mean over the classes of a layout of the mean over their pixels, [b]; the kinds are those of classification."""
        if kind == "cross_entropy":
            losses = F.cross_entropy(outputs, targets, reduction="none", ignore_index=IGNORED)
        elif kind == "mae":
            # sum |p - q| over classes is 2 (1 - p of the right one)
            right = outputs.softmax(1).gather(1, targets.clamp(max=outputs.shape[1] - 1).unsqueeze(1)).squeeze(1)
            losses = 2 * (1 - right) * (targets != IGNORED)
        else:
            raise ValueError(f"unknown output loss {kind!r}; known: cross_entropy, mae")
        return (losses * _balanced(targets, outputs.shape[1])).sum((1, 2))

    def divergence(self, exact: Tensor, rounded: Tensor) -> Tensor:
        """Mean over the pixels of KL(exact || rounded) of their class distributions, in nats."""
        wanted, given = (F.log_softmax(logits.double(), 1) for logits in (exact, rounded))
        return (wanted.exp() * (wanted - given)).sum(1).mean((1, 2))

    def agreement(self, exact: Tensor, rounded: Tensor) -> Tensor:
        """Part of the pixels whose class is the same."""
        return (exact.argmax(1) == rounded.argmax(1)).double().mean((1, 2))

    def outcomes(self, outputs: Tensor, targets: Tensor | None) -> Tensor:
        """Per class the pixels that are answered and true, answered, and true, int64 [b k 3]."""
        if targets is None:
            raise ValueError("these images have no masks; mIoU needs a data set with a class for every pixel")
        check_targets(targets, (len(outputs), *outputs.shape[2:]), outputs.shape[1])
        answers, truth, classes = outputs.argmax(1).cpu(), targets.cpu(), outputs.shape[1]
        known = truth != IGNORED
        counts = [_counts(x, keep, classes) for x, keep in (
            (truth, known & (answers == truth)), (answers, known), (truth, known)
        )]  # fmt: skip
        return torch.stack(counts, dim=2)

    def score(self, outcomes: Tensor) -> dict[str, Any]:
        """{n, miou, ci95, pixel_accuracy, per_class}: intersections and unions are summed over images, see `_iou`.

        per_class: intersection over union of each class, None for one that is neither there nor answered. The interval is
        that of resampled images.

        Raises:
            ValueError: no image, or no pixel whose class is known.
        """
        sums = _summed(outcomes)
        each = _iou(sums)[0]
        per_class = [None if math.isnan(x) else x for x in each.tolist()]
        right, _, total = sums[0].sum(0).tolist()
        return {
            "n": len(outcomes), "miou": each.nanmean().item(), "ci95": interval(self.resampled(outcomes)),
            "pixel_accuracy": right / max(total, 1), "per_class": per_class,
        }  # fmt: skip

    def primary(self, outcomes: Tensor) -> float:
        return _iou(_summed(outcomes))[0].nanmean().item()

    def resampled(self, outcomes: Tensor) -> Tensor:
        """mIoU of resamples of the images; one without a known pixel says nothing, and counts as the images as they are."""
        sums = torch.einsum("rn,nkc->rkc", weights(len(outcomes)), outcomes.double())
        drawn = _iou(sums).nanmean(1)
        return torch.where(drawn.isnan(), self.primary(outcomes), drawn)


def _summed(outcomes: Tensor) -> Tensor:
    """Counts of all images together, [1 k 3].

    Raises:
        ValueError: no image, or no pixel whose class is known.
    """
    if not len(outcomes):
        raise ValueError("no image to score")
    if not outcomes.any():
        raise ValueError(
            f"none of the {len(outcomes)} images has a pixel whose class is known, so there is no mIoU; take others"
        )
    return outcomes.sum(0, keepdim=True).double()


def _iou(sums: Tensor) -> Tensor:
    """Counts [r k 3] -> intersection over union [r k], NaN for a class that is neither there nor answered."""
    both, answered, true = sums.unbind(2)
    union = answered + true - both
    return torch.where(union > 0, both / union.clamp(min=1), torch.nan)


def _counts(classes: Tensor, keep: Tensor, number: int) -> Tensor:
    """How many kept pixels each class has in each image, int64 [b number]."""
    images = torch.arange(len(classes))[:, None, None].expand_as(classes)
    flat = (images * number + classes)[keep]
    return torch.bincount(flat, minlength=len(classes) * number).unflatten(0, (len(classes), number))


def _pixels(logits: Tensor, targets: Tensor, smoothing: float) -> Tensor:
    return F.cross_entropy(logits, targets, ignore_index=IGNORED, label_smoothing=smoothing)


def _balanced(targets: Tensor, classes: int) -> Tensor:
    """Weights of the pixels [b h w] that sum to 1 in every image, the same sum for every class that is there."""
    known = targets != IGNORED
    counts = _counts(targets.cpu(), known.cpu(), classes).to(targets.device)
    kinds = (counts > 0).sum(1, keepdim=True).clamp(min=1)
    per_pixel = torch.where(counts > 0, 1 / (counts.clamp(min=1) * kinds), 0.0)
    chosen = per_pixel.gather(1, targets.clamp(max=classes - 1).flatten(1)).view(targets.shape)
    return (chosen * known).float()


def _layout(info: ModelInfo, seed: int, index: int) -> Tensor:
    """Classes of the pixels [h w]: ellipses, later ones in front, an eighth to a half of the side wide."""
    draws = stream(seed, _LAYOUTS, index)
    height, width = info.input_size[1:]
    has_ground = bool(info.class_names) and info.class_names[0] == "background"
    classes = np.arange(1 if has_ground else 0, info.num_classes)
    layout = np.full((height, width), 0 if has_ground else draws.choice(classes))
    rows, columns = np.mgrid[:height, :width] + 0.5
    for _ in range(1 + draws.integers(4)):
        label, angle = draws.choice(classes), draws.random() * np.pi
        y, x = (0.15 + 0.7 * draws.random(2)) * (height, width)
        radii = (1 / 16 + 3 / 16 * draws.random(2)) * min(height, width)
        along = np.cos(angle) * (columns - x) + np.sin(angle) * (rows - y)
        across = np.cos(angle) * (rows - y) - np.sin(angle) * (columns - x)
        layout[(along / radii[0]) ** 2 + (across / radii[1]) ** 2 <= 1] = label
    return torch.from_numpy(layout)
