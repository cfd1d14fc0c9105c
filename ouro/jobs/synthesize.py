"""Noise -> images -> CalibrationSet: generation in chunks that survive a kill, with live losses and thumbnails."""

from __future__ import annotations

import json
import os
import time
from collections.abc import Generator, Iterator
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from ouro.gen.synthesize import initial_images, optimise, recognized, targets, to_pixels
from ouro.jobs.provenance import run_info
from ouro.models import create_model
from ouro.models.zoo import witnesses_of
from ouro.quant.apply import weights_digest
from ouro.quant.calibrate import images_digest
from ouro.registry import GENERATORS
from ouro.store import Store, check_writable, write_tensors
from ouro.types import CalibrationSet, Progress, Report
from ouro.vision import VisionModel


@dataclass(frozen=True, slots=True)
class SynthesisSpec:
    """What a synthetic set depends on; `options` go to the generation method, `batch` is the size of a chunk.

    Raises:
        ValueError: a count below 1, negative steps, or an unknown method.
    """

    model: str
    method: str = "ouro"
    num: int = 128
    steps: int = 160
    seed: int = 0
    batch: int = 32
    lr: float = 0.2
    options: tuple[tuple[str, Any], ...] = ()
    out: str | None = None

    def __post_init__(self) -> None:
        for name, least in (("num", 1), ("steps", 0), ("batch", 1), ("seed", 0)):
            if getattr(self, name) < least:
                raise ValueError(f"{name} is {getattr(self, name)}, expected {least} or more")
        if not self.lr > 0:
            raise ValueError(f"lr is {self.lr}, expected a positive number")
        GENERATORS.get(self.method)


def synthesize(spec: SynthesisSpec, *, root: str | os.PathLike[str] | None = None) -> Generator[Progress, None, Report]:
    """Generates a set; finished chunks are kept, so the same spec goes on where it was stopped.

    Args:
        root: where runs are stored; `ouro.store.default_root()` by default.

    Raises:
        ValueError: unknown model or option.
        WriteError: the run or `spec.out` cannot be written; checked before the work begins.
    """
    started = time.perf_counter()
    if spec.out is not None:
        check_writable(spec.out)
    model = create_model(spec.model, pretrained=True)
    objective = GENERATORS.get(spec.method)(model, seed=spec.seed, **dict(spec.options))
    run = Store(root).open(_identity(spec, model))
    images, labels, losses, spent = [], [], [], 0.0
    chunks = range(0, spec.num, spec.batch)
    for number, first in enumerate(chunks):
        count = min(spec.batch, spec.num - first)
        name = f"chunk-{number:04d}"
        chunk = run.load_tensors(name) or {}
        if not chunk:
            begun = time.perf_counter()
            made = yield from _chunk(spec, model, objective, first, count)
            history = {key: torch.tensor([row[key] for row in made.provenance["losses"]]) for key in _terms(made)}
            seconds = torch.tensor(time.perf_counter() - begun)
            chunk = {"images": made.images, "seconds": seconds}
            chunk["labels"] = targets(model.info, spec.seed, first, count)
            chunk |= {f"loss.{key}": value for key, value in history.items()}
            run.save_tensors(chunk, name)
        images.append(chunk["images"])
        labels.append(chunk["labels"])
        spent += chunk["seconds"].item()
        losses.append({key.removeprefix("loss."): value for key, value in chunk.items() if key.startswith("loss.")})
        done = first + count
        preview = to_pixels(chunk["images"], model.info)
        yield Progress(done * max(1, spec.steps), spec.num * max(1, spec.steps), f"{done} of {spec.num} images",
                       {"finished": done, "preview": preview})  # fmt: skip
    tensors = {"images": torch.cat(images), "labels": torch.cat(labels)}
    values = _values(spec, model, tensors["images"], tensors["labels"], spent)
    path = run.save_tensors(tensors, metadata=_metadata(spec, values)) if spec.out is None else Path(spec.out)
    if spec.out is not None:
        write_tensors(path, tensors, _metadata(spec, values))
    values["path"] = str(path)
    run.save_report(values)
    arrays = tensors | {"preview": to_pixels(tensors["images"], model.info)}
    if losses[0]:
        arrays |= {f"loss/{key}": torch.stack([chunk[key] for chunk in losses]).mean(0) for key in losses[0]}
    return Report("generate", values, run_info(spec.seed, started), arrays)


def _chunk(
    spec: SynthesisSpec, model: VisionModel, objective: Any, first: int, count: int
) -> Generator[Progress, None, CalibrationSet]:
    """Images first .. first + count; progress counts image-steps of the whole set."""
    if not objective.optimises or spec.steps == 0:
        images = initial_images(model.info, spec.seed, first, count)
        return CalibrationSet(images, None, {"losses": []})
    steps = optimise(model, objective, steps=spec.steps, seed=spec.seed, first=first, count=count, lr=spec.lr)
    while True:
        try:
            beat = next(steps)
        except StopIteration as end:
            return end.value
        at = first * spec.steps + beat.step * count
        words = f"images {first + 1}-{first + count}, step {beat.step} of {spec.steps}: {beat.message}"
        yield Progress(at, spec.num * spec.steps, words, beat.data)


def _terms(made: CalibrationSet) -> list[str]:
    return list(made.provenance["losses"][0]) if made.provenance["losses"] else []


def _identity(spec: SynthesisSpec, model: VisionModel) -> dict[str, Any]:
    described = asdict(spec) | {"options": dict(spec.options), "weights": weights_digest(model)}
    del described["out"]
    return described


def _values(spec: SynthesisSpec, model: VisionModel, images: Tensor, labels: Tensor, seconds: float) -> dict[str, Any]:
    judges = {name: recognized(judge, images, labels) for name, judge in _judges(spec.model, model)}
    witness = next(iter(judges), None)
    return {
        "model": spec.model,
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


def _judges(name: str, model: VisionModel) -> Iterator[tuple[str, VisionModel]]:
    """The independent models that can judge images of this model: those that take its size."""
    for witness in witnesses_of(name):
        judge = create_model(witness, pretrained=True)
        if judge.info.input_size == model.info.input_size:
            yield witness, judge


def _metadata(spec: SynthesisSpec, values: dict[str, Any]) -> dict[str, str]:
    return {"kind": "calibration set", "spec": json.dumps(asdict(spec)), "values": json.dumps(values)}
