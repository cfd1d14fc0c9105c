"""What a model answers to one image, beside the truth and beside what a quantized file of it answers.

A classifier names classes, a segmenter gives every pixel one, a detector finds boxes, a denoiser makes pictures of the
class that the image is of, the quantized one from the same noise.
"""

from __future__ import annotations

import time
from collections.abc import Generator
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from ouro.data import normalize
from ouro.data.boxes import present
from ouro.data.source import open_data, own_data
from ouro.jobs.evaluate import Opened, opened_beside
from ouro.jobs.inputs import check_sample, image_file, source_of
from ouro.jobs.provenance import run_info
from ouro.jobs.sample import SampleSpec, sample
from ouro.settings import check_counts
from ouro.tasks import Task, task_of
from ouro.types import Calibration, ModelInfo, ModelSource, Progress, Report

PICTURES = 8
"""That a denoiser makes."""


@dataclass(frozen=True, slots=True)
class AnswersSpec:
    """What is asked: image `sample` of the test split of `data` ("" is the model's own set), or an `image` file.

    model: a source, whose name may be the path of a quantized file. beside: a quantized file of the model.
    steps: of the sampler of a denoiser, whose noise hangs on the seed.

    Raises:
        ValueError: neither a sample nor an image, or fewer than one step.
    """

    model: ModelSource
    beside: str = ""
    sample: int | None = 0
    image: str | None = None
    data: str = ""
    steps: int = 10
    seed: int = 0
    device: str = "auto"

    def __post_init__(self) -> None:
        object.__setattr__(self, "model", source_of(self.model))
        if self.sample is None and self.image is None:
            raise ValueError("there is nothing to look at: give a sample or an image file")
        check_counts(self, "steps")


def answers(spec: AnswersSpec, models: Opened | None = None) -> Generator[Progress, None, Report]:
    """Asks both models; one Progress each, of a denoiser one per step.

    The report has {model, task, beside: {method, bits, scope, calib}, data, sample, image, classes, truth, answers: {float,
    quantized}, agreement, divergence, seconds, device, seed}. classes: their names, [] where they have none. truth and
    answers are what `told` and `answer` of the task say, truth None where nobody knows it; beside, answers.quantized,
    agreement and divergence are None where nothing is quantized. A denoiser's answer is {recognized}, the share of its
    pictures that a judge takes for the class of the image; it has no agreement, and its divergence is the root mean
    square difference of the pictures in parts of the range of a pixel.

    Arrays: "image" uint8 [3 h w]; "truth", "exact" and "rounded", of a classifier [] and rows [5 2], of a segmenter
    classes [h w], of a detector rows [m 6], see `shown` of the task. Of a denoiser "exact" and "rounded" are pictures
    uint8 [8 c h w], "exact_strip" and "rounded_strip" [steps+1 c h w] the way there of the first, "times" [steps+1].

    Args:
        models: asked in place of those that the spec stands for, by `opened_beside`.

    Raises:
        ValueError: unknown names, no such image, files that do not belong together, or a picture file for a denoiser.
        RuntimeError: NaN outputs.
    """
    started = time.perf_counter()
    source, exact, rounded, calibration = models or opened_beside(spec.model, spec.beside, spec.device)
    info, task = exact.info, task_of(exact)
    if task.generates and spec.image is not None:
        raise ValueError(f"{info.name} makes pictures and looks at none; give a sample, it draws one of the same class")
    data = "" if spec.image is not None else own_data(spec.data, info)
    pixels, target = _asked(spec, task, info, data)
    values: dict[str, Any] = {
        "model": source.name,
        "task": task.name,
        "beside": _made(calibration),
        "data": data,
        "sample": None if spec.image is not None else spec.sample,
        "image": spec.image,
        "classes": list(info.class_names),
        "truth": None if target is None else task.told(target, info),
    }
    arrays = {"image": pixels}
    if target is not None:
        # rows that stand for no box are none of the truth
        arrays["truth"] = present(target) if task.targets == "boxes" else target
    if task.generates:
        more, pictures = yield from _drawn(spec, target, (source, exact, rounded, calibration))
    else:
        images = normalize(pixels.unsqueeze(0), info.mean, info.std).to(exact.device)
        models_asked = {"float": exact} | ({} if calibration is None else {"quantized": rounded})
        outputs = {}
        for number, (name, model) in enumerate(models_asked.items()):
            yield Progress(number, len(models_asked), name)
            with torch.no_grad():
                outputs[name] = model(images)
            task.check(outputs[name])
        more, pictures = _compared(task, info, outputs)
        yield Progress(len(models_asked), len(models_asked), "answered")
    device = str(exact.device)
    values |= more | {"seconds": round(time.perf_counter() - started, 2), "device": device, "seed": spec.seed}
    return Report("answers", values, run_info(spec.seed, started, exact.device), arrays | pictures)


def _asked(spec: AnswersSpec, task: Task, info: ModelInfo, data: str) -> tuple[Tensor, Tensor | None]:
    """(uint8 [3 h w], its target) of the image; None where nobody knows it, or it is for another task or other classes."""
    if spec.image is not None:
        return image_file(spec.image, info)[0], None
    assert spec.sample is not None
    dataset = open_data(data, "test", info)
    check_sample(spec.sample, data, dataset)
    pixels, targets = dataset.images(spec.sample, 1)
    try:
        task.require(dataset, data, info)
    except ValueError:
        targets = None
    return pixels[0], None if targets is None else targets[0]


def _made(calibration: Calibration | None) -> dict[str, Any] | None:
    """How the quantized model was made."""
    if calibration is None:
        return None
    plan = calibration.plan
    calib = calibration.provenance.get("calib")
    return {"method": plan.method, "bits": plan.bits, "scope": plan.scope, "calib": calib}


def _compared(task: Task, info: ModelInfo, outputs: dict[str, Any]) -> tuple[dict[str, Any], dict[str, Tensor]]:
    """(values, arrays) of what the models put out for one image."""
    kept = {name: task.cpu(one) for name, one in outputs.items()}
    values: dict[str, Any] = {
        "answers": {
            name: task.answer(kept[name][0], info) if name in kept else None for name in ("float", "quantized")
        },
        "agreement": None,
        "divergence": None,
    }
    arrays = {"exact": task.shown(kept["float"])[0]}
    if "quantized" in kept:
        arrays["rounded"] = task.shown(kept["quantized"])[0]
        values["agreement"] = task.agreement(kept["float"], kept["quantized"]).item()
        values["divergence"] = max(0.0, task.divergence(kept["float"], kept["quantized"]).item())
    return values, arrays


def _drawn(
    spec: AnswersSpec, target: Tensor | None, models: Opened
) -> Generator[Progress, None, tuple[dict[str, Any], dict[str, Tensor]]]:
    """(values, arrays) of a denoiser, which draws the class of the image, or every class where nobody knows that."""
    asked = () if target is None else (int(target),)
    wanted = SampleSpec(
        spec.model, spec.beside, PICTURES, spec.steps, classes=asked, seed=spec.seed, device=spec.device
    )
    report = yield from sample(wanted, models)
    names = {"samples": "exact", "quantized": "rounded", "strip": "exact_strip", "quantized_strip": "rounded_strip"}
    arrays = {names.get(name, name): x for name, x in report.arrays.items() if name != "classes"}
    shares = report.values["recognized"] or {}
    there = {"float", "quantized"} if "rounded" in arrays else {"float"}
    values = {
        "answers": {
            name: {"recognized": shares.get(name)} if name in there else None for name in ("float", "quantized")
        },
        "agreement": None,
        "divergence": report.values["difference"],
    }
    return values, arrays
