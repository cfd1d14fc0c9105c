"""Calibration images of every kind, from one spelling: real ones, noise, stored sets, and sets that are made on demand."""

from __future__ import annotations

import logging
import os
from dataclasses import replace

import torch
from torch import Tensor

from ouro.data import normalize
from ouro.data.source import (
    FILE,
    NOISE,
    SYNTHETIC,
    noise,
    open_data,
    own_data,
    parse,
    read_header,
    read_set,
    space_in,
    spelled,
)
from ouro.jobs.inputs import source_of
from ouro.jobs.synthesize import SynthesisSpec, synthesize
from ouro.progress import finish
from ouro.quant.apply import weights_digest
from ouro.quant.calibrate import check_images
from ouro.store import one_line
from ouro.streams import generator
from ouro.tasks import task_of
from ouro.types import CalibrationSet, DataSource, ModelInfo, ModelSource
from ouro.vision import VisionModel

_log = logging.getLogger(__name__)

CALIBRATION = 128
"""Images that calibration takes of a source that names no number."""


def calibration_set(
    calib: str | DataSource,
    source: str | ModelSource,
    model: VisionModel,
    seed: int,
    *,
    root: str | os.PathLike[str] | None = None,
    device: str = "auto",
) -> CalibrationSet:
    """Images in model space on the CPU, from what `calib` says; see `ouro.data.source.parse`.

    A stored set that was made with other weights of the model is taken, with a line in the log that says so.

    What a model is given beside its inputs comes along as `conditions`: of a denoiser real images are taken at diffusion
    times that are spread over (0, 1), and so is noise. See `calibration`, `conditions` and `imagined` of its task.

    Images of a data set are drawn by the seed from its calibration split, CALIBRATION of them (or all, where it has
    fewer) unless a number is given. Noise is Gaussian. "synthetic:N" is what `ouro generate` makes for this seed,
    generated if it is not among the runs in `root`; of a denoiser they are states of its own sampling.

    Raises:
        FileNotFoundError: no such file.
        ValueError: a count or a set that cannot be used; images that do not fit the model.
    """
    wanted, source = parse(calib), source_of(source)
    if wanted.kind == FILE:
        return _stored_set(wanted.argument, source.name, model, seed)
    if wanted.kind == SYNTHETIC:
        return _synthesized(wanted, source, model, seed, root, device)
    made = {"calib": spelled(wanted), "seed": seed}
    task, info = task_of(model), model.info
    if wanted.kind == NOISE:
        images = _noise_images(wanted, info, seed)
        return CalibrationSet(images, None, made, task.conditions(info, len(images), seed))
    pixels, labels = _real_images(wanted, info, seed)
    images, conditions = task.calibration(normalize(pixels, info.mean, info.std), labels, info, seed)
    return CalibrationSet(images, None, made, conditions)


def _synthesized(
    wanted: DataSource, source: ModelSource, model: VisionModel, seed: int, root: str | os.PathLike[str] | None,
    device: str,
) -> CalibrationSet:  # fmt: skip
    num, task = wanted.count or CALIBRATION, task_of(model)
    if task.generates:
        images, conditions = task.imagined(model, num, seed)
        return CalibrationSet(images, None, {"calib": f"{SYNTHETIC}:{num}", "seed": seed}, conditions)
    made = finish(synthesize(SynthesisSpec(source, num=num, seed=seed, device=device), root=root))
    return CalibrationSet(made.arrays["images"], made.arrays["labels"], {"calib": f"{SYNTHETIC}:{num}", "seed": seed})


def _noise_images(wanted: DataSource, info: ModelInfo, seed: int) -> Tensor:
    return noise(info, wanted.count or CALIBRATION, seed)


def _real_images(wanted: DataSource, info: ModelInfo, seed: int) -> tuple[Tensor, Tensor | None]:
    """uint8 [s 3 h w], and their classes [s] where they have any."""
    everything = replace(wanted, count=None)
    whole = open_data(everything, "calib", info)
    count = min(CALIBRATION, len(whole)) if wanted.count is None else wanted.count
    if count > len(whole):
        raise ValueError(f"{count} calibration images were asked for, {own_data(everything, info)} has {len(whole)}")
    chosen = torch.randperm(len(whole), generator=generator(seed))[:count].tolist()
    pixels, targets = zip(*(whole.images(index, 1) for index in chosen), strict=True)
    labels = torch.cat(targets) if whole.targets == "labels" and targets[0] is not None else None
    return torch.cat(pixels), labels


def _stored_set(path: str, name: str, model: VisionModel, seed: int) -> CalibrationSet:
    info = model.info
    tensors, metadata = read_set(path)
    images = tensors["images"]
    # images that one model dreamed up in its own pixel scale say little about another
    made, space = read_header(metadata, "spec", path), space_in(metadata, path)
    made_by = made.get("model", name)
    if made_by != name:
        sizes = f"images {tuple(images.shape[1:])}, {name} takes {info.input_size}"
        raise ValueError(
            f"{path} was made by {one_line(made_by, 60)} for itself, not for {name} ({sizes}); generate one with {name}"
        )
    if space and (tuple(space["mean"]), tuple(space["std"])) != (info.mean, info.std):
        given = one_line(f"mean {space['mean']} and std {space['std']}")
        own = f"{list(info.mean)} and {list(info.std)}"
        raise ValueError(f"{path} has images of {given}, {name} takes {own}; generate one with this model")
    if made.get("weights") not in (None, weights_digest(model)):
        _log.warning("%s was made with other weights of %s: its images show what those had learned", path, name)
    try:
        check_images(images, info)
    except ValueError as error:
        raise ValueError(f"{path}: {error}") from error
    task, images = task_of(model), images.float()
    if not task.generates:
        return CalibrationSet(images, tensors.get("labels"), {"calib": path, **metadata})
    images, conditions = task.calibration(images, tensors.get("labels"), info, seed)
    return CalibrationSet(images, None, {"calib": path, **metadata}, conditions)
