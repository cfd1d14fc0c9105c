"""Batches of a training, each a pure function of (seed, step): drawn from the data set, or from one held on the device."""

from __future__ import annotations

import math
from collections.abc import Callable
from functools import lru_cache
from typing import Any

import numpy as np
import torch
from torch import Tensor

from ouro.data import Dataset, kind, load, normalize
from ouro.data.augment import generator, jittered, mixed
from ouro.data.source import open_data
from ouro.jobs.recipes import Augment, TrainSpec
from ouro.tasks import task_of
from ouro.types import Batch, ModelInfo

MOST_BYTES = 4 * 2**30
"""What a training set may take on the device; all of CIFAR-10 takes 0.15 GB."""
_EPOCHS = 2**40
"""Steps whose random numbers are those of the epochs; no training has as many."""


def training_batches(spec: TrainSpec, info: ModelInfo, device: torch.device) -> Callable[[int], Batch]:
    """Step, counted over all rounds -> its batch of images as this model sees them, on the device.

    Raises:
        ValueError: a set without labels or, where the recipe holds or reveals, without room or masks.
    """
    data = training_set(spec, info)
    if spec.augment is not None:
        return Held(spec, spec.augment, data, info, device)
    return Drawn(spec, data, info, device)


def training_set(spec: TrainSpec, info: ModelInfo) -> Dataset:
    """The training split of the recipe's data set, seen as `open_data` shows it to this model.

    A set that is a series has one for every seed; it is drawn, so there is but one way to see it.
    """
    if "series" in kind(spec.data).provides:
        return load(spec.data, split="train", size=info.input_size[-1], seed=spec.seed)
    return open_data(spec.data, "train", info)


class Epochs:
    """Which of `count` images the batches hold: all of them once, in an order of their own in every epoch."""

    def __init__(self, count: int, seed: int, batch: int) -> None:
        self.count, self.seed, self.batch = count, seed, batch
        self._order = lru_cache(maxsize=2)(self._shuffled)

    def __call__(self, step: int) -> Tensor:
        """int64 [batch]; a batch may begin in one epoch and end in the next."""
        places = np.arange(step * self.batch, (step + 1) * self.batch)
        epochs, inside = np.divmod(places, self.count)
        chosen = [self._order(int(epoch))[inside[epochs == epoch]] for epoch in np.unique(epochs)]
        return torch.from_numpy(np.concatenate(chosen))

    def _shuffled(self, epoch: int) -> np.ndarray:
        return generator(self.seed, _EPOCHS + epoch).permutation(self.count)


class Drawn:
    """Images as the data set has them: fresh ones of a series, augmented ones, or those of a finite set in epochs."""

    def __init__(self, spec: TrainSpec, data: Any, info: ModelInfo, device: torch.device) -> None:
        if spec.reveal and "masks" not in data.provides:
            raise ValueError(f"reveal is {spec.reveal}, but {spec.data} has no masks; take 0")
        self.spec, self.data, self.info, self.device = spec, data, info, device
        self.task = task_of(info)
        self._epochs = Epochs(len(data), spec.seed, spec.batch)

    def __call__(self, step: int) -> Batch:
        images, labels = (x.to(self.device) for x in self._images(step))
        inputs = normalize(images, self.info.mean, self.info.std)
        if step < self.spec.reveal:
            masks = self.data.masks(step * self.spec.batch, self.spec.batch).to(self.device)
            inputs = revealed(inputs, masks, step / self.spec.reveal)
        return self.task.lesson(Batch(inputs, labels), generator(self.spec.seed, step))

    def _images(self, step: int) -> tuple[Tensor, Tensor]:
        size = self.spec.batch
        # masks belong to images as they are
        if "series" in self.data.provides or step < self.spec.reveal:
            return self.data.images(step * size, size)
        if not self.task.generates and "augmented" in self.data.provides:
            return self.data.augmented(step, size)
        pairs = [self.data.images(index, 1) for index in self._epochs(step).tolist()]
        return torch.cat([pixels for pixels, _ in pairs]), torch.cat([_labelled(self.spec, x) for _, x in pairs])


class Held:
    """Shuffled epochs over a set that lies whole on the device and is augmented there, see `Augment`.

    Raises:
        ValueError: images without labels, or more of them than the device is given.
    """

    def __init__(self, spec: TrainSpec, augment: Augment, data: Dataset, info: ModelInfo, device: torch.device) -> None:
        bytes_ = math.prod(info.input_size) * len(data)
        if bytes_ > MOST_BYTES:
            raise ValueError(
                f"{spec.data} has {len(data)} training images, {bytes_ / 1e9:.3g} GB; a recipe with augment holds at most "
                f"{MOST_BYTES / 1e9:.3g} GB on the device: leave augment out"
            )
        self.spec, self.augment, self.info, self.device = spec, augment, info, device
        images, labels = data.images(0, len(data))
        self.task = task_of(info)
        self._images, self._labels = images.to(device), _labelled(spec, labels).to(device)
        self._epochs = Epochs(len(data), spec.seed, spec.batch)

    def __call__(self, step: int) -> Batch:
        how, random = self.augment, generator(self.spec.seed, step)
        chosen = self._epochs(step).to(self.device)
        images, labels = jittered(self._images[chosen], random, pad=how.pad, light=how.light), self._labels[chosen]
        inputs = normalize(images, self.info.mean, self.info.std)
        if not how.mix:
            return self.task.lesson(Batch(inputs, labels), random)
        # a recorded step takes batches of one form: one that is not mixed is all its own
        part = how.mix if step < how.until * self.spec.steps else 0.0
        made = mixed(inputs, labels, random, part=part, alpha=how.alpha)
        return Batch(made.inputs, made.labels, made.others, torch.tensor(made.share, device=self.device))


def revealed(inputs: Tensor, masks: Tensor, share: float) -> Tensor:
    """Inputs [b 3 h w] in model space whose background is `share` of what it was; 0 is the mean color."""
    return torch.where(masks.unsqueeze(1), inputs, inputs * share)


def _labelled(spec: TrainSpec, labels: Tensor | None) -> Tensor:
    if labels is None:
        raise ValueError(
            f"the images of {spec.data} have no labels; training needs a folder with one sub-folder per class"
        )
    return labels
