"""What a model is for: what it puts out, what it is asked, and how its answers are judged; one file per task.

Everything that has to know the shape of an output or the meaning of a label is a method of `Task`. A new task is one
file and one line in `ouro.registry`.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Sequence
from typing import Any, ClassVar

import numpy as np
import torch
from torch import Tensor, nn

from ouro.data import Dataset
from ouro.registry import TASKS
from ouro.types import Batch, ModelInfo
from ouro.vision import VisionModel, judging


class Task(ABC):
    """One task. Outputs are what the model returns for images [b 3 h w]; targets are what it should have returned.

    metric: the main score's name, a key of `score` and of `ouro.metrics.METRICS`.
    targets: what data sets have to give beside the images, see `ouro.data.Dataset`.
    generates: whether the model makes images itself. Then it learns from images as they are, is scored by those that it
        makes in many forwards (`run`), not by the outputs of one, and nobody has to synthesize any for it.
    quick: whether a score costs next to nothing, so that it may be said again after every batch.
    """

    name: ClassVar[str]
    metric: ClassVar[str]
    targets: ClassVar[str] = "labels"
    generates: ClassVar[bool] = False
    quick: ClassVar[bool] = True

    # ---- outputs

    def cat(self, outputs: Sequence[Any]) -> Any:
        """Outputs of some batches as one of all their images."""
        return torch.cat(list(outputs))

    def cpu(self, outputs: Any) -> Any:
        """Outputs on the CPU, where they are kept and judged."""
        return outputs.cpu()

    def tensor(self, outputs: Any) -> Tensor:
        """Outputs as one tensor [b ...], for ratios of signal to noise."""
        return outputs

    def check(self, outputs: Any) -> None:
        """Refuses outputs that are NaN.

        Raises:
            RuntimeError: the message says of how many images.
        """
        values = self.tensor(outputs).flatten(1)
        if bad := int(values.isnan().any(1).sum()):
            raise RuntimeError(f"the model's outputs are NaN for {bad} of {len(values)} images; is an input NaN?")

    @abstractmethod
    def answer(self, output: Any, info: ModelInfo) -> dict[str, Any]:
        """What a person reads of one image's output, as JSON values."""

    @abstractmethod
    def shown(self, outputs: Any) -> Tensor:
        """Answers as they are drawn, [b ...]; each task says what they are."""

    # ---- targets

    @abstractmethod
    def told(self, target: Tensor, info: ModelInfo) -> dict[str, Any]:
        """What a person reads of one image's target, as JSON values; where it can be, in the words of `answer`."""

    @abstractmethod
    def require(self, dataset: Dataset, source: str, info: ModelInfo) -> None:
        """Refuses a data set, spelled `source`, that does not pose this task as the model knows it.

        Raises:
            ValueError: what was given, what is allowed, what to do.
        """

    @abstractmethod
    def draw(self, info: ModelInfo, seed: int, first: int, count: int) -> Any:
        """Targets of the synthetic images first .. first + count, each a function of (seed, its number) alone."""

    # ---- both

    def run(self, model: VisionModel, images: Tensor, targets: Any) -> Any:
        """Outputs for images [b 3 h w] on the model's device, to be judged by these targets; without gradient, in eval mode."""
        with torch.no_grad(), judging(model):
            return model(images)

    def lesson(self, batch: Batch, random: np.random.Generator) -> Batch:
        """What is learned from a batch of images and targets; all chance comes from `random`."""
        return batch

    def calibration(
        self, images: Tensor, labels: Tensor | None, info: ModelInfo, seed: int
    ) -> tuple[Tensor, tuple[Tensor, ...]]:
        """(inputs, what the model is given beside them) that real images [s 3 h w] in model space stand for."""
        return images, ()

    def conditions(self, info: ModelInfo, count: int, seed: int) -> tuple[Tensor, ...]:
        """What the model is given beside `count` inputs that show nothing."""
        return ()

    def imagined(self, model: VisionModel, count: int, seed: int) -> tuple[Tensor, tuple[Tensor, ...]]:
        """(inputs, what the model is given beside them) from the model alone, if it `generates`.

        Raises:
            ValueError: it does not.
        """
        raise ValueError(f"{model.info.name} makes no images; `ouro generate` synthesizes some for it")

    @abstractmethod
    def teach(self, model: nn.Module, batch: Batch, smoothing: float) -> tuple[Tensor, Any]:
        """(loss [], outputs without gradient) of a model in training."""

    def note(self, outputs: Any, batch: Batch) -> dict[str, float]:
        """How well a batch was answered in training, for its log."""
        return {f"batch_{self.metric}": self.primary(self.outcomes(outputs, batch.main_labels()))}

    @abstractmethod
    def loss(self, outputs: Any, targets: Any, kind: str) -> Tensor:
        """How far synthetic images are from their targets, [b]: L_O of OuroMamba; no sample sees another.

        Raises:
            ValueError: an unknown kind.
        """

    @abstractmethod
    def divergence(self, exact: Any, rounded: Any) -> Tensor:
        """How far rounded outputs are from those they stand for, [b], float64, 0 where they are equal."""

    @abstractmethod
    def agreement(self, exact: Any, rounded: Any) -> Tensor:
        """To which part the answers are the same, [b] in 0 to 1."""

    def decided(self, outputs: Any) -> Tensor | None:
        """The class that each image is taken for, int64 [b] on the CPU; None where an answer is more than one class."""
        return None

    @abstractmethod
    def outcomes(self, outputs: Any, targets: Any) -> Tensor:
        """What there is to score image by image, [b ...], on the CPU.

        Raises:
            ValueError: there are no targets, or they are none of these outputs.
        """

    @abstractmethod
    def score(self, outcomes: Tensor) -> dict[str, Any]:
        """{n, `metric`, ci95} of outcomes; shares are parts of 1.

        Raises:
            ValueError: no image.
        """

    def resampled(self, outcomes: Tensor) -> Tensor:
        """The main score of resamples of the images, see `ouro.tasks.resample`; the same ones for all models.

        Raises:
            NotImplementedError: outcomes of this task are paired image by image.
        """
        raise NotImplementedError(f"{self.name} is compared image by image")

    def primary(self, outcomes: Tensor) -> float:
        """The main score of outcomes."""
        return self.score(outcomes)[self.metric]


def task_of(model: VisionModel | ModelInfo) -> Task:
    """The task that a model is for.

    Raises:
        ValueError: it is for one that is not here, or no model of ours.
    """
    info = model if isinstance(model, ModelInfo) else getattr(model, "info", None)
    if info is None:
        raise ValueError(
            f"a {type(model).__name__} is no model of ours; give what ouro.create_model made, of a wrapper its .module"
        )
    if info.task not in TASKS:
        raise ValueError(f"{info.name} is for {info.task}, which cannot be scored here; known: {', '.join(TASKS)}")
    return TASKS.get(info.task)()
