"""Pictures that a denoiser makes, float above quantized from the same noise, and the way there of one of them."""

from __future__ import annotations

import time
from collections.abc import Generator, Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from PIL import Image
from torch import Tensor
from torch.nn import functional as F

from ouro.data import to_pixels
from ouro.diffusion.flow import noise
from ouro.diffusion.samplers import SAMPLERS, trajectory
from ouro.jobs.evaluate import Opened, opened_beside
from ouro.jobs.inputs import source_of
from ouro.jobs.provenance import run_info
from ouro.progress import staged
from ouro.settings import check_counts
from ouro.tasks import task_of
from ouro.tasks.diffusion import JUDGES, judge_name, judged
from ouro.types import ModelInfo, ModelSource, Progress, Report
from ouro.vision import VisionModel

COLUMNS, SCALE, GAP = 8, 4, 1
"""Of a sheet: pictures in a row, pixels that one of theirs takes a side, and how many of theirs are white after each."""


@dataclass(frozen=True, slots=True)
class SampleSpec:
    """What is drawn. model: a source, whose name may be the path of a quantized file; its float model is shown as well.

    beside: a quantized file of the model, to be shown under it. classes: of the pictures in turn; () are all in turn.
    sampler, steps, guidance: see `ouro.diffusion.samplers.trajectory`.

    Raises:
        ValueError: a count or a number of steps below 1, or an unknown sampler.
    """

    model: ModelSource
    beside: str = ""
    num: int = 16
    steps: int = 20
    sampler: str = "heun"
    guidance: float = 1.0
    classes: tuple[int, ...] = ()
    seed: int = 0
    device: str = "auto"

    def __post_init__(self) -> None:
        object.__setattr__(self, "model", source_of(self.model))
        check_counts(self, "num", "steps")
        if self.sampler not in SAMPLERS:
            raise ValueError(f"unknown sampler {self.sampler!r}; known: {', '.join(SAMPLERS)}")


def sample(spec: SampleSpec, models: Opened | None = None) -> Generator[Progress, None, Report]:
    """Draws, one Progress per step of a sampler.

    The report has {model, method, bits, num, sampler, steps, guidance, classes, judge, recognized: {float, quantized},
    difference, seconds, device, seed}. recognized: share that the judge takes for the class that was asked for, None
    without judge or class. difference: root mean square, in parts of the range of a pixel, between the quantized model's
    pictures and those of the float model from the same noise; None where nothing is quantized.

    Arrays, all uint8 but the times: "samples" and "quantized" [n 3 h w], "strip" and "quantized_strip" [steps+1 3 h w]
    of the first picture from noise on, "times" [steps+1], "classes" [n].

    Args:
        models: draw in place of those that the spec stands for, by `opened_beside`.

    Raises:
        ValueError: unknown names, no denoiser, one of latents, classes that it does not have, or a file of another model.
    """
    started = time.perf_counter()
    source, exact, rounded, calibration = models or opened_beside(spec.model, spec.beside, spec.device)
    info = exact.info
    classes = _classes(spec, info)
    shown = {"float": exact} | ({} if calibration is None else {"quantized": rounded})
    x0, y = noise(info.input_size, spec.seed, range(spec.num)), classes if info.num_classes else None
    walks = {}
    for number, (name, model) in enumerate(shown.items()):
        walk = _walk(spec, model, x0, y)
        walks[name] = yield from staged(walk, number / len(shown), (number + 1) / len(shown), name)
    ends = {name: states[-1] for name, states in walks.items()}
    known = y is not None and info.data.partition(":")[0] in JUDGES
    recognized = {
        name: judged(info, x, classes, exact.device)[:, -2].mean().item() for name, x in ends.items() if known
    }
    gap = None
    if calibration is not None:
        gap = (ends["quantized"].double() - ends["float"].double()).square().mean().sqrt().item() / 255
    plan = None if calibration is None else calibration.plan
    values = {
        "model": source.name,
        "method": "float" if plan is None else plan.method,
        "bits": "w32a32" if plan is None else plan.bits,
        "num": spec.num,
        "sampler": spec.sampler,
        "steps": spec.steps,
        "guidance": spec.guidance,
        "classes": classes.tolist() if info.num_classes else None,
        "judge": judge_name(info) if known else None,
        "recognized": recognized or None,
        "difference": gap,
        "seconds": round(time.perf_counter() - started, 2),
        "device": str(exact.device),
        "seed": spec.seed,
    }
    arrays = {"samples": ends["float"], "strip": walks["float"][:, 0], "classes": classes}
    arrays["times"] = torch.linspace(0, 1, spec.steps + 1)
    if calibration is not None:
        arrays |= {"quantized": ends["quantized"], "quantized_strip": walks["quantized"][:, 0]}
    return Report("sample", values, run_info(spec.seed, started, exact.device), arrays)


def sheet(arrays: Mapping[str, Tensor]) -> Image.Image:
    """The samples of a report as one picture: rows of float ones, each with the quantized ones under it."""
    rows = []
    for start in range(0, len(arrays["samples"]), COLUMNS):
        for name in ("samples", "quantized"):
            if name in arrays:
                rows.append(_row(arrays[name][start : start + COLUMNS], min(COLUMNS, len(arrays["samples"]))))
    pixels = np.concatenate(rows).repeat(SCALE, 0).repeat(SCALE, 1)
    return Image.fromarray(pixels)


def _row(pictures: Tensor, columns: int) -> np.ndarray:
    """Pictures [n c h w] side by side, white where there are fewer than columns, [h+gap columns*(w+gap) 3]."""
    pictures = F.pad(pictures, (0, GAP, 0, GAP), value=255)
    white = pictures.new_full((columns - len(pictures), *pictures.shape[1:]), 255)
    wide = torch.cat([pictures, white]).permute(2, 0, 3, 1).flatten(1, 2)
    return wide.expand(-1, -1, 3).numpy()


def _classes(spec: SampleSpec, info: ModelInfo) -> Tensor:
    """The class of every picture; refuses a model that makes none."""
    if not task_of(info).generates:
        raise ValueError(f"{info.name} is for {info.task} and makes no pictures; take a denoiser, such as zigma_nano")
    if info.input_size[0] not in (1, 3):
        raise ValueError(
            f"{info.name} makes latents of {info.input_size[0]} channels, and the decoder that makes pictures of them is not "
            "here; take one of pictures, such as zigma_nano"
        )
    if wrong := [label for label in spec.classes if not 0 <= label < info.num_classes]:
        allowed = f"0 to {info.num_classes - 1}" if info.num_classes else "none, leave them out"
        raise ValueError(f"{info.name} has no class {wrong[0]}; allowed: {allowed}")
    turn = spec.classes or tuple(range(info.num_classes)) or (0,)
    return torch.tensor([turn[index % len(turn)] for index in range(spec.num)])


def _walk(spec: SampleSpec, model: VisionModel, x0: Tensor, y: Tensor | None) -> Generator[Progress, None, Tensor]:
    """Pictures at every time, uint8 [steps+1 n c h w]."""
    how: dict[str, Any] = {"sampler": spec.sampler, "steps": spec.steps, "guidance": spec.guidance}
    states = []
    walk = trajectory(model, x0.to(model.device), None if y is None else y.to(model.device), **how)
    for number, (t, x) in enumerate(walk):
        states.append(to_pixels(x.cpu(), model.info.mean, model.info.std))
        yield Progress(number, spec.steps, f"t = {t:.2f}", {"t": t, "preview": states[-1]})
    return torch.stack(states)
