"""Diffusion: a velocity at (picture, diffusion time, class), judged by the pictures that a sampler makes of it.

The score is a Frechet distance on features of an embedded judge. It is not FID, which is one on features of Inception
for thousands of pictures, and no number here can be compared with one; `ouro.evaluate.inception` has that.
"""

from __future__ import annotations

from functools import lru_cache
from typing import Any
from zlib import crc32

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from ouro.data import Dataset, standardize, to_pixels
from ouro.diffusion.flow import CALIBRATION, along, noise, spread_times, velocity
from ouro.diffusion.samplers import sample, trajectory
from ouro.models import create_model
from ouro.streams import stream
from ouro.tasks import Task
from ouro.tasks.classification import Classification
from ouro.tasks.fitting import check_targets, require_classes, require_targets
from ouro.tasks.frechet import distance, moments
from ouro.tasks.resample import COUNT, interval, weights
from ouro.types import NO_CLASS, Batch, ModelInfo
from ouro.vision import VisionModel, judging

JUDGES = {"digits": "vim_nano_digits"}
"""Data set -> the embedded classifier that looks at pictures of it."""
SAMPLER, STEPS, GUIDANCE = "heun", 5, 1.5
"""How pictures are made that are scored; more steps do not bring zigma_nano nearer to real digits. Without classes, no
guidance."""
STATES = 20
"""Steps of Euler's on the way that states for calibration are taken from: as many different diffusion times."""
DROPPED = 0.1
"""Part of the pictures that a guided model is shown without their class, as is usual (Ho & Salimans 2022)."""
_SEED = 0
"""Of the noise that scored pictures begin with."""
_SPLITS = 10
"""How many times real pictures are halved for the floor."""
_HALVES = 14
"""Purpose of the stream that halves them."""
_CHUNK = 32
"""Pictures of one's own that are made at once, and resamples whose covariances are held at once."""


