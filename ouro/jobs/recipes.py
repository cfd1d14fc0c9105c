"""What a training run depends on, and the recipes of the embedded checkpoints."""

from __future__ import annotations

from dataclasses import dataclass, replace

from ouro.settings import check_count
from ouro.types import ModelSource


@dataclass(frozen=True, slots=True)
class Round:
    """One cosine of the learning rate, from `lr` to zero, over phases of (image size, steps)."""

    lr: float
    phases: tuple[tuple[int, int], ...]

    @property
    def steps(self) -> int:
        return sum(steps for _, steps in self.phases)


@dataclass(frozen=True, slots=True)
class Augment:
    """How batches are made of a set that is held whole on the device: shuffled epochs, moved, relit and mixed.

    pad: pixels that an image is moved by at most; half of the images are mirrored.
    light: how far contrast and brightness go, see `ouro.data.augment.jittered`.
    mix: share of the batches that are mixed, by mixup or CutMix; see `ouro.data.augment.mixed`.
    alpha: of the Beta distribution that their shares are drawn from.
    until: part of the steps after which no batch is mixed any more.
    """

    pad: int = 4
    light: float = 0.1
    mix: float = 0.5
    alpha: float = 0.8
    until: float = 0.9


@dataclass(frozen=True, slots=True)
class TrainSpec:
    """Everything a training run depends on.

    The learning rate rises over `warmup` steps in each phase and falls as one cosine over a round; matrices decay, norms,
    biases, tokens, A and D do not. Weights are averaged as they go: `ema` is what a step keeps of the average.

    reveal: over this many first steps the background fades in, from the mean color to what it is; 0 shows it at once.
        Models without a class token take long to find a small object in clutter that they have never seen alone.
    augment: None takes batches as the data set makes them (fresh or augmented ones).
    device: "auto", "cpu", "cuda" or "cuda:1". start: the model whose weights are trained on; None draws new ones.
    body: the classifier whose weights the backbone of a dense model starts with; "" draws new ones.
    class_names: of the classes where they are others than the variant's; the head is made for them.
    held_out: the set of the card's score; "" for the test split of `data`.
    """

    name: str
    data: str
    rounds: tuple[Round, ...]
    seed: int = 0
    batch: int = 64
    weight_decay: float = 0.05
    warmup: int = 100
    smoothing: float = 0.1
    clip: float = 1.0
    ema: float = 0.99
    reveal: int = 0
    augment: Augment | None = None
    device: str = "auto"
    start: ModelSource | None = None
    body: str = ""
    class_names: tuple[str, ...] = ()
    held_out: str = ""

    @property
    def steps(self) -> int:
        return sum(each.steps for each in self.rounds)

    def shortened(self, steps: int) -> TrainSpec:
        """So many steps in one round at the size where the recipe ends, with the rate of its last round.

        Raises:
            ValueError: fewer than one step.
        """
        check_count("steps", steps)
        last = self.rounds[-1]
        rounds = (Round(last.lr, ((last.phases[-1][0], steps),)),)
        return replace(self, rounds=rounds, warmup=max(1, min(self.warmup, steps // 10)), reveal=0)


def _cifar10(name: str, steps: int, seed: int) -> TrainSpec:
    return TrainSpec(
        name, "cifar10", (Round(2e-3, ((32, steps),)),), seed, batch=512, warmup=300, smoothing=0.05, ema=0.998,
        augment=Augment(),
    )  # fmt: skip


RECIPES = {
    "vim_nano": TrainSpec("vim_nano", "scenes", (Round(2e-3, ((32, 1600), (56, 700))), Round(1.5e-3, ((56, 1000),)))),
    "vim_nano_witness": TrainSpec("vim_nano_witness", "scenes", (Round(2e-3, ((32, 1600), (56, 400))),), seed=1),
    "vmamba_nano": TrainSpec(
        "vmamba_nano", "scenes", (Round(2e-3, ((32, 900), (56, 500))), Round(2e-3, ((56, 1200),))), reveal=300
    ),
    "localvmamba_nano": TrainSpec(
        "localvmamba_nano", "scenes", (Round(2e-3, ((32, 900), (56, 500))), Round(2e-3, ((56, 1200),))), reveal=300
    ),
    "mambavision_nano": TrainSpec(
        "mambavision_nano", "scenes", (Round(2e-3, ((56, 900),)), Round(2e-3, ((56, 900),))), reveal=300
    ),
    "vim_nano_digits": TrainSpec("vim_nano_digits", "digits", (Round(2e-3, ((32, 300), (56, 150))),)),
    "vmamba_nano_seg": TrainSpec(
        "vmamba_nano_seg",
        "scenes_seg",
        (
            Round(1.5e-3, ((96, 1000),)),
            Round(1e-3, ((96, 1000),)),
            Round(1.5e-3, ((96, 2200),)),
            Round(1e-3, ((96, 900),)),
        ),
        batch=16,
        smoothing=0.0,
        body="vmamba_nano",
    ),
    # no weight decays, as in the official code
    "zigma_nano": TrainSpec(
        "zigma_nano", "digits", (Round(1.5e-3, ((16, 2200),)),), weight_decay=0.0, smoothing=0.0, ema=0.998
    ),
    "vmamba_nano_det": TrainSpec(
        "vmamba_nano_det",
        "scenes_det",
        (Round(1e-3, ((96, 1000),)), Round(1e-3, ((96, 1000),))),
        batch=16,
        smoothing=0.0,
        body="vmamba_nano",
    ),
    "vim_micro_cifar10": _cifar10("vim_micro_cifar10", 3067, seed=0),
    "vim_micro_cifar10_witness": _cifar10("vim_micro_cifar10_witness", 1335, seed=1),
}
"""Embedded checkpoint -> how it is trained; a witness only ever judges what another model synthesized.

Those on CIFAR-10 take the whole set and a GPU: 31 and 14 times 50,000 images.
"""
