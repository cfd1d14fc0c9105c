"""Noise -> images -> CalibrationSet: generation that goes on where it was killed, with live losses and thumbnails.

A finished chunk is kept as it is, and of the one at work every few seconds all that its next steps depend on.
"""

from __future__ import annotations

import json
import math
import os
import time
from collections.abc import Callable, Generator, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from ouro.data.source import space_of
from ouro.gen.objective import Objective, check_generator, make_objective
from ouro.gen.synthesize import (
    GROUP,
    Diverged,
    initial_images,
    optimize,
    recognized,
    saved_bytes,
    to_pixels,
)
from ouro.jobs.distributed import Ranks, joined
from ouro.jobs.inputs import identity, open_model, source_of
from ouro.jobs.memory import available_bytes
from ouro.jobs.provenance import run_info
from ouro.models import create_model
from ouro.models.zoo import witnesses_of
from ouro.progress import finish, mapped
from ouro.quant.calibrate import images_digest
from ouro.settings import check_count
from ouro.store import Run, Store, check_writable, write_tensors
from ouro.streams import check_seed
from ouro.tasks import task_of
from ouro.types import CalibrationSet, ModelSource, Progress, Report
from ouro.vision import VisionModel

KEEP_EVERY = 5.0
"""Seconds after which the work on a chunk is kept at the latest, where that takes no more than a twentieth of the time."""


@dataclass(frozen=True, slots=True)
class SynthesisSpec:
    """What a synthetic set depends on; `options` go to the generation method, `batch` is the size of a chunk.

    Raises:
        ValueError: a count below 1, negative steps, or an unknown method.
    """

    model: ModelSource
    method: str = "ouro"
    num: int = 128
    steps: int = 160
    seed: int = 0
    batch: int = 32
    lr: float = 0.2
    options: tuple[tuple[str, Any], ...] = ()
    out: str | None = None
    device: str = "auto"

    def __post_init__(self) -> None:
        object.__setattr__(self, "model", source_of(self.model))
        for name, least in (("num", 1), ("steps", 0), ("batch", 1)):
            check_count(name, getattr(self, name), least)
        check_seed(self.seed)
        if not self.lr > 0:
            raise ValueError(f"lr is {self.lr}, expected a positive number")
        check_generator(self.method, dict(self.options))


def synthesize(spec: SynthesisSpec, *, root: str | os.PathLike[str] | None = None) -> Generator[Progress, None, Report]:
    """Generates a set; the same spec goes on where it was stopped, at most some seconds before, to the same images.

    Two runs of one spec give files with the same tensors and the same header, times are kept in the report alone; the
    order of the header's fields is safetensors' own, so compare tensors or `set_digest` rather than bytes.

    Started by torchrun, ranks take turns at the chunks and meet in the store, which all of them have to see: the same
    images as in one process of as many threads (how a sum is split over threads shows in its last bits).

    Args:
        root: where runs are stored; `ouro.store.default_root()` by default.

    Raises:
        ValueError: unknown model or option, or more images than the free memory holds.
        Diverged: a loss became NaN or infinite; what was there before is kept beside the chunks.
        WriteError: the run or `spec.out` cannot be written; checked before the work begins.
    """
    started = time.perf_counter()
    if spec.out is not None:
        check_writable(spec.out)
    model = open_model(spec.model, spec.device)
    if task_of(model).generates:
        raise ValueError(
            f"{spec.model.name} makes images itself, none are optimized for it; to calibrate on states of its own sampling, "
            "quantize with --calib synthetic:N"
        )
    objective = make_objective(spec.method, model, spec.seed, dict(spec.options))
    store, chunks = Store(root), range(len(range(0, spec.num, spec.batch)))
    key = identity(spec, model, options=dict(spec.options))
    kept = store.find(key)
    if kept is None or len(kept.chunks()) < len(chunks):
        check_memory(spec, model, objective)
    with joined() as ranks:
        # opened once, so that ranks do not write the same file at the same time
        run = ranks.gathered(lambda: store.open(key, needed=spec.out is None) if ranks.rank == 0 else None)[0]
        assert run is not None
        dealt = _chunks(spec, model, objective, run, ranks)
        if ranks.size == 1:
            yield from dealt
        else:
            ranks.gathered(lambda: finish(dealt))
        images, labels, losses, spent = [], [], [], 0.0
        for number in chunks:
            chunk = _stored(spec, model, run, number)
            if not chunk:
                raise RuntimeError(f"{_name(number)} is not in {run.path}; all ranks have to see the same folder")
            images.append(chunk["images"])
            labels.append(chunk["labels"])
            spent += chunk["seconds"].item()
            losses.append({key.removeprefix("loss."): x for key, x in chunk.items() if key.startswith("loss.")})
            if losses[-1].keys() != losses[0].keys():
                words = (
                    f"{_name(number)} in {run.path} has other losses than {_name(0)}, {', '.join(losses[-1]) or 'none'}"
                )
                raise ValueError(f"{words}; remove the one that is damaged, and it is made again")
        tensors = {"images": torch.cat(images), "labels": torch.cat(labels)}
        values = _values(spec, model, tensors["images"], tensors["labels"], spent)
        path = run.path / "tensors.safetensors" if spec.out is None else Path(spec.out)
        if ranks.rank == 0:
            write_tensors(path, tensors, _metadata(key, values, model))
            run.save_report(values | {"path": str(path)})
    arrays = tensors | {"preview": to_pixels(tensors["images"], model.info)}
    if losses[0]:
        arrays |= {f"loss/{key}": torch.stack([chunk[key] for chunk in losses]).mean(0) for key in losses[0]}
    return Report("generate", values | {"path": str(path)}, run_info(spec.seed, started, model.device), arrays)


