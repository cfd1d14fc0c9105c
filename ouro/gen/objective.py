"""What generation methods share: which blocks they read, one vector per patch from each, class and smoothness terms.

A method is a subclass that says which features there are and what is asked of them (`patch_term`).
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Annotated, Any, ClassVar, Literal

import torch
from torch import Tensor

from ouro.attention.implicit import alpha
from ouro.attention.maps import by_mixer, in_raster
from ouro.gen.losses import total_variation
from ouro.registry import GENERATORS
from ouro.scan import selective_scan
from ouro.scan.order import to_raster
from ouro.settings import Least, check_options
from ouro.streams import generator
from ouro.tasks import task_of
from ouro.types import PatchWindow, ScanInputs, ScanRecord, Trace
from ouro.vision import VisionModel

# PSAQ-ViT's weight 0.05 on its own scale, where white noise has 12371
_NOISE_VARIATION = 12371


def make_objective(name: str, model: VisionModel, seed: int, options: Mapping[str, Any]) -> Objective:
    """The registered generation method with these options, for a model.

    Raises:
        ValueError: unknown method, or an option it does not have or refuses.
    """
    check_generator(name, options)
    return GENERATORS.get(name)(model, seed=seed, **options)


def check_generator(name: str, options: Mapping[str, Any]) -> None:
    """Refuses what `make_objective` would, as far as that is known without a model.

    Raises:
        ValueError: as said.
    """
    check_options("method", name, GENERATORS.get(name), options)


class Objective:
    """Class prior and smoothness; `patterns` are the taps that a trace needs.

    Args:
        class_weight, class_loss: of the target class, see `loss` of its task.
        smooth_weight: of the total variation's distance from what each image should have.
    """

    title: ClassVar[str]
    """What people call the method."""
    patterns: tuple[str, ...] = ()
    optimizes = True
    """Whether there is anything to optimize; without it the initial noise is the set."""

    def __init__(
        self, model: VisionModel, *, seed: int = 0, class_weight: Annotated[float, Least(0)] = 1.0,
        smooth_weight: Annotated[float, Least(0)] = 0.05,
        class_loss: Literal["cross_entropy", "mae"] = "cross_entropy",
    ) -> None:  # fmt: skip
        self.seed, self.task = seed, task_of(model)
        self.class_weight, self.smooth_weight, self.class_loss = class_weight, smooth_weight, class_loss

    def losses(
        self, trace: Trace, logits: Tensor, labels: Tensor, images: Tensor, smooth: Tensor
    ) -> Mapping[str, Tensor]:
        """Weighted loss terms, each [b]; `smooth` [b] is the total variation each image should have."""
        off = (total_variation(images) - smooth).abs()
        return {
            **self.patch_terms(trace),
            "class": self.class_weight * self.task.loss(logits, labels, self.class_loss),
            "smooth": self.smooth_weight * _NOISE_VARIATION * off,
        }

    def patch_terms(self, trace: Trace) -> dict[str, Tensor]:
        """Terms [b] that look at patches; none here."""
        return {}


class PatchObjective(Objective):
    """An objective with a term on the features of patches, the mean over some blocks of the model.

    Args:
        features: one of `choices`.
        blocks: how many mixers feed the term, evenly spaced; 0 takes all.
        channels: how many channels per scan feed features that have channels, drawn by the seed; 0 takes all.

    Raises:
        ValueError: unknown features, or fewer than no blocks or channels.
    """

    choices: tuple[str, ...] = ()

    def __init__(
        self, model: VisionModel, *, seed: int = 0, features: str, blocks: Annotated[int, Least(0)] = 4,
        channels: Annotated[int, Least(0)] = 64,
        class_weight: Annotated[float, Least(0)] = 1.0,
        smooth_weight: Annotated[float, Least(0)] = 0.05, class_loss: Literal["cross_entropy", "mae"] = "cross_entropy",
    ) -> None:  # fmt: skip
        super().__init__(
            model, seed=seed, class_weight=class_weight, smooth_weight=smooth_weight, class_loss=class_loss
        )
        if features not in self.choices:
            raise ValueError(f"unknown features {features!r}; known: {', '.join(self.choices)}")
        for name, value in (("blocks", blocks), ("channels", channels)):
            if value < 0:
                raise ValueError(f"{name} is {value}, expected 0 (all) or more")
        self.features, self.channels = features, channels
        paths = list(model.mixers())
        count = min(blocks, len(paths)) or len(paths)
        chosen = [paths[-(-(i + 1) * len(paths) // count) - 1] for i in range(count)]
        self.patterns = tuple(f"{path}.scans.*" for path in chosen)

    def patch_terms(self, trace: Trace) -> dict[str, Tensor]:
        """Mean over blocks; the scans of one block are merged in raster order first (G6).

        Raises:
            FloatingPointError: features that are not finite; the message names the mixer.
        """
        terms = []
        grids = [scans[0].order.grid for scans in by_mixer(trace.scans).values()]
        for (path, merged), grid in zip(self.per_block(trace).items(), grids, strict=True):
            if not merged.isfinite().all():
                raise FloatingPointError(f"the features of {path} became NaN or infinite")
            terms.append(self.of_features(merged, grid))
        return {name: torch.stack([of_block[name] for of_block in terms]).mean(0) for name in terms[0]}

    def per_block(self, trace: Trace) -> dict[str, Tensor]:
        """Path of a mixer that is read -> its features [b p f] in raster order, the mean over its scans."""
        return {
            path: torch.stack([self.feature(scan, number) for scan in scans]).mean(0)
            for number, (path, scans) in enumerate(by_mixer(trace.scans).items())
        }

    def feature(self, scan: ScanRecord, number: int) -> Tensor:
        """One vector per patch in raster order, [b p f]; `number` counts the blocks that are read."""
        raise NotImplementedError

    def of_features(self, features: Tensor, grid: tuple[int, int]) -> dict[str, Tensor]:
        """The terms of one block, each [b]."""
        raise NotImplementedError

    def drawn(self, scan: ScanRecord, number: int) -> ScanInputs:
        """The scan's operands with the drawn channels only, without the skip."""
        inputs, count = scan.inputs, scan.inputs.u.shape[1]
        if not self.channels or self.channels >= count:
            return ScanInputs(inputs.u, inputs.delta, inputs.A, inputs.B, inputs.C, None)
        stream = generator(self.seed * 1000 + number)
        drawn = torch.randperm(count, generator=stream)[: self.channels]
        # grouped B and C belong to channels by their place, so those are drawn per group
        if inputs.B.dim() == 4:
            groups = inputs.B.shape[1]
            within = count // groups
            few = torch.randperm(within, generator=stream)[: max(1, self.channels // groups)]
            drawn = (torch.arange(groups)[:, None] * within + few).flatten()
        drawn = drawn.to(inputs.u.device)
        return ScanInputs(inputs.u[:, drawn], inputs.delta[:, drawn], inputs.A[drawn], inputs.B, inputs.C, None)


def plain_feature(objective: PatchObjective, scan: ScanRecord, number: int) -> Tensor:
    """Without the patched state: "alpha" is a patch's row of the implicit attention, "y" what it reads, C h."""
    if objective.features == "alpha":
        return in_raster(alpha(scan), scan.order)
    y = selective_scan(objective.drawn(scan, number)).y
    return to_raster(y, scan.order).transpose(1, 2)


def patched_feature(
    objective: PatchObjective, scan: ScanRecord, number: int, window: PatchWindow,
    rows: Callable[[ScanRecord], Tensor],
) -> Tensor:  # fmt: skip
    """With the patched state: "alpha_p" is a patch's row of the patched attention, "y_p" is C h_p."""
    if objective.features == "alpha_p":
        return rows(scan)
    y_p = selective_scan(objective.drawn(scan, number), window=window).y_p
    assert y_p is not None
    return y_p.transpose(1, 2)
