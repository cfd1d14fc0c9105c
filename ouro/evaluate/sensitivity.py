"""What rounding single sites costs: each alone, one after another, or all but one.

Damage is measured at the output, against the float model on the same images: the mean divergence of the task (of a
classifier KL(float || rounded) of the class distributions in nats), the drop of its score, the SQNR of the outputs. All
outputs are kept and judged together, so it does not matter how many images go through the model at once.
"""

from __future__ import annotations

import copy
from collections.abc import Callable, Generator, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import Tensor

from ouro.evaluate.fidelity import compare
from ouro.progress import staged
from ouro.quant.apply import attach_calibration
from ouro.quant.bits import WIDE
from ouro.quant.sections import chunked, sections
from ouro.taps import detach, taps
from ouro.tasks import Task, task_of
from ouro.types import Calibration, Progress, QuantPlan
from ouro.vision import VisionModel

BATCH = 32
"""Images that go through the model at once, for as many of which the float states of every block are kept."""


@dataclass(frozen=True, slots=True)
class Group:
    """Sites that are rounded or left alone together, of one block.

    kind: of a single site its path inside the block, of a group the site (`ouro.taps.SITES`) that its taps share.
    bits: the widths that occur, in rising order.
    """

    name: str
    block: str
    kind: str
    paths: tuple[str, ...]
    bits: tuple[int, ...]


@dataclass(frozen=True, slots=True)
class Damage:
    """kl: mean divergence, of a classifier in nats. drop of the task's score, None without labels. sqnr_db: infinite where
    the outputs are equal."""

    kl: float
    drop: float | None
    sqnr_db: float


@dataclass(frozen=True, slots=True)
class Row:
    """A group's damage in the mode that was asked for, and its KL alone where that was measured."""

    group: Group
    damage: Damage
    isolated_kl: float | None


@dataclass(frozen=True, slots=True)
class Sensitivity:
    """Rows in the order of the mode; the float model's score (None without labels); damage when all is rounded."""

    rows: tuple[Row, ...]
    score: float | None
    whole: Damage


def sensitivity(
    model: VisionModel,
    calibration: Calibration,
    images: Tensor,
    labels: Tensor | None = None,
    *,
    conditions: Sequence[Tensor] = (),
    mode: str = "isolated",
    by: str = "site",
    batch: int = BATCH,
) -> Generator[Progress, None, Sensitivity]:
    """Measures the sites of a calibration on images [n 3 h w] in model space; the model itself stays as it is.

    Args:
        conditions: what the model is given beside the images, each [n].
        mode: "isolated", only this one rounded, most harmful first; "cumulative", rounded one after another in rising
            order of isolated KL, every row with all rows before it; "leave_one_float", all rounded but this one, the
            row that helps most first.
        by: "site", or "group": the sites of a block that are of the same kind together.
        batch: images that go through the model at once.

    Raises:
        ValueError: unknown mode or grouping, no image, or a calibration of another model.
        RuntimeError: logits that are NaN.
    """
    if mode not in MODES:
        raise ValueError(f"unknown mode {mode!r}; known: {', '.join(MODES)}")
    if not len(images) or batch < 1:
        raise ValueError(f"{len(images)} images in batches of {batch} were given, expected 1 or more of both")
    subsets = Subsets(model, calibration, images, batch, labels, conditions)
    groups = grouped(model, calibration.plan, images[:1], by, [given[:1] for given in conditions])
    return (yield from MODES[mode](subsets, groups))


def grouped(
    model: VisionModel, plan: QuantPlan, image: Tensor, by: str, conditions: Sequence[Tensor] = ()
) -> list[Group]:
    """The plan's sites, rounded or not, in the order of the model; see `sensitivity`.

    Raises:
        ValueError: unknown grouping.
    """
    if by not in GROUPINGS:
        raise ValueError(f"unknown grouping {by!r}; known: {', '.join(GROUPINGS)}")
    # where a site is does not depend on its width
    every = replace(plan, sites={path: replace(spec, bits=WIDE) for path, spec in plan.sites.items()})
    by_group: dict[tuple[str, str], list[str]] = {}
    for part in sections(model, every, image, *conditions):
        for path, (tap, _) in part.sites.items():
            by_group.setdefault((part.name, GROUPINGS[by](part.name, path, tap.site)), []).append(path)
    return [
        Group(
            name=paths[0] if by == "site" else f"{block} {kind}",
            block=block,
            kind=kind,
            paths=tuple(paths),
            bits=tuple(sorted({plan.sites[path].bits for path in paths})),
        )
        for (block, kind), paths in by_group.items()
    ]


GROUPINGS: dict[str, Callable[[str, str, str], str]] = {
    "site": lambda block, path, site: path.removeprefix(f"{block}."),
    "group": lambda block, path, site: site,
}
"""Grouping -> which sites of a block belong together."""


def damage(task: Task, exact: Any, rounded: Any, targets: Tensor | None = None) -> Damage:
    """Of outputs that stand for the float model's.

    Raises:
        RuntimeError: outputs that are NaN.
    """
    task.check(rounded)
    kl = divergence(task, exact, rounded)
    drop = None if targets is None else _score(task, exact, targets) - _score(task, rounded, targets)
    return Damage(kl, drop, compare(task.tensor(exact), task.tensor(rounded)).sqnr_db)