def _chunks(
    spec: SynthesisSpec, model: VisionModel, objective: Objective, run: Run, ranks: Ranks
) -> Generator[Progress, None, None]:
    """Makes the chunks that are this rank's turn and not in the store yet; shows all that it finds or makes."""
    for number, first in enumerate(range(0, spec.num, spec.batch)):
        count = min(spec.batch, spec.num - first)
        chunk = _stored(spec, model, run, number)
        if chunk:
            # killed between the two writes that end a chunk
            run.drop_tensors(_begun(number))
        if not chunk and number % ranks.size != ranks.rank:
            continue
        if not chunk:
            work = _Work(run, number)
            try:
                made = yield from _chunk(spec, model, objective, first, count, work)
            except Diverged as error:
                kept = run.save_tensors({"images": error.images}, f"diverged-{number:04d}")
                words = f"{error}; the images before that step are kept in {kept}"
                raise Diverged(words, error.images, error.steps) from error
            chunk = {"images": made.images, "labels": task_of(model).draw(model.info, spec.seed, first, count)}
            chunk["seconds"] = torch.tensor(work.seconds())
            for key in _terms(made):
                chunk[f"loss.{key}"] = torch.tensor([row[key] for row in made.provenance["losses"]])
            run.save_tensors(chunk, _name(number))
            run.drop_tensors(_begun(number))
        done = first + count
        preview = to_pixels(chunk["images"], model.info)
        yield Progress(done * max(1, spec.steps), spec.num * max(1, spec.steps), f"{done} of {spec.num} images",
                       {"finished": done, "preview": preview})  # fmt: skip


def _stored(spec: SynthesisSpec, model: VisionModel, run: Run, number: int) -> dict[str, Tensor]:
    """A finished chunk, {} where it is not there.

    Raises:
        ValueError: it is damaged, or not what this spec asks for.
    """
    chunk, first = run.load_tensors(_name(number)), number * spec.batch
    if chunk is None:
        return {}
    labels = task_of(model).draw(model.info, spec.seed, first, min(spec.batch, spec.num - first))
    wanted = {"images": torch.empty(len(labels), *model.info.input_size, device="meta"), "labels": labels}
    wanted |= {"seconds": torch.empty((), device="meta")}
    losses = [key for key in chunk if key.startswith("loss.")]
    wanted |= {key: torch.empty(spec.steps, device="meta") for key in losses}
    for key in sorted(wanted.keys() | chunk.keys()):
        own, there = wanted.get(key), chunk.get(key)
        if own is None or there is None:
            fault = f"{key!r} is {'missing' if there is None else 'no part of a chunk'}"
        elif (own.shape, own.dtype) != (there.shape, there.dtype):
            fault = f"{key!r} is {tuple(there.shape)} {there.dtype}, expected {tuple(own.shape)} {own.dtype}"
        elif not there.isfinite().all():
            fault = f"{key!r} holds NaN or infinity"
        else:
            continue
        raise ValueError(f"{_name(number)} in {run.path} is damaged: {fault}; remove it, and it is made again")
    return chunk


