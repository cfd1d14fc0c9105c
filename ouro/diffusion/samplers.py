"""From noise to pictures: dx/dt = v(x, t) from t = 0 to 1 in equal steps, with a guided velocity.

The official code integrates with dopri5; here the number of steps is given, so that float and quantized models are asked
the same number of times. Guidance is ours, see `ouro.models.zigma`: its formula is that of Ho & Salimans 2022.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from itertools import pairwise
from typing import Any, TypeAlias

import torch
from torch import Tensor

from ouro.settings import check_count
from ouro.types import NO_CLASS
from ouro.vision import VisionModel

Field: TypeAlias = Callable[[Tensor, float], Tensor]
"""(x [b ...], t) -> velocity [b ...]."""
Sampler: TypeAlias = Callable[[Field, Tensor, list[float]], Iterator[tuple[float, Tensor]]]
"""(field, x at the first time, times) -> (t, x) at each of the other times."""


def euler(field: Field, x: Tensor, times: list[float]) -> Iterator[tuple[float, Tensor]]:
    """One velocity per step, the one at its beginning: exact where that does not change."""
    for t, after in pairwise(times):
        x = x + (after - t) * field(x, t)
        yield after, x


def heun(field: Field, x: Tensor, times: list[float]) -> Iterator[tuple[float, Tensor]]:
    """Two velocities per step, whose mean is taken: an error of second order in the length of a step."""
    for t, after in pairwise(times):
        begins = field(x, t)
        ends = field(x + (after - t) * begins, after)
        x = x + (after - t) / 2 * (begins + ends)
        yield after, x


SAMPLERS: dict[str, Sampler] = {"euler": euler, "heun": heun}
"""Name -> how a step is taken."""


def guided(model: VisionModel, y: Tensor | None, guidance: float = 1.0) -> Field:
    """The velocity of a model for classes y [b]: v_none + guidance (v_y - v_none), without gradient.

    1 is the model as it was trained and asks it once; y None is any class.

    Raises:
        ValueError: guidance without classes, or a class that the model does not have.
    """
    if guidance != 1 and (y is None or not model.num_classes):
        raise ValueError(
            f"guidance is {guidance:g}, and there is no class to guide {model.info.name} by; give classes to a model that "
            "has some, or guidance 1"
        )
    if y is not None and model.num_classes:
        # the row behind the last class is that of no class: it would be drawn without a word
        strange = y[(y >= model.num_classes) | (y < NO_CLASS)]
        if strange.numel():
            raise ValueError(
                f"y has the class {strange[0].item():g}, {model.info.name} has classes 0 to {model.num_classes - 1}, and "
                f"{NO_CLASS} is for any"
            )
    asked: Any = model

    @torch.no_grad()
    def field(x: Tensor, t: float) -> Tensor:
        times = x.new_full((len(x),), t)
        if y is None:
            return asked(x, times)
        if guidance == 1:
            return asked(x, times, y)
        both = torch.cat([torch.full_like(y, NO_CLASS), y])
        free, wanted = asked(x.repeat(2, 1, 1, 1), times.repeat(2), both).chunk(2)
        return free + guidance * (wanted - free)

    return field


def trajectory(
    model: VisionModel, x0: Tensor, y: Tensor | None = None, *, sampler: str = "heun", steps: int = 10,
    guidance: float = 1.0,
) -> Iterator[tuple[float, Tensor]]:  # fmt: skip
    """(t, x [b c h w]) from noise x0 at t = 0 to pictures in model space at t = 1, steps + 1 of them.

    Args:
        y: classes [b]; None for a model that has none, or for any class.

    Raises:
        ValueError: an unknown sampler, fewer than one step, or see `guided`.
    """
    if sampler not in SAMPLERS:
        raise ValueError(f"unknown sampler {sampler!r}; known: {', '.join(SAMPLERS)}")
    check_count("steps", steps)
    field, times = guided(model, y, guidance), [number / steps for number in range(steps + 1)]

    def walk() -> Iterator[tuple[float, Tensor]]:
        yield 0.0, x0
        yield from SAMPLERS[sampler](field, x0, times)

    return walk()


def sample(model: VisionModel, x0: Tensor, y: Tensor | None = None, **how: Any) -> Tensor:
    """The end of a `trajectory`, [b c h w]."""
    *_, (_, x) = trajectory(model, x0, y, **how)
    return x
