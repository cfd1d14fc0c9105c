"""What rounding single sites costs: each alone, one after another, or all but one.

Damage is measured at the output, against the float model on the same images: mean KL(float || rounded) of the class
distributions in nats, the drop of top-1, the SQNR of the logits. All logits are kept and judged together, so it does
not matter how many images go through the model at once.
"""

from __future__ import annotations

import copy
from collections.abc import Callable, Generator, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from typing import Any, TypeVar

import torch
from torch import Tensor
from torch.nn import functional as F

from ouro.evaluate.fidelity import compare
from ouro.quant.apply import attach_calibration
from ouro.quant.bits import WIDE
from ouro.quant.sections import sections
from ouro.taps import detach, taps
from ouro.types import Calibration, Progress, QuantPlan
from ouro.vision import VisionModel

_Result = TypeVar("_Result")

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
    """kl in nats; top1_drop as a part of 1, None without labels; sqnr_db infinite where the logits are equal."""

    kl: float
    top1_drop: float | None
    sqnr_db: float


@dataclass(frozen=True, slots=True)
class Row:
    """A group's damage in the mode that was asked for, and its KL alone where that was measured."""

    group: Group
    damage: Damage
    isolated_kl: float | None


@dataclass(frozen=True, slots=True)
class Sensitivity:
    """Rows in the order of the mode; the float model's top-1 (None without labels); damage when all is rounded."""

    rows: tuple[Row, ...]
    top1: float | None
    whole: Damage


