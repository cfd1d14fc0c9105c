"""The optimisation loop: images from Gaussian noise, for a frozen model, under the losses of a generation method.

Source: OuroMamba section 3 for the objective; schedule, jitter and clipping are PSAQ-ViT's, because OuroMamba states
neither. Image i depends on (seed, i) alone: its noise, class, jitter and flips come from its own random stream.
"""

from __future__ import annotations

import math
from collections.abc import Generator
from dataclasses import dataclass
from typing import Any, TypeVar

import numpy as np
import torch
from torch import Tensor

from ouro.gen.objective import Objective
from ouro.registry import GENERATORS
from ouro.taps import record
from ouro.types import CalibrationSet, ModelInfo, Progress
from ouro.vision import VisionModel

# PSAQ-ViT's schedule: two equal stages, jitter of 15 and 30 pixels at 224, a tenth of each stage to warm up
_JITTER = (15 / 224, 30 / 224)
_WARMUP = 0.1
PREVIEW_EVERY = 10

_Result = TypeVar("_Result")


@dataclass(frozen=True, slots=True)
class _Draw:
    """Everything random about one image."""

    noise: Tensor
    smooth: float
    shifts: Tensor
    flips: Tensor


def targets(info: ModelInfo, seed: int, first: int, count: int) -> Tensor:
    """Target classes of images first .. first + count: every class once per round, each round shuffled anew."""
    rounds = range(first // info.num_classes, (first + count - 1) // info.num_classes + 1)
    orders = [torch.from_numpy(_stream(seed, 1, r).permutation(info.num_classes)) for r in rounds]
    skipped = first - rounds.start * info.num_classes
    return torch.cat(orders)[skipped : skipped + count]


def initial_images(info: ModelInfo, seed: int, first: int, count: int) -> Tensor:
    """Gaussian noise [count 3 h w] in model space, one stream per image."""
    noise = (_stream(seed, 0, first + i).standard_normal(info.input_size, dtype=np.float32) for i in range(count))
    return torch.stack([torch.from_numpy(image) for image in noise])


def optimise(
    model: VisionModel, objective: Objective, *, steps: int, seed: int, first: int = 0, count: int = 32, lr: float = 0.2
) -> Generator[Progress, None, CalibrationSet]:
    """Optimises images first .. first + count; yields the mean losses and, every few steps, the images.

    The model's parameters are left as they are and get no gradient.

    Raises:
        RuntimeError: the loss became NaN or infinite.
    """
    info = model.info
    labels = targets(info, seed, first, count)
    draws = [_draw(info, seed, first + i, steps) for i in range(count)]
    smooth = torch.tensor([draw.smooth for draw in draws])
    low, high = _pixel_range(info)
    images = torch.stack([draw.noise for draw in draws]).clamp(low, high).requires_grad_()
    optimizer = torch.optim.Adam([images], lr=lr, betas=(0.5, 0.9), eps=1e-8)
    history: list[dict[str, float]] = []
    wanted = {parameter: parameter.requires_grad for parameter in model.parameters()}
    model.requires_grad_(False)
    try:
        for step in range(steps):
            optimizer.param_groups[0]["lr"] = lr * _rate(step, steps)
            with record(model, *objective.patterns, detach=False) as trace:
                logits = model(_jittered(images, draws, step))
            terms = objective.losses(trace, logits, labels, images, smooth)
            loss = torch.stack([term.sum() for term in terms.values()]).sum()
            if not loss.isfinite():
                raise RuntimeError(f"the loss became {loss.item()} at step {step + 1}; try a lower lr than {lr}")
            (images.grad,) = torch.autograd.grad(loss, images)
            optimizer.step()
            with torch.no_grad():
                images.clamp_(low, high)
            history.append({name: term.mean().item() for name, term in terms.items()})
            shown: dict[str, Any] = {"loss": history[-1]}
            if step % PREVIEW_EVERY == 0 or step + 1 == steps:
                shown["preview"] = to_pixels(images.detach(), info)
            parts = ", ".join(f"{name} {value:.2f}" for name, value in history[-1].items())
            yield Progress(step + 1, steps, parts, shown)
    finally:
        for parameter, flag in wanted.items():
            parameter.requires_grad_(flag)
    return CalibrationSet(images.detach(), labels, {"losses": history, "first": first, "seed": seed, "steps": steps})


def synthesize(
    model: VisionModel,
    *,
    method: str = "ouro",
    num: int = 128,
    steps: int = 160,
    seed: int = 0,
    batch: int = 32,
    **options: Any,
) -> CalibrationSet:
    """Calibration images for any model of ours, without data: `num` images, `batch` at a time.

    Args:
        options: settings of the method, such as features="alpha_p" or window=5.

    Raises:
        ValueError: unknown method or option.
    """
    objective = GENERATORS.get(method)(model, seed=seed, **options)
    images, labels, losses = [], [], []
    for first in range(0, num, batch):
        count = min(batch, num - first)
        if steps == 0 or not objective.optimises:
            images.append(initial_images(model.info, seed, first, count))
            labels.append(targets(model.info, seed, first, count))
            continue
        made = finish(optimise(model, objective, steps=steps, seed=seed, first=first, count=count))
        images.append(made.images)
        labels.append(targets(model.info, seed, first, count))
        losses.append(made.provenance["losses"])
    told = {"model": model.info.name, "method": method, "steps": steps, "seed": seed, "options": options}
    return CalibrationSet(torch.cat(images), torch.cat(labels), told | {"losses": losses})


def finish(job: Generator[Any, None, _Result]) -> _Result:
    """Runs a generator to its end and returns its value."""
    while True:
        try:
            next(job)
        except StopIteration as end:
            return end.value


def to_pixels(images: Tensor, info: ModelInfo) -> Tensor:
    """Model space -> uint8 [b 3 h w]."""
    mean, std = (torch.tensor(x)[:, None, None] for x in (info.mean, info.std))
    return ((images * std + mean) * 255).round().clamp(0, 255).to(torch.uint8)


def _stream(seed: int, purpose: int, index: int) -> np.random.Generator:
    """An independent random stream for each (seed, purpose, index).

    numpy mixes all three into its state; torch's CPU generator would only look at the low 32 bits of one number.
    """
    return np.random.default_rng((seed, purpose, index))


def _draw(info: ModelInfo, seed: int, index: int, steps: int) -> _Draw:
    stream = _stream(seed, 2, index)
    half = steps // 2
    reach = np.array([2 * [max(1, round(_JITTER[step >= half] * info.input_size[-1]))] for step in range(steps)])
    return _Draw(
        noise=initial_images(info, seed, index, 1)[0],
        # PSAQ-ViT draws 2500 .. 3000 where white noise has 12371
        smooth=(2500 + 500 * stream.random()) / 12371,
        shifts=torch.from_numpy(stream.integers(-reach, reach + 1)),
        flips=torch.from_numpy(stream.random(steps) < 0.5),
    )


def _jittered(images: Tensor, draws: list[_Draw], step: int) -> Tensor:
    moved = []
    for image, draw in zip(images, draws, strict=True):
        image = image.roll(tuple(draw.shifts[step].tolist()), dims=(1, 2))
        moved.append(image.flip(2) if draw.flips[step] else image)
    return torch.stack(moved)


def _rate(step: int, steps: int) -> float:
    """Linear warm-up and cosine to zero, in each of two stages."""
    half = max(1, steps // 2)
    stage_length = half if step < half else max(1, steps - half)
    at = step if step < half else step - half
    warm = max(1, round(_WARMUP * stage_length))
    if at < warm:
        return (at + 1) / warm
    return 0.5 * (1 + math.cos(math.pi * (at - warm) / max(1, stage_length - warm)))


def _pixel_range(info: ModelInfo) -> tuple[Tensor, Tensor]:
    """Black and white in model space, [3 1 1] each."""
    mean, std = (torch.tensor(x)[:, None, None] for x in (info.mean, info.std))
    return -mean / std, (1 - mean) / std


def recognized(model: VisionModel, images: Tensor, labels: Tensor, batch: int = 64) -> float:
    """Share of the images that `model` takes for their target class."""
    with torch.no_grad():
        right = [(model(x).argmax(1) == y) for x, y in zip(images.split(batch), labels.split(batch), strict=True)]
    return torch.cat(right).float().mean().item()
