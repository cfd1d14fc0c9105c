"""Rebuilds an embedded checkpoint: few passes, no file needed, a curriculum from coarse to fine images.

A scan over 64 patches costs a third of one over 196, and what it learns carries over: the recipes start on small
images and end at the model's own size, with the position embedding interpolated in between.
"""

from __future__ import annotations

import math
import os
import time
from collections.abc import Generator
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from ouro.data import batches, load, normalize
from ouro.evaluate.accuracy import accuracy, outcomes
from ouro.jobs.provenance import device_name, run_info
from ouro.models import variant
from ouro.models.position import resize_pos_embed
from ouro.store import check_writable, digest, read_json, read_tensors, write_json, write_tensors
from ouro.types import Progress, Report
from ouro.vision import VisionModel


@dataclass(frozen=True, slots=True)
class Round:
    """One cosine of the learning rate, from `lr` to zero, over phases of (image size, steps)."""

    lr: float
    phases: tuple[tuple[int, int], ...]

    @property
    def steps(self) -> int:
        return sum(steps for _, steps in self.phases)


@dataclass(frozen=True, slots=True)
class TrainSpec:
    """Everything a training run depends on.

    reveal: over this many first steps the background fades in, from the mean color to what it is; 0 shows it at once.
        Models without a class token take long to find a small object in clutter that they have never seen alone.
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


HELD_OUT = 2000
"""Images of the held-out split behind a card's accuracy; all of them where there are fewer."""

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
}
"""Embedded checkpoint -> how it is trained; the witness only ever judges what another model synthesized."""


def new_model(spec: TrainSpec) -> VisionModel:
    """The untrained model at the size of the first phase, drawn by the seed."""
    with torch.random.fork_rng():
        torch.manual_seed(spec.seed)
        return _built(spec.name, spec.rounds[0].phases[0][0])


def train_round(
    model: VisionModel, spec: TrainSpec, number: int, log: list[dict[str, Any]]
) -> Generator[Progress, None, VisionModel]:
    """Trains one round and returns the model with averaged weights in eval mode; appends to `log`.

    Image k of step i is a pure function of (spec.seed, i, k), and every image is drawn once.
    """
    round_, before = spec.rounds[number], sum(earlier.steps for earlier in spec.rounds[:number])
    total = sum(each.steps for each in spec.rounds)
    config, done = variant(spec.name).config, 0
    for size, steps in round_.phases:
        model = _at_size(model, spec.name, size)
        average = {key: value.clone() for key, value in model.state_dict().items()}
        optimizer = torch.optim.AdamW(_groups(model, spec.weight_decay), lr=round_.lr, betas=(0.9, 0.98))
        data: Any = load(spec.data, split="train", size=size, **({"seed": spec.seed} if spec.data == "scenes" else {}))
        for step in range(steps):
            # warm-up in each phase, one cosine over the round
            rate = min(1.0, (step + 1) / spec.warmup) * 0.5 * (1 + math.cos(math.pi * done / round_.steps))
            for group in optimizer.param_groups:
                group["lr"] = round_.lr * rate
            images, labels = _batch(data, before + done, spec.batch)
            inputs = normalize(images, config.mean, config.std)
            if before + done < spec.reveal:
                masks = data.masks((before + done) * spec.batch, spec.batch)
                inputs = revealed(inputs, masks, (before + done) / spec.reveal)
            logits = model(inputs)
            loss = F.cross_entropy(logits, labels, label_smoothing=spec.smoothing)
            optimizer.zero_grad()
            loss.backward()
            nn.utils.clip_grad_norm_(model.parameters(), spec.clip)
            optimizer.step()
            keep = min(spec.ema, (1 + step) / (10 + step))
            for key, value in model.state_dict().items():
                # a counter of batches has no average
                average[key].lerp_(value, 1 - keep) if value.is_floating_point() else average[key].copy_(value)
            done += 1
            if done % 20 == 0 or done == round_.steps:
                right = (logits.argmax(1) == labels).float().mean().item()
                entry = {"step": before + done, "size": size, "loss": round(loss.item(), 4), "batch_top1": right}
                log.append(entry)
                yield Progress(before + done, total, f"{size}px loss {loss.item():.3f} top-1 {right:.2f}", entry)
        model.load_state_dict(average)
    return model.eval()