def sensitivity(
    model: VisionModel,
    calibration: Calibration,
    images: Tensor,
    labels: Tensor | None = None,
    *,
    mode: str = "isolated",
    by: str = "site",
    batch: int = BATCH,
) -> Generator[Progress, None, Sensitivity]:
    """Measures the sites of a calibration on images [n 3 h w] in model space; the model itself stays as it is.

    Args:
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
    subsets = Subsets(model, calibration, images, batch)
    return (yield from MODES[mode](subsets, grouped(model, calibration.plan, images[:1], by), labels))


def grouped(model: VisionModel, plan: QuantPlan, image: Tensor, by: str) -> list[Group]:
    """The plan's sites, rounded or not, in the order of the model; see `sensitivity`.

    Raises:
        ValueError: unknown grouping.
    """
    if by not in GROUPINGS:
        raise ValueError(f"unknown grouping {by!r}; known: {', '.join(GROUPINGS)}")
    # where a site is does not depend on its width
    every = replace(plan, sites={path: replace(spec, bits=WIDE) for path, spec in plan.sites.items()})
    found: dict[tuple[str, str], list[str]] = {}
    for part in sections(model, every, image):
        for path, (tap, _) in part.sites.items():
            found.setdefault((part.name, GROUPINGS[by](part.name, path, tap.site)), []).append(path)
    return [
        Group(
            name=paths[0] if by == "site" else f"{block} {kind}",
            block=block,
            kind=kind,
            paths=tuple(paths),
            bits=tuple(sorted({plan.sites[path].bits for path in paths})),
        )
        for (block, kind), paths in found.items()
    ]


GROUPINGS: dict[str, Callable[[str, str, str], str]] = {
    "site": lambda block, path, site: path.removeprefix(f"{block}."),
    "group": lambda block, path, site: site,
}
"""Grouping -> which sites of a block belong together."""


def damage(exact: Tensor, rounded: Tensor, labels: Tensor | None = None) -> Damage:
    """Of logits [n k] that stand for the float model's.

    Raises:
        RuntimeError: logits that are NaN.
    """
    if rounded.isnan().any():
        raise RuntimeError(f"the rounded model's logits are NaN for {int(rounded.isnan().any(1).sum())} images")
    drop = None if labels is None else _top1(exact, labels) - _top1(rounded, labels)
    return Damage(divergence(exact, rounded), drop, compare(exact, rounded).sqnr_db)


def divergence(exact: Tensor, rounded: Tensor) -> float:
    """Mean KL(exact || rounded), in nats, of the class distributions of logits [n k]."""
    wanted, found = (F.log_softmax(logits.double(), -1) for logits in (exact, rounded))
    # the divergence is never negative, its rounding may be
    return (wanted.exp() * (wanted - found)).sum(-1).mean().clamp(min=0).item()


def _top1(logits: Tensor, labels: Tensor) -> float:
    return (logits.argmax(1) == labels.to(logits.device)).double().mean().item()


class Subsets:
    """A calibrated model of which any subset of sites can be rounded."""

    def __init__(self, model: VisionModel, calibration: Calibration, images: Tensor, batch: int) -> None:
        self.model = copy.deepcopy(model).eval()
        self.parts = sections(self.model, calibration.plan, images[:1].to(next(model.parameters()).device))
        attach_calibration(self.model, calibration)
        self.taps = {path: tap for path, tap in taps(self.model) if tap.quantizer is not None}
        self.quantizers = {path: tap.quantizer for path, tap in self.taps.items()}
        detach(self.model)
        self.home = {path: number for number, part in enumerate(self.parts) for path in part.sites}
        self.batches = images.split(batch)

    def logits(self, subsets: Sequence[Sequence[str]]) -> Generator[Progress, None, list[Tensor]]:
        """Logits [n k] for every subset; what comes before its first site is as in the float model, and run once."""
        found: list[list[Tensor]] = [[] for _ in subsets]
        device = next(self.model.parameters()).device
        for number, images in enumerate(self.batches):
            with torch.no_grad():
                states: list[tuple[Any, ...]] = [(images.to(device),)]
                for part in self.parts:
                    states.append(part.run(*states[-1]))
            for place, paths in enumerate(subsets):
                first = min((self.home[path] for path in paths if path in self.home), default=len(self.parts))
                state = states[first]
                with torch.no_grad(), self._rounded(paths):
                    for part in self.parts[first:]:
                        state = part.run(*state)
                found[place].append(state[0])
                done, total = number * len(subsets) + place + 1, len(self.batches) * len(subsets)
                yield Progress(done, total, f"{place + 1} of {len(subsets)} subsets of the sites")
        return [torch.cat(logits) for logits in found]

    @contextmanager
    def _rounded(self, paths: Sequence[str]) -> Iterator[None]:
        try:
            for path in paths:
                if path in self.taps:
                    self.taps[path].quantizer = self.quantizers[path]
            yield
        finally:
            detach(self.model)


_Mode = Callable[[Subsets, Sequence[Group], Tensor | None], Generator[Progress, None, Sensitivity]]


def _isolated(
    subsets: Subsets, groups: Sequence[Group], labels: Tensor | None
) -> Generator[Progress, None, Sensitivity]:
    every = _union(groups)
    exact, whole, *alone = yield from subsets.logits([(), every, *(group.paths for group in groups)])
    damages = [damage(exact, logits, labels) for logits in alone]
    rows = [Row(group, found, found.kl) for group, found in zip(groups, damages, strict=True)]
    rows.sort(key=lambda row: -row.damage.kl)
    return _judged(rows, exact, whole, labels)


def _leave_one_float(
    subsets: Subsets, groups: Sequence[Group], labels: Tensor | None
) -> Generator[Progress, None, Sensitivity]:
    every = _union(groups)
    rest = [[path for path in every if path not in group.paths] for group in groups]
    exact, whole, *others = yield from subsets.logits([(), every, *rest])
    damages = [damage(exact, logits, labels) for logits in others]
    rows = [Row(group, found, None) for group, found in zip(groups, damages, strict=True)]
    rows.sort(key=lambda row: row.damage.kl)
    return _judged(rows, exact, whole, labels)


def _cumulative(
    subsets: Subsets, groups: Sequence[Group], labels: Tensor | None
) -> Generator[Progress, None, Sensitivity]:
    ranked = (yield from staged(_isolated(subsets, groups, labels), 0, 0.5, "alone")).rows[::-1]
    grown = [_union([row.group for row in ranked[: count + 1]]) for count in range(len(ranked))]
    exact, *found = yield from staged(subsets.logits([(), *grown]), 0.5, 1, "one after another")
    rows = [replace(row, damage=damage(exact, logits, labels)) for row, logits in zip(ranked, found, strict=True)]
    return _judged(rows, exact, found[-1], labels)


MODES: dict[str, _Mode] = {
    "isolated": _isolated,
    "cumulative": _cumulative,
    "leave_one_float": _leave_one_float,
}
"""Which subsets are measured, and how their rows are ranked."""


def _union(groups: Sequence[Group]) -> list[str]:
    return [path for group in groups for path in group.paths]


def _judged(rows: Sequence[Row], exact: Tensor, whole: Tensor, labels: Tensor | None) -> Sensitivity:
    top1 = None if labels is None else _top1(exact, labels)
    return Sensitivity(tuple(rows), top1, damage(exact, whole, labels))


def staged(
    job: Generator[Progress, None, _Result], begin: float, end: float, said: str
) -> Generator[Progress, None, _Result]:
    """The job as a part of a longer one, from `begin` to `end` of its time (parts of 1)."""
    while True:
        try:
            beat = next(job)
        except StopIteration as done:
            return done.value
        part = begin + (end - begin) * beat.step / beat.total
        yield Progress(round(1000 * part), 1000, f"{said}: {beat.message}", beat.data)
