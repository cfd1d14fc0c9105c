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

from ouro.data import load, normalize
from ouro.evaluate.accuracy import wilson
from ouro.jobs.provenance import device_name, run_info
from ouro.models import variant
from ouro.models.position import resize_pos_embed
from ouro.models.vim import Vim
from ouro.store import write_json, write_tensors
from ouro.types import Progress, Report
from ouro.vision import VisionModel


@dataclass(frozen=True, slots=True)
class TrainSpec:
    """Everything a training run depends on; `phases` are (image size, steps)."""

    name: str
    data: str
    phases: tuple[tuple[int, int], ...]
    seed: int = 0
    batch: int = 64
    lr: float = 2e-3
    weight_decay: float = 0.05
    warmup: int = 100
    smoothing: float = 0.1
    clip: float = 1.0
    ema: float = 0.99


HELD_OUT = 2000
"""Images of the held-out split behind a card's accuracy; all of them where there are fewer."""

RECIPES = {
    "vim_nano": TrainSpec("vim_nano", "scenes", phases=((32, 1600), (56, 700))),
    "vim_nano_witness": TrainSpec("vim_nano_witness", "scenes", phases=((32, 1000), (56, 200)), seed=1),
    "vim_nano_digits": TrainSpec("vim_nano_digits", "digits", phases=((32, 400), (56, 200))),
}
"""Embedded checkpoint -> how it is trained; the witness only ever judges what another model synthesized."""


def train(spec: TrainSpec, threads: int | None = None) -> Generator[Progress, None, tuple[VisionModel, dict[str, Any]]]:
    """Trains a model, yielding the running loss; returns it (averaged weights, eval mode) and its log.

    Every image is drawn once: batch k of phase p is a pure function of (spec.seed, p, k).
    """
    if threads is not None:
        torch.set_num_threads(threads)
    config = variant(spec.name).config
    with torch.random.fork_rng():
        torch.manual_seed(spec.seed)
        model = Vim(replace(config, image=spec.phases[0][0]), spec.name)
    total = sum(steps for _, steps in spec.phases)
    started, done, log = time.perf_counter(), 0, []
    for phase, (size, steps) in enumerate(spec.phases):
        model = _at_size(model, replace(config, image=size), spec.name)
        average = {key: value.clone() for key, value in model.state_dict().items()}
        optimizer = torch.optim.AdamW(_groups(model, spec.weight_decay), lr=spec.lr, betas=(0.9, 0.98))
        data = load(spec.data, split="train", size=size, seed=spec.seed)
        for step in range(steps):
            for group in optimizer.param_groups:
                group["lr"] = _rate(spec, done, total, step)
            images, labels = _batch(data, spec, phase, step)
            logits = model(normalize(images, config.mean, config.std))
            loss = F.cross_entropy(logits, labels, label_smoothing=spec.smoothing)
            optimizer.zero_grad()
            loss.backward()
            nn.utils.clip_grad_norm_(model.parameters(), spec.clip)
            optimizer.step()
            keep = min(spec.ema, (1 + step) / (10 + step))
            for key, value in model.state_dict().items():
                average[key].lerp_(value, 1 - keep)
            done += 1
            if done % 20 == 0 or done == total:
                right = (logits.argmax(1) == labels).float().mean().item()
                entry = {"step": done, "size": size, "loss": loss.item(), "batch_top1": right}
                log.append(entry)
                seconds = time.perf_counter() - started
                yield Progress(done, total, f"{size}px loss {loss.item():.3f} top-1 {right:.2f} {seconds:.0f} s", entry)
        model.load_state_dict(average)
    return model.eval(), {"spec": asdict(spec), "seconds": time.perf_counter() - started, "log": log}


def train_job(spec: TrainSpec, out: str | os.PathLike[str]) -> Generator[Progress, None, Report]:
    """Trains, measures on the held-out split, and writes NAME.safetensors with its model card NAME.json into `out`.

    Raises:
        WriteError: `out` cannot be written; found out before the training starts.
    """
    started = time.perf_counter()
    folder = Path(out)
    write_json(folder / f"{spec.name}.spec.json", asdict(spec)).unlink()
    model, history = yield from train(spec)
    card = yield from measured_card(model, spec, history)
    weights = write_tensors(folder / f"{spec.name}.safetensors", model.state_dict(), {"model": spec.name})
    write_json(folder / f"{spec.name}.json", card)
    short = {key: value for key, value in card.items() if key != "log"}
    return Report("train", short | {"path": str(weights)}, run_info(spec.seed, started))


def measured_card(
    model: VisionModel, spec: TrainSpec, history: dict[str, Any]
) -> Generator[Progress, None, dict[str, Any]]:
    """The model card: what it was trained on, how, for how long, and its accuracy on the held-out split."""
    right = total = 0
    config = variant(spec.name).config
    held_out = load(spec.data, split="test", size=config.image)
    wanted = min(HELD_OUT, len(held_out))
    with torch.no_grad():
        for start in range(0, wanted, 100):
            images, labels = held_out.images(start, min(100, wanted - start))
            right += (model(normalize(images, config.mean, config.std)).argmax(1) == labels).sum().item()
            total += len(images)
            yield Progress(total, wanted, "held-out split")
    return {
        "model": spec.name,
        "parameters": sum(p.numel() for p in model.parameters()),
        "data": spec.data,
        "split": "test",
        "n": total,
        "top1": right / total,
        "ci95": list(wilson(right, total)),
        "steps": sum(steps for _, steps in spec.phases),
        "train_seconds": round(history["seconds"]),
        "processor": device_name(),
        "spec": asdict(spec),
        "log": history["log"],
    }


def _at_size(model: Vim, config: Any, name: str) -> Vim:
    """The same weights over another grid."""
    other = Vim(config, name)
    state = model.state_dict()
    state["pos_embed"] = resize_pos_embed(state["pos_embed"], model.cls_index, other.info.stages[0].grid)
    other.load_state_dict(state)
    return other.train()


def _batch(data: Any, spec: TrainSpec, phase: int, step: int) -> tuple[Tensor, Tensor]:
    index = step + sum(steps for _, steps in spec.phases[:phase])
    if hasattr(data, "augmented"):
        return data.augmented(index, spec.batch)
    return data.images(index * spec.batch, spec.batch)


def _groups(model: nn.Module, weight_decay: float) -> list[dict[str, Any]]:
    """Weight decay on matrices only: not on norms, biases, tokens, A and D."""
    decayed = [
        p for m in model.modules() for k, p in m.named_parameters(recurse=False) if k == "weight" and p.dim() > 1
    ]
    chosen = {id(p) for p in decayed}
    rest = [p for p in model.parameters() if id(p) not in chosen]
    return [{"params": decayed, "weight_decay": weight_decay}, {"params": rest, "weight_decay": 0.0}]


def _rate(spec: TrainSpec, done: int, total: int, step_in_phase: int) -> float:
    """Warm-up at the start of each phase, one cosine over the whole run."""
    return spec.lr * min(1.0, (step_in_phase + 1) / spec.warmup) * 0.5 * (1 + math.cos(math.pi * done / total))
