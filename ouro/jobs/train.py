"""Rebuilds an embedded checkpoint: few passes, no file needed, a curriculum from coarse to fine images.

A scan over 64 patches costs a third of one over 196, and what it learns carries over: the recipes of drawn data start on
small images and end at the model's own size, with the position embedding interpolated in between.
"""

from __future__ import annotations

import logging
import math
import os
import time
from collections.abc import Generator
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

import torch

from ouro.data import Dataset, batches, kind, load
from ouro.data.source import open_data, parse, spelled
from ouro.evaluate.accuracy import outcomes
from ouro.jobs.inputs import data_digest, device_of, open_model
from ouro.jobs.provenance import device_name, run_info
from ouro.jobs.recipes import RECIPES, Augment, Round, TrainSpec
from ouro.jobs.training_batches import training_batches, training_set
from ouro.jobs.training_step import TrainingStep
from ouro.models import create_model, variant
from ouro.models.position import resize_pos_embed
from ouro.quant.apply import weights_digest
from ouro.store import check_writable, digest, read_json, read_tensors, write_json, write_tensors
from ouro.streams import drawing
from ouro.tasks import task_of
from ouro.types import ModelSource, Progress, Report
from ouro.vision import VisionModel

__all__ = ["RECIPES", "Augment", "Round", "TrainSpec", "train_job"]

HELD_OUT = 2000
"""Images of the held-out split behind a card's accuracy; all of them where there are fewer."""
MANY_EPOCHS = 200
"""From here on a training says that its set is small."""
_log = logging.getLogger(__name__)


def new_model(spec: TrainSpec) -> VisionModel:
    """The untrained model at the size of the first phase, drawn by the seed."""
    entry = variant(spec.name)
    with drawing(spec.seed):
        others = {"num_classes": len(spec.class_names), "class_names": spec.class_names} if spec.class_names else {}
        model: Any = entry.build(replace(entry.config, image=spec.rounds[0].phases[0][0], **others), spec.name)
    model.info = entry.described(model.info)
    if spec.body:
        model.begin_from(create_model(spec.body, pretrained=True))
    return model


def for_data(spec: TrainSpec, source: ModelSource) -> TrainSpec:
    """The spec with the classes of its data where they are not the model's, and with the weights that the source names.

    Raises:
        ValueError: an unknown data set, or one that cannot be opened.
    """
    config = variant(spec.name).config
    known = source.class_names or getattr(config, "class_names", ())
    # classes are the same in whatever way a model sees the pictures, and there is no model yet
    found = tuple(load(spec.data, split="train", size=spec.rounds[-1].phases[-1][0]).classes)
    if found != tuple(known):
        spec = replace(spec, class_names=found)
        _log.warning("%s: a head for the %d classes of %s", spec.name, len(found), spec.data)
        source = replace(source, config=(*source.config, ("num_classes", len(found))), class_names=found)
    return replace(spec, start=source if source.weights else None)


def train_round(
    model: VisionModel, spec: TrainSpec, number: int, log: list[dict[str, Any]]
) -> Generator[Progress, None, VisionModel]:
    """Trains one round and returns the model with averaged weights in eval mode; appends to `log`.

    The batch of a step is a pure function of (spec.seed, step). The model given is left as it is.
    """
    round_, before = spec.rounds[number], sum(earlier.steps for earlier in spec.rounds[:number])
    device, done = next(model.parameters()).device, 0
    for size, steps in round_.phases:
        model = _at_size(model, size)
        batch_of = training_batches(spec, model.info, device)
        task = task_of(model)
        step_ = TrainingStep(model, spec, round_.lr, task=task)
        for step in range(steps):
            # warm-up in each phase, one cosine over the round
            rate = min(1.0, (step + 1) / spec.warmup) * 0.5 * (1 + math.cos(math.pi * done / round_.steps))
            batch = batch_of(before + done)
            step_(batch, rate, min(spec.ema, (1 + step) / (10 + step)))
            done += 1
            if done % 20 == 0 or done == round_.steps:
                loss, note = step_.loss.item(), task.note(step_.outputs, batch)
                entry = {"step": before + done, "size": size, "loss": round(loss, 4), **note}
                log.append(entry)
                words = "".join(f" {key.replace('_', ' ')} {value:.2f}" for key, value in note.items())
                yield Progress(before + done, spec.steps, f"{size}px loss {loss:.3f}{words}", entry)
        model.load_state_dict(step_.average)
    return model.eval()


