"""The optimization loop: images from Gaussian noise, for a frozen model, under the losses of a generation method.

Source: OuroMamba section 3 for the objective; schedule, jitter and clipping are PSAQ-ViT's, because OuroMamba states
neither. Image i depends on (seed, i) alone: its noise, class, jitter and flips come from its own random stream, and it
passes the model at a fixed place of a group of fixed size, so that sums are added in the same order in every chunk.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Generator, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor

from ouro import data
from ouro.gen.objective import Objective, make_objective
from ouro.progress import finish
from ouro.settings import check_count
from ouro.streams import stream
from ouro.taps import record
from ouro.tasks import task_of
from ouro.types import CalibrationSet, ModelInfo, Progress
from ouro.vision import VisionModel, judging

# PSAQ-ViT's schedule: two equal stages, jitter of 15 and 30 pixels at 224, a tenth of each stage to warm up
_JITTER = (15 / 224, 30 / 224)
_WARMUP = 0.1
PREVIEW_EVERY = 10
GROUP = 8
"""Images that pass the model together: those with the same i // GROUP, filled up where a set has no more."""


@dataclass(frozen=True, slots=True)
class _Draw:
    """Everything random about one image."""

    noise: Tensor
    smooth: float
    shifts: Tensor
    flips: Tensor


def initial_images(info: ModelInfo, seed: int, first: int, count: int) -> Tensor:
    """Gaussian noise [count 3 h w] in model space, one stream per image."""
    noise = (stream(seed, 0, first + i).standard_normal(info.input_size, dtype=np.float32) for i in range(count))
    return torch.stack([torch.from_numpy(image) for image in noise])


def optimize(
    model: VisionModel,
    objective: Objective,
    *,
    steps: int,
    seed: int,
    first: int = 0,
    count: int = 32,
    lr: float = 0.2,
    begun: Mapping[str, Tensor] | None = None,
    keep: Callable[[Callable[[], dict[str, Tensor]]], None] | None = None,
) -> Generator[Progress, None, CalibrationSet]:
    """Optimizes images first .. first + count; yields the mean losses and, every few steps, the images.

    It runs on the model's device, what it hands out is on the CPU. The model's parameters are left as they are and get
    no gradient; it is in eval mode until the end, and then as it was.

    Args:
        keep: called after every step with a function that gives what `begun` takes: images, moments of the optimizer
            and losses so far, as tensors on the CPU.
        begun: goes on from there, to the same images as without a break.

    Raises:
        Diverged: a loss became NaN or infinite; the error has the last good images.
        ValueError: `begun` is of other images or another number of steps, or a model in half precision.
    """
    info, device = model.info, model.device
    # drawn on the CPU, so that a seed means the same images on every device
    labels = task_of(info).draw(info, seed, first, count)
    model.check_precision("synthesis")
    draws = [_draw(info, seed, first + i, steps) for i in range(count)]
    low, high = (end.to(device) for end in _pixel_range(info))
    images = (
        torch.stack([draw.noise for draw in draws]).to(device, model.weights_dtype).clamp(low, high).requires_grad_()
    )
    groups = [_Group(model, objective, labels.to(device), draws, first, members) for members in _groups(first, count)]
    optimizer = torch.optim.Adam([images], lr=lr, betas=(0.5, 0.9), eps=1e-8)
    history: list[dict[str, float]] = []
    if begun is not None:
        history = _taken_up(begun, images, optimizer, steps)
    good = images.detach().clone()
    with _frozen(model):
        for step in range(len(history), steps):
            optimizer.param_groups[0]["lr"] = lr * _rate(step, steps)
            try:
                groupwise = [group.gradient(images, step) for group in groups]
            except FloatingPointError as error:
                raise Diverged(f"{error} at step {step + 1}; try a lower lr than {lr}", good.cpu(), step) from error
            images.grad = torch.cat([gradient for gradient, _ in groupwise])
            terms = {name: torch.cat([each[name] for _, each in groupwise]) for name in groupwise[0][1]}
            # what the losses were finite at
            good.copy_(images.detach())
            optimizer.step()
            with torch.no_grad():
                images.clamp_(low, high)
            history.append({name: term.mean().item() for name, term in terms.items()})
            if keep is not None:
                keep(lambda: _so_far(images, optimizer, history))
            shown: dict[str, Any] = {"loss": history[-1]}
            if step % PREVIEW_EVERY == 0 or step + 1 == steps:
                shown["preview"] = to_pixels(images.detach(), info)
            parts = ", ".join(f"{name} {value:.2f}" for name, value in history[-1].items())
            yield Progress(step + 1, steps, parts, shown)
    return CalibrationSet(
        images.detach().float().cpu(), labels, {"losses": history, "first": first, "seed": seed, "steps": steps}
    )