def train_job(spec: TrainSpec, out: str | os.PathLike[str]) -> Generator[Progress, None, Report]:
    """Trains, measures on the held-out split, and writes NAME.safetensors with its model card NAME.json into `out`.

    The weights after each round are kept beside them: a stopped training goes on after its last finished round.

    Raises:
        WriteError: `out` cannot be written; found out before the training starts.
    """
    started, folder = time.perf_counter(), Path(out)
    check_writable(folder / f"{spec.name}.safetensors")
    model = new_model(spec)
    history: dict[str, Any] = {"seconds": 0.0, "log": []}
    for number in range(len(spec.rounds)):
        kept = folder / f"{spec.name}-{digest(asdict(spec) | {'rounds': asdict(spec)['rounds'][: number + 1]})}"
        weights_file, history_file = kept.with_suffix(".safetensors"), kept.with_suffix(".json")
        if weights_file.exists() and history_file.exists():
            history = read_json(history_file)
            model = _at_size(model, spec.name, spec.rounds[number].phases[-1][0])
            model.load_state_dict(read_tensors(weights_file)[0])
            continue
        begun = time.perf_counter()
        model = yield from train_round(model, spec, number, history["log"])
        history["seconds"] += time.perf_counter() - begun
        write_tensors(weights_file, model.state_dict())
        write_json(history_file, history)
    card = yield from measured_card(model.eval(), spec, history)
    weights = write_tensors(folder / f"{spec.name}.safetensors", model.state_dict(), {"model": spec.name})
    write_json(folder / f"{spec.name}.json", card)
    short = {key: value for key, value in card.items() if key != "log"}
    return Report("train", short | {"path": str(weights)}, run_info(spec.seed, started))


def measured_card(
    model: VisionModel, spec: TrainSpec, history: dict[str, Any]
) -> Generator[Progress, None, dict[str, Any]]:
    """The model card: what it was trained on, how, for how long, and its accuracy on the held-out split."""
    config = variant(spec.name).config
    held_out = load(spec.data, split="test", size=config.image)
    wanted = min(HELD_OUT, len(held_out))
    right = torch.zeros(0, dtype=torch.bool)
    for found in outcomes(model, batches(held_out, 100, limit=wanted, mean=config.mean, std=config.std)):
        right = torch.cat([right, found])
        yield Progress(len(right), wanted, "held-out split")
    return {
        "model": spec.name,
        "parameters": sum(p.numel() for p in model.parameters()),
        "data": spec.data,
        "split": "test",
        **accuracy(right),
        "steps": sum(each.steps for each in spec.rounds),
        "train_seconds": round(history["seconds"]),
        "processor": device_name(),
        "spec": asdict(spec),
        "log": history["log"],
    }


def revealed(inputs: Tensor, masks: Tensor, share: float) -> Tensor:
    """Inputs [b 3 h w] in model space whose background is `share` of what it was; 0 is the mean color."""
    return torch.where(masks.unsqueeze(1), inputs, inputs * share)


def _built(name: str, size: int) -> VisionModel:
    entry = variant(name)
    return entry.build(replace(entry.config, image=size), name)


def _at_size(model: VisionModel, name: str, size: int) -> VisionModel:
    """The same weights over another grid."""
    other = _built(name, size)
    state = model.state_dict()
    if "pos_embed" in state:
        state["pos_embed"] = resize_pos_embed(state["pos_embed"], model.info.cls_index, other.info.stages[0].grid)
    other.load_state_dict(state)
    return other.train()


def _batch(data: Any, index: int, size: int) -> tuple[Tensor, Tensor]:
    """Training batch `index`: fresh scenes, or jittered images of a finite set."""
    if hasattr(data, "augmented"):
        return data.augmented(index, size)
    return data.images(index * size, size)


def _groups(model: nn.Module, weight_decay: float) -> list[dict[str, Any]]:
    """Weight decay on matrices only: not on norms, biases, tokens, A and D."""
    decayed = [
        p for m in model.modules() for k, p in m.named_parameters(recurse=False) if k == "weight" and p.dim() > 1
    ]
    chosen = {id(p) for p in decayed}
    rest = [p for p in model.parameters() if id(p) not in chosen]
    return [{"params": decayed, "weight_decay": weight_decay}, {"params": rest, "weight_decay": 0.0}]