def check_memory(spec: SynthesisSpec, model: VisionModel, objective: Objective) -> None:
    """Refuses a set that does not fit the memory that is free, before any work is done.

    Raises:
        ValueError: the message has what it would take, what is free, and how many images would fit.
    """
    free = available_bytes()
    if free is None:
        return
    image = 4 * math.prod(model.info.input_size)
    # noise, image, last good one, gradient, two moments; one shift and flip per step
    optimized = objective.optimizes and spec.steps > 0
    at_once = min(spec.batch, spec.num) * (6 * image + 17 * spec.steps) if optimized else 0
    # the chunks, the set they are joined to, and a copy on its way to the file
    kept = 3 * image
    passing = GROUP * saved_bytes(model, objective) if optimized else 0
    needed = spec.num * kept + at_once + passing
    if needed > free:
        fit = max(0, int((free - at_once - passing) // kept))
        raise ValueError(
            f"{spec.num} images of {model.info.name}, {spec.batch} at a time, take about {needed / 1e9:.1f} GB; "
            f"{free / 1e9:.1f} GB are free: ask for at most {fit} images, or for a smaller batch"
        )


def _name(number: int) -> str:
    return f"chunk-{number:04d}"


def _begun(number: int) -> str:
    return f"begun-{number:04d}"


class _Work:
    """A chunk at work: what was kept of it when the run was stopped, and what is kept in its turn."""

    def __init__(self, run: Run, number: int) -> None:
        self.run, self.name = run, _begun(number)
        self.found = run.load_tensors(self.name) or None
        self.before = 0.0
        if self.found is not None:
            seconds = self.found.pop("seconds", None)
            if seconds is None or seconds.numel() != 1 or not all(x.isfinite().all() for x in self.found.values()):
                words = f"{self.name} in {run.path} is damaged: it has no seconds, or numbers that are NaN or infinite"
                raise ValueError(f"{words}; remove it, and its chunk is begun anew")
            self.before = float(seconds)
        self.started = self.kept = time.perf_counter()
        self.took = 0.0

    def seconds(self) -> float:
        """All that was worked on the chunk, by every process that did."""
        return self.before + time.perf_counter() - self.started

    def keep(self, so_far: Callable[[], dict[str, Tensor]]) -> None:
        """Keeps what there is, if it is time to."""
        now = time.perf_counter()
        if now - self.kept < max(KEEP_EVERY, 20 * self.took):
            return
        self.run.save_tensors(so_far() | {"seconds": torch.tensor(self.seconds())}, self.name)
        self.kept = time.perf_counter()
        self.took = self.kept - now


def _chunk(
    spec: SynthesisSpec, model: VisionModel, objective: Objective, first: int, count: int, work: _Work
) -> Generator[Progress, None, CalibrationSet]:
    """Images first .. first + count; progress counts image-steps of the whole set."""
    if not objective.optimizes or spec.steps == 0:
        images = initial_images(model.info, spec.seed, first, count)
        return CalibrationSet(images, None, {"losses": []})
    steps = optimize(
        model, objective, steps=spec.steps, seed=spec.seed, first=first, count=count, lr=spec.lr, begun=work.found,
        keep=work.keep,
    )  # fmt: skip

    def placed(progress: Progress) -> Progress:
        at = first * spec.steps + progress.step * count
        words = f"images {first + 1}-{first + count}, step {progress.step} of {spec.steps}: {progress.message}"
        return Progress(at, spec.num * spec.steps, words, progress.data)

    return (yield from mapped(steps, placed))


def _terms(made: CalibrationSet) -> list[str]:
    return list(made.provenance["losses"][0]) if made.provenance["losses"] else []


def _values(spec: SynthesisSpec, model: VisionModel, images: Tensor, labels: Tensor, seconds: float) -> dict[str, Any]:
    judges = {name: recognized(judge, images, labels) for name, judge in judges_of(spec.model.name, model)}
    witness = next(iter(judges), None)
    return {
        "model": spec.model.name,
        "method": spec.method,
        "num": spec.num,
        "steps": spec.steps,
        "seconds": round(seconds, 1),
        "recognized": {"self": recognized(model, images, labels), "other": judges.get(witness or "")},
        "witness": witness,
        "judges": judges,
        "seed": spec.seed,
        "options": dict(spec.options),
        "set_digest": images_digest(images),
    }


def judges_of(name: str, model: VisionModel) -> Iterator[tuple[str, VisionModel]]:
    """The independent models that can judge images of this model: those that take its size."""
    for witness in witnesses_of(name):
        judge = create_model(witness, pretrained=True).to(model.device)
        if judge.info.input_size == model.info.input_size:
            yield witness, judge


def _metadata(key: dict[str, Any], values: dict[str, Any], model: VisionModel) -> dict[str, str]:
    # two runs of one spec give the same file: how long it took is in the report
    lasting = {name: value for name, value in values.items() if name != "seconds"}
    said = {"spec": json.dumps(key), "values": json.dumps(lasting), "space": space_of(model.info)}
    return {"kind": "calibration set", **said}