_MOMENTS = ("exp_avg", "exp_avg_sq")
"""What Adam remembers of every image, in its own words."""


def _so_far(images: Tensor, optimizer: torch.optim.Adam, history: list[dict[str, float]]) -> dict[str, Tensor]:
    """All that the steps to come depend on, and the losses of those that were."""
    moments = optimizer.state[images]
    kept = {"images": images.detach(), **{name: moments[name] for name in _MOMENTS}}
    # as they are: what is printed of a loss is a float64
    losses = {f"loss.{name}": torch.tensor([row[name] for row in history], dtype=torch.float64) for name in history[0]}
    return {name: tensor.cpu() for name, tensor in kept.items()} | losses


def _taken_up(
    begun: Mapping[str, Tensor], images: Tensor, optimizer: torch.optim.Adam, steps: int
) -> list[dict[str, float]]:
    """Puts what `_so_far` gave into the images and the optimizer; the losses until then."""
    losses = {key.removeprefix("loss."): x.tolist() for key, x in begun.items() if key.startswith("loss.")}
    done = len(next(iter(losses.values()), ()))
    shapes = {tuple(begun[name].shape) if name in begun else None for name in ("images", *_MOMENTS)}
    if shapes != {tuple(images.shape)} or not 0 < done <= steps:
        raise ValueError(
            f"what was begun has {done} steps of images {shapes}, expected 1 to {steps} of {tuple(images.shape)}; "
            "remove it to begin anew"
        )
    with torch.no_grad():
        images.copy_(begun["images"])
    state = {name: begun[name].to(images.device).clone() for name in _MOMENTS}
    optimizer.state[images] = {"step": torch.tensor(float(done)), **state}
    return [dict(zip(losses, row, strict=True)) for row in zip(*losses.values(), strict=True)]


class Diverged(RuntimeError):
    """A loss became NaN or infinite. `images` are the last ones at which it was not, after so many `steps`."""

    def __init__(self, message: str, images: Tensor, steps: int) -> None:
        super().__init__(message)
        self.images, self.steps = images, steps


class _Group:
    """Some neighbors among the images, and what the model makes of them; `members` are their places in the chunk."""

    def __init__(
        self, model: VisionModel, objective: Objective, labels: Tensor, draws: list[_Draw], first: int, members: range
    ) -> None:
        self.model, self.objective, self.members = model, objective, members
        self.before = (first + members.start) % GROUP
        self.after = GROUP - self.before - len(members)
        chosen = slice(members.start, members.stop)
        self.draws, self.labels = draws[chosen], self._padded(labels[chosen])
        self.smooth = self._padded(
            torch.tensor([draw.smooth for draw in self.draws], dtype=torch.float32).to(labels.device)
        )

    def gradient(self, images: Tensor, step: int) -> tuple[Tensor, dict[str, Tensor]]:
        """Of the sum of the losses, for every member; and the losses, each [members].

        Raises:
            FloatingPointError: a loss is not finite; the message names the first layer that is not.
        """
        own = images.detach()[self.members.start : self.members.stop].requires_grad_()
        shown = self._padded(_jittered(own, self.draws, step))
        with record(self.model, *self.objective.patterns, detach=False) as trace:
            logits = self.model(shown)
        terms = self.objective.losses(trace, logits, self.labels, self._padded(own), self.smooth)
        terms = {name: term[self.before : GROUP - self.after] for name, term in terms.items()}
        for name, term in terms.items():
            if not term.isfinite().all():
                raise FloatingPointError(f"the loss {name} became NaN or infinite{_culprit(self.model, shown)}")
        (gradient,) = torch.autograd.grad(torch.stack([term.sum() for term in terms.values()]).sum(), own)
        if not gradient.isfinite().all():
            raise FloatingPointError("the gradient became NaN or infinite")
        return gradient, terms

    def _padded(self, rows: Tensor) -> Tensor:
        """Members [m ...] at their places among [GROUP ...]; others hold what the first member has."""
        other = rows[:1].detach()
        return torch.cat([other.expand(self.before, *rows.shape[1:]), rows, other.expand(self.after, *rows.shape[1:])])


