"""Whether a device gives what the CPU gives, part by part, with the same seed: forward, attention, generation, calibration.

The CPU runs compiled loops, a GPU kernels or the definitions in torch, and sums are added in another order. So floats
differ in their last bits, and behind rounding a value beside the border of two codes may take the other one. What is
compared there is what comes of the codes: damage and predictions.
"""

from __future__ import annotations

import copy
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import partial
from typing import Any

import torch
from torch import Tensor

from ouro.attention import alpha, alpha_p
from ouro.evaluate.sensitivity import divergence, sensitivity
from ouro.gen.synthesize import synthesize
from ouro.progress import finish
from ouro.quant import attach_calibration, quantize
from ouro.quant.packed.lower import lower
from ouro.registry import GENERATORS, QUANTIZERS
from ouro.scan import selective_scan
from ouro.settings import first_line
from ouro.taps import record
from ouro.tasks import Task, task_of
from ouro.types import ScanRecord
from ouro.vision import VisionModel

CALIBRATED = 8
"""Images that a model is calibrated on."""
JUDGED = 64
"""Images that predictions are compared on."""
_BITS = "w4a4o8h8"
_SHORT: dict[str, dict[str, Any]] = {
    "ouro": {"steps_per_block": 2, "candidates": 10},
    "ptq4vm": {"steps_per_block": 2, "candidates": 10},
    "brecq": {"iterations": 4, "activation_steps": 1, "candidates": 10},
    "clipped": {"candidates": 10},
    "qmamba": {"candidates": 10},
}
"""Options that shorten what a method does over and over again."""
_GENERATED = 0.1
"""Adam makes whole steps of gradients that are next to nothing: the last bits of a loss show in the images."""


@dataclass(frozen=True, slots=True)
class _Case:
    """Images [n 3 h w] in model space, on the CPU, and their labels where there are any."""

    images: Tensor
    labels: Tensor | None
    seed: int


@dataclass(frozen=True, slots=True)
class Answers:
    """Outputs on the CPU, and what they should have been where that is known."""

    task: Task
    outputs: Any
    labels: Tensor | None


@dataclass(frozen=True, slots=True)
class _Part:
    """`run` gives what is compared, on the CPU; `compare` (of the CPU, of the device) -> (error, note)."""

    name: str
    tolerance: float
    run: Callable[[VisionModel, _Case], Any]
    compare: Callable[[Any, Any], tuple[float, str]]


def comparing(
    model: VisionModel, device: str | torch.device, images: Tensor, labels: Tensor | None = None, *, seed: int = 0
) -> Iterator[dict[str, Any]]:
    """Runs every part on the CPU and on the device: {part, max_error, tolerance, passed, note}.

    A part that stops with an error has no `max_error`, and the error as its note. Convolutions run in full float32.
    """
    case = _Case(images.cpu(), None if labels is None else labels.cpu(), seed)
    here, there = (copy.deepcopy(model).eval().to(place) for place in ("cpu", device))
    for part in parts():
        with torch.backends.cudnn.flags(enabled=True, allow_tf32=False):
            try:
                error, note = part.compare(part.run(here, case), part.run(there, case))
            except (RuntimeError, ValueError) as failure:
                error, note = None, f"{type(failure).__name__}: {first_line(failure)}"
        passed = error is not None and error <= part.tolerance
        yield {"part": part.name, "max_error": error, "tolerance": part.tolerance, "passed": passed, "note": note}


def parts() -> Iterator[_Part]:
    """What is compared, the plain before what builds on it."""
    yield _Part("forward", 1e-4, _forward, _largest)
    yield _Part("states", 1e-3, _states, _largest)
    yield _Part("alpha", 1e-3, _alpha, _largest)
    yield _Part("alpha_p", 1e-3, _alpha_p, _largest)
    for method in GENERATORS:
        yield _Part(f"generate {method}", _GENERATED, partial(_generate, method), _typical)
    for method in QUANTIZERS:
        yield _Part(f"calibrate {method}", 0.2, partial(_calibrate, method), _damages)
    yield _Part("attached", 0.1, _attached, _predictions)
    yield _Part("packed", 0.1, _packed, _predictions)
    yield _Part("sensitivity", 0.05, _sensitivity, _largest)


@torch.no_grad()
def _forward(model: VisionModel, case: _Case) -> list[Tensor]:
    return [_logits(model, case.images)]


