"""How long a model takes over an image on this device, in seconds: what a longer job is estimated from."""

from __future__ import annotations

import statistics
import time
from collections.abc import Callable

import torch

from ouro.streams import generator
from ouro.tasks import task_of
from ouro.vision import VisionModel

_BATCH = 8
_REPEATS = 3
_MADE = 2


def pace(model: VisionModel) -> dict[str, float]:
    """{forward, judged}: seconds an image takes to go through the model, and for its answer to be judged.

    Both are the same, but for a model that makes images: it is judged by those, each of many forwards. A first pass, that
    may compile kernels, is not counted; the median of three further ones is.
    """
    task, info = task_of(model), model.info
    images = torch.randn(_BATCH, *info.input_size, generator=generator(0)).to(model.device)
    given = [tensor.to(model.device) for tensor in task.conditions(info, _BATCH, 0)]
    with torch.no_grad():
        forward = _seconds(lambda: task.cpu(model(images, *given))) / _BATCH
    if not task.generates:
        return {"forward": forward, "judged": forward}
    targets = task.draw(info, 0, 0, _MADE)
    return {"forward": forward, "judged": _seconds(lambda: task.run(model, images[:_MADE], targets)) / _MADE}


def _seconds(work: Callable[[], object]) -> float:
    work()
    times = []
    for _ in range(_REPEATS):
        begun = time.perf_counter()
        work()
        times.append(time.perf_counter() - begun)
    return statistics.median(times)