def saved_bytes(model: VisionModel, objective: Objective) -> int:
    """What autograd keeps of one image between forward and backward; costs one forward."""
    device = model.device
    image = torch.zeros(1, *model.info.input_size, device=device, requires_grad=True)
    kept: dict[int, int] = {}

    def pack(tensor: Tensor) -> Tensor:
        storage = tensor.untyped_storage()
        kept[storage.data_ptr()] = storage.nbytes()
        return tensor

    with _frozen(model), torch.autograd.graph.saved_tensors_hooks(pack, lambda tensor: tensor):
        with record(model, *objective.patterns, detach=False) as trace:
            logits = model(image)
        label = task_of(model).draw(model.info, 0, 0, 1).to(device)
        smooth = torch.zeros(1, device=device)
        objective.losses(trace, logits, label, image, smooth)
    return sum(kept.values())


def _groups(first: int, count: int) -> Iterator[range]:
    """Places in the chunk of the members of each group."""
    start = 0
    while start < count:
        stop = min(count, start + GROUP - (first + start) % GROUP)
        yield range(start, stop)
        start = stop


def _culprit(model: VisionModel, images: Tensor) -> str:
    """Words that name the first layer whose output is not finite."""
    with torch.no_grad(), record(model, "*") as trace:
        model(images)
    broken = next((path for path, tensor in trace.tensors.items() if not tensor.isfinite().all()), None)
    return "" if broken is None else f", first at {broken}"


@contextmanager
def _frozen(model: VisionModel) -> Iterator[None]:
    """No gradient for the parameters while it lasts, and eval mode; afterwards the model is as it was."""
    wanted = {parameter: parameter.requires_grad for parameter in model.parameters()}
    model.requires_grad_(False)
    try:
        with judging(model):
            yield
    finally:
        for parameter, flag in wanted.items():
            parameter.requires_grad_(flag)


@torch.inference_mode(False)
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

    Returns:
        images float32 [num 3 h w] in model space and their target classes, on the CPU.

    Raises:
        ValueError: unknown method or option, num or batch below 1, steps below 0, or a model in half precision.
    """
    for name, value, least in (("num", num, 1), ("steps", steps, 0), ("batch", batch, 1)):
        check_count(name, value, least)
    objective = make_objective(method, model, seed, options)
    images, labels, losses = [], [], []
    for first in range(0, num, batch):
        count = min(batch, num - first)
        labels.append(task_of(model).draw(model.info, seed, first, count))
        if steps == 0 or not objective.optimizes:
            images.append(initial_images(model.info, seed, first, count))
            continue
        made = finish(optimize(model, objective, steps=steps, seed=seed, first=first, count=count))
        images.append(made.images)
        losses.append(made.provenance["losses"])
    recipe = {"model": model.info.name, "method": method, "steps": steps, "seed": seed, "options": options}
    return CalibrationSet(torch.cat(images), torch.cat(labels), recipe | {"losses": losses})


def to_pixels(images: Tensor, info: ModelInfo) -> Tensor:
    """Model space -> uint8 [b 3 h w] on the CPU, wherever the images are."""
    return data.to_pixels(images.cpu(), info.mean, info.std)


def _draw(info: ModelInfo, seed: int, index: int, steps: int) -> _Draw:
    draws = stream(seed, 2, index)
    half = steps // 2
    reach = np.array([2 * [max(1, round(_JITTER[step >= half] * info.input_size[-1]))] for step in range(steps)])
    return _Draw(
        noise=initial_images(info, seed, index, 1)[0],
        # PSAQ-ViT draws 2500 .. 3000 where white noise has 12371
        smooth=(2500 + 500 * draws.random()) / 12371,
        shifts=torch.from_numpy(draws.integers(-reach, reach + 1)),
        flips=torch.from_numpy(draws.random(steps) < 0.5),
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
    mean, std = (torch.tensor(x, dtype=torch.float32)[:, None, None] for x in (info.mean, info.std))
    return -mean / std, (1 - mean) / std


def recognized(model: VisionModel, images: Tensor, labels: Tensor, batch: int = 64) -> float:
    """Share of the images that `model` takes for their target."""
    task = task_of(model)
    with torch.no_grad(), judging(model):
        chunks = zip(images.split(batch), labels.split(batch), strict=True)
        right = [task.outcomes(model(x.to(model.device)), y) for x, y in chunks]
    return task.primary(torch.cat(right))