def train_job(
    spec: TrainSpec, out: str | os.PathLike[str], model: VisionModel | None = None
) -> Generator[Progress, None, Report]:
    """Trains, measures on the held-out split, and writes NAME.safetensors with its model card NAME.json into `out`.

    The weights after each round are kept beside them: a stopped training goes on after its last finished round, unless
    its recipe, its start or the picture files that it trains on have changed meanwhile.

    Args:
        model: where to start from, left as it is; by default that of `spec.start`, or a new model drawn by the seed.

    Raises:
        ValueError: a data set that the recipe cannot use or whose classes are not the model's, or no such device.
        WriteError: `out` cannot be written; checked before the training starts.
    """
    started, folder, device = time.perf_counter(), Path(out), device_of(spec.device)
    check_writable(folder / f"{spec.name}.safetensors")
    if model is None and spec.start is not None:
        model = open_model(spec.start, "cpu")
    identity = _identity(spec, model)
    model = (new_model(spec) if model is None else _at_size(model, spec.rounds[0].phases[0][0])).to(device)
    model.info = replace(model.info, data=spec.data)
    facts = _facts(spec, model)
    history: dict[str, Any] = {"seconds": 0.0, "log": []}
    for number in range(len(spec.rounds)):
        kept = folder / f"{spec.name}-{digest(identity | {'rounds': identity['rounds'][: number + 1]})}"
        weights_file, history_file = kept.with_suffix(".safetensors"), kept.with_suffix(".json")
        if weights_file.exists() and history_file.exists():
            history = read_json(history_file)
            model = _at_size(model, spec.rounds[number].phases[-1][0])
            model.load_state_dict(read_tensors(weights_file)[0])
            continue
        begun = time.perf_counter()
        model = yield from train_round(model, spec, number, history["log"])
        history["seconds"] += time.perf_counter() - begun
        write_tensors(weights_file, model.state_dict())
        write_json(history_file, history)
    card = yield from measured_card(model.eval(), spec, history, facts)
    weights = write_tensors(folder / f"{spec.name}.safetensors", model.state_dict(), {"model": spec.name})
    write_json(folder / f"{spec.name}.json", card)
    short = {key: value for key, value in card.items() if key != "log"}
    return Report("train", short | {"path": str(weights)}, run_info(spec.seed, started, device))


def _identity(spec: TrainSpec, model: VisionModel | None) -> dict[str, Any]:
    """What the weights of a training depend on, for `digest`: its spec, where it starts from, and its pictures."""
    # where it runs is no part of what is trained, and where it starts is known by content
    described = {key: value for key, value in asdict(spec).items() if key not in ("device", "start")}
    described |= {} if model is None else {"start": weights_digest(model)}
    if kind(spec.data).files:
        # pictures of one's own change under the same name
        source = parse(spec.data)
        where = spelled(replace(source, argument=os.path.abspath(source.argument)))
        described |= {"data": where, "pictures": data_digest(source)}
    return described


def measured_card(
    model: VisionModel, spec: TrainSpec, history: dict[str, Any], facts: dict[str, Any]
) -> Generator[Progress, None, dict[str, Any]]:
    """The model card: what it was trained on, how, for how long, and its accuracy on the held-out split."""
    info = model.info
    source, held_out = _held_out(spec, model)
    wanted = min(HELD_OUT, len(held_out))
    seen: list[torch.Tensor] = []
    for one in outcomes(model, batches(held_out, 100, limit=wanted, mean=info.mean, std=info.std)):
        seen.append(one)
        yield Progress(sum(map(len, seen)), wanted, "held-out split")
    return {
        "model": spec.name,
        "parameters": sum(p.numel() for p in model.parameters()),
        "task": model.info.task,
        "metric": task_of(model).metric,
        "data": source,
        "split": "test",
        **task_of(model).score(torch.cat(seen)),
        **facts,
        "steps": spec.steps,
        "train_seconds": round(history["seconds"]),
        "processor": device_name(next(model.parameters()).device),
        "spec": asdict(spec),
        "log": history["log"],
    }


def _held_out(spec: TrainSpec, model: VisionModel) -> tuple[str, Dataset]:
    """(name, images) behind the card's score, as `evaluate` opens them for this model."""
    source = spec.held_out or spec.data
    return source, open_data(source, "test", model.info)


def _facts(spec: TrainSpec, model: VisionModel) -> dict[str, Any]:
    """{train_images, epochs} of a finite set; a series has no image twice. Refuses one that is not the model's."""
    data = training_set(spec, model.info)
    task_of(model).require(data, spec.data, model.info)
    source, held_out = _held_out(spec, model)
    task_of(model).require(held_out, source, model.info)
    if not spec.held_out and kind(spec.data).files:
        _log.warning(
            "%s is trained on whole, so the score says how well it is known by heart; name other pictures with --held-out",
            spec.data,
        )
    if "series" in kind(spec.data).provides:
        return {}
    epochs = round(spec.steps * spec.batch / len(data), 1)
    if epochs > MANY_EPOCHS:
        _log.warning(
            "%s: %s has %d training images here, and each is seen %.0f times; name a larger set, such as cifar10:PATH",
            spec.name, spec.data, len(data), epochs,
        )  # fmt: skip
    return {"train_images": len(data), "epochs": epochs}


def _at_size(model: VisionModel, size: int) -> VisionModel:
    """The same weights over another grid, in a model of their own, in train mode on the same device."""
    made: Any = model
    other: VisionModel = type(made)(replace(made.config, image=size), made.info.name)
    kept = {field: getattr(made.info, field) for field in ("data", "class_names", "crop_pct", "interpolation")}
    other.info = replace(other.info, **kept)
    state = model.state_dict()
    for key in ("pos_embed", "backbone.pos_embed"):
        if key in state:
            state[key] = resize_pos_embed(state[key], model.info.cls_index, other.info.stages[0].grid)
    other.load_state_dict(state)
    return other.to(next(model.parameters()).device).train()