class Diffusion(Task):
    """A velocity, trained by flow matching. For each real picture one of its class is made.

    The noise that a picture begins with hangs on the content of the real one, so that it is the same whatever it is
    looked at together with, and the same for the float model and for every quantized one.
    """

    name = "diffusion"
    metric = "frechet"
    generates = True

    # ---- outputs

    def answer(self, output: Tensor, info: ModelInfo) -> dict[str, Any]:
        """{speed: root mean square of a velocity [c h w]}."""
        return {"speed": output.square().mean().sqrt().item()}

    def divergence(self, exact: Tensor, rounded: Tensor) -> Tensor:
        """Mean squared error of the velocity, as a part of its mean square."""
        exact, rounded = exact.double().flatten(1), rounded.double().flatten(1)
        return (rounded - exact).square().mean(1) / exact.square().mean(1).clamp(min=1e-12)

    def agreement(self, exact: Tensor, rounded: Tensor) -> Tensor:
        """1 - the relative error of the velocity, 0 where that is larger than 1."""
        return (1 - self.divergence(exact, rounded).sqrt()).clamp(min=0)

    def shown(self, outputs: Tensor) -> Tensor:
        """Velocities as they are, [b c h w]; what is drawn of a denoiser are pictures, see `ouro.jobs.sample`."""
        return outputs

    # ---- targets

    def told(self, target: Tensor, info: ModelInfo) -> dict[str, Any]:
        """{label: class name, or number} of the picture."""
        return Classification().told(target, info)

    def require(self, dataset: Dataset, source: str, info: ModelInfo) -> None:
        """Pictures of the model's classes, where it has some, that an embedded judge knows."""
        require_targets(dataset, source, info, "labels")
        judge_name(info)
        if info.num_classes:
            require_classes(dataset, source, info)

    def draw(self, info: ModelInfo, seed: int, first: int, count: int) -> Tensor:
        """Classes as in classification, NO_CLASS for a model that has none; int64 [count]."""
        if not info.num_classes:
            return torch.full((count,), NO_CLASS)
        return Classification().draw(info, seed, first, count)

    # ---- learning

    def lesson(self, batch: Batch, random: np.random.Generator) -> Batch:
        """x_t at times drawn evenly from [0, 1), its velocity, and (times, classes, some of them withheld)."""
        x1, count = batch.inputs, len(batch.inputs)
        x0 = torch.from_numpy(random.standard_normal(tuple(x1.shape), dtype=np.float32)).to(x1)
        t = torch.from_numpy(random.random(count)).to(x1)
        withheld = torch.from_numpy(random.random(count) < DROPPED).to(x1.device)
        y = torch.where(withheld, NO_CLASS, batch.labels)
        return Batch(along(x0, x1, t), velocity(x0, x1), conditions=(t, y))

    def teach(self, model: nn.Module, batch: Batch, smoothing: float) -> tuple[Tensor, Tensor]:
        """Mean squared error of the velocity; `smoothing` is of labels, and there are none."""
        t, y = batch.conditions
        outputs = model(batch.inputs, t, y) if model.num_classes else model(batch.inputs, t)
        return F.mse_loss(outputs, batch.labels), outputs.detach()

    def note(self, outputs: Tensor, batch: Batch) -> dict[str, float]:
        """Nothing: the loss says it all."""
        return {}

    # ---- calibration

    def calibration(
        self, images: Tensor, labels: Tensor | None, info: ModelInfo, seed: int
    ) -> tuple[Tensor, tuple[Tensor, ...]]:
        """Every picture at one diffusion time, and these spread over (0, 1): x_t, and (t, class)."""
        t = spread_times(len(images), seed)
        x0 = noise(info.input_size, seed, range(len(images)), CALIBRATION)
        return along(x0, images, t), (t, *_classes(info, labels, len(images)))

    def conditions(self, info: ModelInfo, count: int, seed: int) -> tuple[Tensor, ...]:
        """(times spread over (0, 1), every class as often) for noise, which is no x_t at any time but 0."""
        return (spread_times(count, seed), *_classes(info, self.draw(info, seed, 0, count), count))

    def imagined(self, model: VisionModel, count: int, seed: int) -> tuple[Tensor, tuple[Tensor, ...]]:
        """States of the model's own sampling: of each picture that it makes one, at a diffusion time where it was asked."""
        info = model.info
        given = _classes(info, self.draw(info, seed, 0, count), count)
        asked = (spread_times(count, seed) * STATES).long()
        x0, states = noise(info.input_size, seed, range(count), CALIBRATION), []
        for place in torch.arange(count).split(_CHUNK):
            y = given[0][place].to(model.device) if given else None
            guidance = GUIDANCE if given else 1.0
            walk = trajectory(model, x0[place].to(model.device), y, sampler="euler", steps=STATES, guidance=guidance)
            seen = torch.stack([x.cpu() for _, x in walk])
            states.append(seen[asked[place], torch.arange(len(place))])
        return torch.cat(states), (asked / STATES, *given)

    def loss(self, outputs: Tensor, targets: Tensor, kind: str) -> Tensor:
        """None: nobody synthesizes pictures for a model that makes its own."""
        raise ValueError(
            "a denoiser makes images itself, none are optimized for it; to calibrate on states of its own sampling, quantize "
            "with --calib synthetic:N"
        )

    # ---- score

    def run(self, model: VisionModel, images: Tensor, targets: Tensor | None) -> Tensor:
        """What a judge makes of a picture for each real one, and of that: [b 2 f+2], see `judged`.

        Raises:
            ValueError: pictures without class.
        """
        if targets is None:
            raise ValueError("these pictures have no class; a denoiser is scored on a data set with one for each")
        info = model.info
        real = to_pixels(images.cpu(), info.mean, info.std)
        x0 = noise(info.input_size, _SEED, [crc32(pixels.numpy().tobytes()) for pixels in real])
        y = targets.to(model.device) if info.num_classes else None
        guidance = 1.0 if y is None else GUIDANCE
        with judging(model):
            made = sample(model, x0.to(model.device), y, sampler=SAMPLER, steps=STEPS, guidance=guidance)
        if made.isnan().any():
            return made.new_full((len(made), 2, 3), torch.nan)
        pictures = to_pixels(made.cpu(), info.mean, info.std)
        return torch.stack([judged(info, x, targets, model.device) for x in (pictures, real)], dim=1)

    def outcomes(self, outputs: Tensor, targets: Tensor | None) -> Tensor:
        """What `run` returned, on the CPU."""
        if outputs.dim() != 3:
            raise ValueError("a velocity cannot be scored, the pictures that it leads to can; see Diffusion.run")
        return outputs.cpu()

    def score(self, outcomes: Tensor) -> dict[str, Any]:
        """{n, frechet, ci95, floor, recognized, real_recognized} of outcomes [n 2 f+2].

        frechet: distance of pictures and real ones. floor: mean distance of two halves of the real ones, alike in their
        classes. They have half as many each, and such a distance falls with the number: a perfect model scores about half
        of the floor. None where halves have fewer than two. recognized: share that the judge takes for the class that was
        asked for; real_recognized: for the class that real ones have. The interval is that of resampled pictures.
        """
        if not len(outcomes):
            raise ValueError("no picture to score")
        made, real = outcomes.double().unbind(1)
        return {
            "n": len(outcomes), "frechet": self.primary(outcomes), "ci95": _from_zero(interval(self.resampled(outcomes))),
            "floor": _floor(_features(real), real[:, -1]), "recognized": made[:, -2].mean().item(),
            "real_recognized": real[:, -2].mean().item(),
        }  # fmt: skip

    def primary(self, outcomes: Tensor) -> float:
        made, real = map(_features, outcomes.unbind(1))
        return distance(moments(made), moments(real)).item()

    def resampled(self, outcomes: Tensor) -> Tensor:
        """Distances of resamples of the images, moved so that their mean is the distance itself.

        A resample has some pictures twice, and so fewer different ones: that raises its distance, and would an interval.
        """
        made, real = map(_features, outcomes.double().unbind(1))
        chunks = weights(len(outcomes), COUNT).split(_CHUNK)
        drawn = torch.cat([distance(moments(made, rows), moments(real, rows)) for rows in chunks])
        return drawn - drawn.mean() + self.primary(outcomes)


