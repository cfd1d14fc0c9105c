"""How good a model is at its task: outcomes image by image, and the score with the interval that n images leave open."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from typing import Any

import torch
from torch import Tensor

from ouro.data import batches as read_batches
from ouro.data.source import open_data, own_data
from ouro.tasks import task_of
from ouro.vision import VisionModel


def outcomes(model: VisionModel, batches: Iterable[tuple[Tensor, Tensor | None]]) -> Iterator[Tensor]:
    """For each batch (images [b 3 h w], targets): what its task scores image by image, on the CPU.

    Raises:
        ValueError: images that the model does not take, pixels among them, or targets that its task does not have.
        RuntimeError: outputs that are NaN.
    """
    for scored, _ in judged(model, batches):
        yield scored


def judged(
    model: VisionModel, batches: Iterable[tuple[Tensor, Tensor | None]]
) -> Iterator[tuple[Tensor, Tensor | None]]:
    """As `outcomes`, each with the class that every image was taken for, where the task decides for one.

    Raises:
        ValueError, RuntimeError: as `outcomes`.
    """
    task = task_of(model)
    for images, targets in batches:
        # pixels stay what they are, and the model refuses them
        dtype = model.weights_dtype if images.is_floating_point() else images.dtype
        outputs = task.run(model, images.to(model.device, dtype), targets)
        task.check(outputs)
        yield task.outcomes(outputs, targets), task.decided(outputs)


def evaluate(model: VisionModel, data: str = "scenes", *, limit: int | None = None, batch: int = 64) -> dict[str, Any]:
    """Score of a model, float or with quantizers attached, on the test split of a data set, or on a folder's images.

    Returns:
        {data, n, top1, ci95} for a classifier; accuracies as parts of 1.

    Raises:
        ValueError: unknown data set, one that does not pose the model's task as the model knows it, or a limit or batch
            that is no number from 1 on.
        RuntimeError: outputs that are NaN.
    """
    task, info = task_of(model), model.info
    dataset, name = open_data(data, "test", info), own_data(data, info)
    task.require(dataset, name, info)
    seen = read_batches(dataset, batch, limit=limit, mean=info.mean, std=info.std)
    return {"data": name, **task.score(torch.cat(list(outcomes(model, seen))))}
