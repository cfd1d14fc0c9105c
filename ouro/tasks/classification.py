"""Classification: logits [b k], one label per image, top-1."""

from __future__ import annotations

from math import sqrt
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from ouro.data import Dataset
from ouro.streams import stream
from ouro.tasks import Task
from ouro.tasks.fitting import check_targets, require_classes, require_targets
from ouro.types import Batch, ModelInfo

SHOWN = 5
"""Classes of an image that are shown, at most."""
_CLASSES = 1
"""Purpose of the stream that shuffles target classes."""


class Classification(Task):
    """One class per image, the largest logit's."""

    name = "classification"
    metric = "top1"

    def check(self, outputs: Tensor) -> None:
        if bad := int(outputs.isnan().any(1).sum()):
            raise RuntimeError(f"the model's logits are NaN for {bad} of {len(outputs)} images; is an input NaN?")

    def answer(self, output: Tensor, info: ModelInfo) -> dict[str, Any]:
        """{predicted: class name, or number where there are no names; confidence} of logits [k]."""
        confidence, predicted = output.softmax(-1).max(-1)
        names = info.class_names
        return {"predicted": names[int(predicted)] if names else int(predicted), "confidence": confidence.item()}

    def shown(self, outputs: Tensor) -> Tensor:
        """The likeliest classes, up to five of them, the surest first: rows [b 5 2] of class and confidence."""
        confidence, classes = outputs.softmax(-1).topk(min(SHOWN, outputs.shape[-1]))
        return torch.stack([classes.to(confidence), confidence], dim=2)

    def told(self, target: Tensor, info: ModelInfo) -> dict[str, Any]:
        """{label: class name, or number}."""
        return {"label": info.class_names[int(target)] if info.class_names else int(target)}

    def require(self, dataset: Dataset, source: str, info: ModelInfo) -> None:
        """As many classes as the model has, and the same where both have names, see `require_classes`."""
        require_targets(dataset, source, info, "labels")
        if not dataset.classes:
            raise ValueError(f"{source} has no labels; accuracy needs a data set with one folder per class")
        require_classes(dataset, source, info)

    def draw(self, info: ModelInfo, seed: int, first: int, count: int) -> Tensor:
        """Every class once per round, each round shuffled anew; int64 [count].

        Raises:
            ValueError: a model without classes.
        """
        if not info.num_classes:
            raise ValueError(f"{info.name} has no classes to make images for; take a model with its head")
        rounds = range(first // info.num_classes, (first + count - 1) // info.num_classes + 1)
        orders = [torch.from_numpy(stream(seed, _CLASSES, r).permutation(info.num_classes)) for r in rounds]
        skipped = first - rounds.start * info.num_classes
        return torch.cat(orders)[skipped : skipped + count]

    def teach(self, model: nn.Module, batch: Batch, smoothing: float) -> tuple[Tensor, Tensor]:
        """Cross-entropy; of mixed images both labels count, each by its share."""
        logits = model(batch.inputs)
        loss = F.cross_entropy(logits, batch.labels, label_smoothing=smoothing)
        if batch.others is not None and batch.share is not None:
            other = F.cross_entropy(logits, batch.others, label_smoothing=smoothing)
            loss = batch.share * loss + (1 - batch.share) * other
        return loss, logits.detach()

    def loss(self, outputs: Tensor, targets: Tensor, kind: str = "cross_entropy") -> Tensor:
        """How far the model is from the target class, [b].

        "mae" is the paper's word: the absolute error of the probabilities, summed over classes. Its gradient vanishes
        at uniform logits (2e-6 of the cross-entropy's with 1000 classes), hence the default.
        """
        if kind == "cross_entropy":
            return F.cross_entropy(outputs, targets, reduction="none")
        if kind == "mae":
            return (outputs.softmax(-1) - F.one_hot(targets, outputs.shape[-1])).abs().sum(-1)
        raise ValueError(f"unknown output loss {kind!r}; known: cross_entropy, mae")

    def divergence(self, exact: Tensor, rounded: Tensor) -> Tensor:
        """KL(exact || rounded) of the class distributions, in nats."""
        wanted, given = (F.log_softmax(logits.double(), -1) for logits in (exact, rounded))
        return (wanted.exp() * (wanted - given)).sum(-1)

    def agreement(self, exact: Tensor, rounded: Tensor) -> Tensor:
        """Whether the first guess is the same."""
        return (exact.argmax(1) == rounded.argmax(1)).double()

    def decided(self, outputs: Tensor) -> Tensor:
        """The first guess."""
        return outputs.argmax(1).cpu()

    def outcomes(self, outputs: Tensor, targets: Tensor | None) -> Tensor:
        """Whether the first guess is right, bool [b]; targets are classes, int64 [b]."""
        if targets is None:
            raise ValueError("these images have no labels; accuracy needs a data set with one folder per class")
        check_targets(targets, outputs.shape[:1], outputs.shape[1])
        return self.decided(outputs) == targets.cpu()

    def score(self, outcomes: Tensor) -> dict[str, Any]:
        """{n, top1, ci95}, the interval by Wilson."""
        hits, n = int(outcomes.sum()), len(outcomes)
        low, high = wilson(hits, n)
        return {"n": n, "top1": hits / n, "ci95": [low, high]}


def wilson(right: int, n: int, z: float = 1.959964) -> tuple[float, float]:
    """Wilson score interval of a proportion: 95 % by default, inside [0, 1], honest at both ends.

    Raises:
        ValueError: no trial, or more successes than trials.
    """
    if not 0 <= right <= n or n < 1:
        raise ValueError(f"{right} of {n} is no proportion")
    share = right / n
    center = (share + z * z / (2 * n)) / (1 + z * z / n)
    half = z / (1 + z * z / n) * sqrt(share * (1 - share) / n + z * z / (4 * n * n))
    # the share itself belongs to the interval, whatever rounding says
    return max(0.0, min(share, center - half)), min(1.0, max(share, center + half))