def judge_name(info: ModelInfo) -> str:
    """The embedded classifier that looks at what a model draws.

    Raises:
        ValueError: there is none for what it was trained on.
    """
    known = info.data.partition(":")[0]
    if known not in JUDGES:
        raise ValueError(
            f"{info.name} draws {known or 'what no data set is named for'}, and no embedded classifier can judge that; "
            f"there are judges for {', '.join(JUDGES)}"
        )
    return JUDGES[known]


@torch.no_grad()
def judged(info: ModelInfo, pixels: Tensor, labels: Tensor, device: torch.device) -> Tensor:
    """What the judge of a model makes of its pictures, uint8 [b 3 h w], resized bilinearly to the judge's size.

    [b f+2]: features, whether it takes a picture for its label (1 or 0), and the label.
    """
    judge = _judge(judge_name(info), device)
    resized = F.interpolate(pixels.float(), judge.info.input_size[1:], mode="bilinear", align_corners=False)
    # `normalize` takes whole pixels, and nothing is rounded here
    tokens = judge.forward_features(standardize(resized / 255, judge.info.mean, judge.info.std).to(device))
    features, logits = judge.forward_head(tokens, pre_logits=True).cpu(), judge.forward_head(tokens).cpu()
    check_targets(labels, logits.shape[:1], logits.shape[1])
    right = logits.argmax(1) == labels.cpu()
    return torch.cat([features, torch.stack([right, labels.cpu()], dim=1).to(features)], dim=1)


@lru_cache(maxsize=2)
def _judge(name: str, device: torch.device) -> VisionModel:
    return create_model(name, pretrained=True).to(device)


def _classes(info: ModelInfo, labels: Tensor | None, count: int) -> tuple[Tensor, ...]:
    """The classes as a model is given them: NO_CLASS where nobody knows them, nothing where it has none."""
    if not info.num_classes:
        return ()
    return (torch.full((count,), NO_CLASS) if labels is None else labels,)


def _features(clouds: Tensor) -> Tensor:
    """[... f] of what `judged` returns."""
    return clouds[..., :-2]


def _floor(real: Tensor, labels: Tensor) -> float | None:
    """Mean distance of halves of the real features [n f], every second one of each class in a drawn order."""
    if len(real) < 4:
        return None
    distances = []
    for number in range(_SPLITS):
        order = torch.from_numpy(stream(_SEED, _HALVES, number).permutation(len(real)))
        order = order[labels[order].argsort(stable=True)]
        distances.append(distance(moments(real[order[::2]]), moments(real[order[1::2]])).item())
    return sum(distances) / _SPLITS


def _from_zero(ends: list[float]) -> list[float]:
    return [max(0.0, end) for end in ends]