@torch.no_grad()
def _scans(model: VisionModel, case: _Case) -> list[ScanRecord]:
    """The scans of the first, the middle and the last mixer, of two images."""
    paths = list(model.mixers())
    chosen = sorted({0, len(paths) // 2, len(paths) - 1})
    with record(model, *(f"{paths[place]}.scans.*" for place in chosen)) as trace:
        model(case.images[:2].to(model.device))
    return list(trace.scans)


def _states(model: VisionModel, case: _Case) -> list[Tensor]:
    outputs = (selective_scan(scan.inputs, keep_states=True) for scan in _scans(model, case))
    return [out.h.cpu() for out in outputs if out.h is not None]


@torch.no_grad()
def _alpha(model: VisionModel, case: _Case) -> list[Tensor]:
    return [alpha(scan).cpu() for scan in _scans(model, case)]


@torch.no_grad()
def _alpha_p(model: VisionModel, case: _Case) -> list[Tensor]:
    return [alpha_p(scan, 3).cpu() for scan in _scans(model, case)]


def _generate(method: str, model: VisionModel, case: _Case) -> list[Tensor]:
    # the smallest neighborhood there is: it fits every grid
    options = {"window": 3, "positives": 4} if method in ("ouro", "clamp") else {}
    return [synthesize(model, method=method, num=4, steps=5, seed=case.seed, **options).images]


def _calibrate(method: str, model: VisionModel, case: _Case) -> float:
    """KL(float || rounded) of the class distributions, in nats."""
    few = case.images[:CALIBRATED]
    options = _SHORT.get(method, {})
    calibration = quantize(model, few, method=method, bits=_BITS, scope="full", seed=case.seed, **options)
    rounded = attach_calibration(copy.deepcopy(model), calibration)
    return divergence(task_of(model), _logits(model, case.images), _logits(rounded, case.images))


def _rounded(model: VisionModel, case: _Case) -> VisionModel:
    """The model with a calibration that the CPU made, whatever the device."""
    at_home = copy.deepcopy(model).cpu()
    calibration = quantize(at_home, case.images[:CALIBRATED], method="minmax", bits="w8a8", seed=case.seed)
    return attach_calibration(copy.deepcopy(model), calibration)


def _attached(model: VisionModel, case: _Case) -> Answers:
    return Answers(task_of(model), _logits(_rounded(model, case), case.images), case.labels)


def _packed(model: VisionModel, case: _Case) -> Answers:
    return Answers(task_of(model), _logits(lower(_rounded(model, case)), case.images), case.labels)


def _sensitivity(model: VisionModel, case: _Case) -> list[Tensor]:
    """The damage of every group of sites, in the order of the model."""
    few = case.images[:CALIBRATED]
    calibration = quantize(model, few, method="minmax", bits="w4a4", seed=case.seed)
    rows = sorted(finish(sensitivity(model, calibration, few, by="group")).rows, key=lambda row: row.group.name)
    return [torch.tensor([row.damage.kl for row in rows])]


@torch.no_grad()
def _logits(model: VisionModel, images: Tensor) -> Tensor:
    device = model.device
    return torch.cat([model(chunk.to(device)).float().cpu() for chunk in images.split(CALIBRATED)])


def _largest(wanted: list[Tensor], given: list[Tensor]) -> tuple[float, str]:
    """The largest difference, as a part of the largest number of its tensor."""
    errors = [_part_of(x, y, lambda z: z.abs().amax()) for x, y in zip(wanted, given, strict=True)]
    return max(errors), f"{len(errors)} tensors" if len(errors) > 1 else ""


def _typical(wanted: list[Tensor], given: list[Tensor]) -> tuple[float, str]:
    """The root mean square of the difference, as a part of that of the tensor."""
    return _part_of(wanted[0], given[0], lambda z: z.square().mean().sqrt()), ""


def _part_of(wanted: Tensor, given: Tensor, size: Callable[[Tensor], Tensor]) -> float:
    whole = size(wanted.double()).item()
    off = size(given.double() - wanted.double()).item()
    return off / whole if whole else off


def _damages(wanted: float, given: float) -> tuple[float, str]:
    """How far one damage is from the other, as a part of it."""
    note = f"KL {wanted:.4g} on the CPU, {given:.4g} on the device"
    return abs(given - wanted) / wanted if wanted else abs(given), note


def _predictions(wanted: Answers, given: Answers) -> tuple[float, str]:
    """Share of the images for which another answer is given."""
    task, note = wanted.task, ""
    if wanted.labels is not None:
        scores = [task.primary(task.outcomes(one.outputs, one.labels)) for one in (wanted, given)]
        note = f"{task.metric} {scores[0]:.3f} on the CPU, {scores[1]:.3f} on the device"
    return 1 - task.agreement(wanted.outputs, given.outputs).mean().item(), note