def divergence(task: Task, exact: Any, rounded: Any) -> float:
    """Mean divergence of rounded outputs from the exact ones, as their task measures it."""
    # it is never negative, its rounding may be
    return task.divergence(exact, rounded).mean().clamp(min=0).item()


def _score(task: Task, outputs: Any, targets: Tensor) -> float:
    return task.primary(task.outcomes(outputs, targets))


class Subsets:
    """A calibrated model of which any subset of sites can be rounded, and images to judge it by."""

    def __init__(
        self, model: VisionModel, calibration: Calibration, images: Tensor, batch: int, targets: Tensor | None = None,
        conditions: Sequence[Tensor] = (),
    ) -> None:  # fmt: skip
        self.model, self.task, self.targets = copy.deepcopy(model).eval(), task_of(model), targets
        # on their way they are on the CPU: all images at once may be many
        self.batches = chunked(batch, images, *conditions, device=images.device)
        self.parts = sections(self.model, calibration.plan, *(given[:1] for given in self.batches[0]))
        attach_calibration(self.model, calibration)
        self.taps = {path: tap for path, tap in taps(self.model) if tap.quantizer is not None}
        self.quantizers = {path: tap.quantizer for path, tap in self.taps.items()}
        detach(self.model)
        self.home = {path: number for number, part in enumerate(self.parts) for path in part.sites}

    def outputs(self, subsets: Sequence[Sequence[str]]) -> Generator[Progress, None, list[Any]]:
        """Outputs for every subset; what comes before its first site is as in the float model, and run once."""
        parts: list[list[Any]] = [[] for _ in subsets]
        device = self.model.device
        for number, given in enumerate(self.batches):
            with torch.no_grad():
                states: list[tuple[Any, ...]] = [tuple(part.to(device) for part in given)]
                for part in self.parts:
                    states.append(part.run(*states[-1]))
            for place, paths in enumerate(subsets):
                first = min((self.home[path] for path in paths if path in self.home), default=len(self.parts))
                state = states[first]
                with torch.no_grad(), self._rounded(paths):
                    for part in self.parts[first:]:
                        state = part.run(*state)
                parts[place].append(self.task.cpu(state[0]))
                done, total = number * len(subsets) + place + 1, len(self.batches) * len(subsets)
                yield Progress(done, total, f"{place + 1} of {len(subsets)} subsets of the sites")
        return [self.task.cat(outputs) for outputs in parts]

    def damage(self, exact: Any, rounded: Any) -> Damage:
        """Of outputs that stand for the float model's."""
        return damage(self.task, exact, rounded, self.targets)

    def judged(self, rows: Sequence[Row], exact: Any, whole: Any) -> Sensitivity:
        """The rows, with the float model's score and the damage when all is rounded."""
        score = None if self.targets is None else _score(self.task, exact, self.targets)
        return Sensitivity(tuple(rows), score, self.damage(exact, whole))

    @contextmanager
    def _rounded(self, paths: Sequence[str]) -> Iterator[None]:
        try:
            for path in paths:
                if path in self.taps:
                    self.taps[path].quantizer = self.quantizers[path]
            yield
        finally:
            detach(self.model)


_Mode = Callable[[Subsets, Sequence[Group]], Generator[Progress, None, Sensitivity]]


def _isolated(subsets: Subsets, groups: Sequence[Group]) -> Generator[Progress, None, Sensitivity]:
    every = _union(groups)
    exact, whole, *alone = yield from subsets.outputs([(), every, *(group.paths for group in groups)])
    damages = [subsets.damage(exact, rounded) for rounded in alone]
    rows = [Row(group, damage, damage.kl) for group, damage in zip(groups, damages, strict=True)]
    rows.sort(key=lambda row: -row.damage.kl)
    return subsets.judged(rows, exact, whole)


def _leave_one_float(subsets: Subsets, groups: Sequence[Group]) -> Generator[Progress, None, Sensitivity]:
    every = _union(groups)
    rest = [[path for path in every if path not in group.paths] for group in groups]
    exact, whole, *others = yield from subsets.outputs([(), every, *rest])
    damages = [subsets.damage(exact, rounded) for rounded in others]
    rows = [Row(group, damage, None) for group, damage in zip(groups, damages, strict=True)]
    rows.sort(key=lambda row: row.damage.kl)
    return subsets.judged(rows, exact, whole)


def _cumulative(subsets: Subsets, groups: Sequence[Group]) -> Generator[Progress, None, Sensitivity]:
    ranked = (yield from staged(_isolated(subsets, groups), 0, 0.5, "alone")).rows[::-1]
    grown = [_union([row.group for row in ranked[: count + 1]]) for count in range(len(ranked))]
    exact, *after = yield from staged(subsets.outputs([(), *grown]), 0.5, 1, "one after another")
    rows = [replace(row, damage=subsets.damage(exact, rounded)) for row, rounded in zip(ranked, after, strict=True)]
    return subsets.judged(rows, exact, after[-1])


MODES: dict[str, _Mode] = {
    "isolated": _isolated,
    "cumulative": _cumulative,
    "leave_one_float": _leave_one_float,
}
"""Which subsets are measured, and how their rows are ranked."""


def _union(groups: Sequence[Group]) -> list[str]:
    return [path for group in groups for path in group.paths]
