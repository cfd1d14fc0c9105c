"""Foreign weights, read without running any of their code, renamed, and verified key by key before they are loaded."""

from __future__ import annotations

import argparse
import logging
import os
import pickle
import warnings
import zipfile
from collections import OrderedDict
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import safetensors
import torch
from safetensors.torch import load_file
from torch import Tensor

from ouro.models.download import locate
from ouro.models.position import resize_pos_embed
from ouro.types import WeightsSource
from ouro.vision import VisionModel

CONTAINERS = ("model", "model_ema", "ema_model", "state_dict", "state_dict_ema", "ema")
"""Keys under which training scripts store the weights, in the order they are tried."""
PREFIXES = ("module.", "_orig_mod.", "model.")
"""What wrappers put in front of every key."""
ENCODER = "encoder."
"""Marks the backbone inside a larger model; where it occurs only these keys are kept, as MambaVision's loader does."""
_log = logging.getLogger(__name__)


def load_checkpoint(
    model: VisionModel, source: str | os.PathLike[str] | Mapping[str, Tensor], *, container: str | None = None
) -> VisionModel:
    """Loads official or our own weights into `model`, in place, and returns it; `model.loaded_from` says what was taken.

    Args:
        source: a .safetensors or .pth file, a URL of one, a Hugging Face file as "org/name:file" or
            "org/name:file@revision", or a state dict. Pickles are read with `weights_only`: nothing in them is
            executed.
        container: which of `CONTAINERS` to take from a training checkpoint; by default the first one there.

    Raises:
        ValueError: unreadable, hostile or truncated file, or weights that do not fit; the message names the first
            offending key with both shapes. The model is untouched then.
    """
    if isinstance(source, Mapping):
        label, revision, content = "the given state dict", "", dict(source)
    else:
        path, revision = locate(str(source))
        label, content = path.name, _read(path)
    given, taken = _unwrap(content, label, container)
    own = model.state_dict()
    if any(key not in given for key in own):
        given = _bare(given)
    # ours already, or official names to be translated
    state = model.from_official(given) if any(key not in given for key in own) else given
    state = _fitted(state, model, label)
    _verify(state, given, model, label)
    model.load_state_dict(state)
    model.loaded_from = WeightsSource(label if isinstance(source, Mapping) else str(source), taken, revision)
    _log.info("%s: weights of %s, %s, revision %s", model.info.name, label, taken or "no container", revision)
    return model


class _Config:
    """Stands in for yacs' CfgNode, a dict, while a file is read: what is made is an OrderedDict, which has no code."""

    def __new__(cls, *_: object) -> Any:
        return OrderedDict()


class _Ignored:
    """Stands in for numpy's scalars, such as a best accuracy beside the weights: takes everything, does nothing."""

    def __init__(self, *_: object) -> None:
        pass

    def __setstate__(self, _: object) -> None:
        pass


_HARMLESS: list[Any] = [
    argparse.Namespace,
    (_Config, "yacs.config.CfgNode"),
    (_Ignored, "numpy.dtype"),
    (_Ignored, "numpy.core.multiarray.scalar"),
    (_Ignored, "numpy._core.multiarray.scalar"),
]
"""What training scripts pickle beside the weights; a pair is (stand-in, name in the file)."""


def _read(path: Path) -> dict[str, Any]:
    """The content of a checkpoint file; nothing in it is executed."""
    if path.stat().st_size == 0:
        raise ValueError(f"{path.name} is empty; download it again")
    if path.suffix == ".safetensors":
        try:
            return load_file(path)
        except safetensors.SafetensorError as error:
            raise ValueError(f"{path.name} is no readable safetensors file ({error}); download it again") from error
    try:
        with torch.serialization.safe_globals(_HARMLESS), warnings.catch_warnings():
            # of an unusual pickle protocol; what cannot be read is an error all the same
            warnings.simplefilter("ignore")
            content = torch.load(path, map_location="cpu", weights_only=True)
    except pickle.UnpicklingError as error:
        # torch names the class it refused in "GLOBAL x.y" or "class x.y"
        detail = next((line.strip() for line in str(error).splitlines() if "lobal" in line or "class" in line), "")
        raise ValueError(
            f"{path.name} holds more than tensors and was not opened, because opening it could run code "
            f"({detail[:160]}); save its state dict as .safetensors where you trust it"
        ) from error
    except (RuntimeError, EOFError, OSError, KeyError, IndexError, TypeError, ValueError, zipfile.BadZipFile) as error:
        detail = next(iter(str(error).splitlines()), "") or type(error).__name__
        raise ValueError(f"{path.name} is no readable checkpoint ({detail[:160]}); download it again") from error
    if not isinstance(content, dict):
        raise ValueError(
            f"{path.name} holds a {type(content).__name__}, expected a dict of tensors or a container of one"
        )
    return content


def _unwrap(content: dict[str, Any], label: str, container: str | None) -> tuple[dict[str, Tensor], str]:
    """(state dict in float32, container) inside a training checkpoint; one in another is "model_ema.state_dict"."""
    if container is not None and container not in content:
        raise ValueError(f"{label} has no {container!r}; it has {', '.join(map(str, content))}")
    taken: list[str] = []
    names = (container,) if container else CONTAINERS
    while key := next((name for name in names if isinstance(content.get(name), dict)), None):
        content, names = content[key], CONTAINERS
        taken.append(key)
    if not content or not all(isinstance(value, Tensor) for value in content.values()):
        odd = next((str(key) for key, value in content.items() if not isinstance(value, Tensor)), "nothing")
        raise ValueError(
            f"{label} holds no state dict: found {odd!r}; looked under {', '.join(CONTAINERS)} and at the top"
        )
    state = {str(key): value.float() if value.is_floating_point() else value for key, value in content.items()}
    return state, ".".join(taken)


def _bare(state: dict[str, Tensor]) -> dict[str, Tensor]:
    """The state dict without what wrappers put around and in front of its keys."""
    # torch's AveragedModel counts its updates beside the weights
    state = {key: value for key, value in state.items() if key != "n_averaged"}
    while True:
        prefix = next((prefix for prefix in PREFIXES if state and all(key.startswith(prefix) for key in state)), None)
        if prefix is None and any(key.startswith(ENCODER) for key in state):
            prefix = ENCODER
        if prefix is None:
            return state
        state = {key.removeprefix(prefix): value for key, value in state.items() if key.startswith(prefix)}


def _fitted(state: dict[str, Tensor], model: VisionModel, label: str) -> dict[str, Tensor]:
    """Interpolates the position embedding when only the resolution differs."""
    wanted, given = getattr(model, "pos_embed", None), state.get("pos_embed")
    if wanted is None or given is None or given.dim() != 3:
        return state
    if given.shape[1] == wanted.shape[1] or given.shape[2] != wanted.shape[2]:
        return state
    grid = model.info.stages[0].grid
    has_class = model.info.cls_index is not None
    try:
        resized = resize_pos_embed(given, (given.shape[1] - 1) // 2 if has_class else None, grid)
    except ValueError as error:
        raise ValueError(f"{label} does not fit {model.info.name}: {error}") from error
    _log.info("%s: position embedding of %d tokens interpolated to %d", label, given.shape[1], resized.shape[1])
    return state | {"pos_embed": resized}


def _verify(state: Mapping[str, Tensor], given: Mapping[str, Tensor], model: VisionModel, label: str) -> None:
    """Compares keys, then shapes, then looks for NaN; `given` has the names of the file."""
    wanted = model.state_dict()
    misfit = f"{label} does not fit {model.info.name}: "
    missing = [key for key in wanted if key not in state]
    unexpected = [key for key in state if key not in wanted]
    if missing or unexpected:
        if missing:
            official = model.official(missing[0]).key
            other = "" if official == missing[0] else f", officially {official!r},"
            first = f"{missing[0]!r} of {tuple(wanted[missing[0]].shape)}{other} is missing"
        else:
            first = f"{unexpected[0]!r} of {tuple(state[unexpected[0]].shape)} is not of this model"
        raise ValueError(
            f"{misfit}{first} ({len(missing)} keys missing, {len(unexpected)} unexpected); was it made for another "
            "family or depth?"
        )
    shapes = [key for key in wanted if state[key].shape != wanted[key].shape]
    if shapes:
        key = shapes[0]
        raise ValueError(
            f"{misfit}{key!r} is {tuple(state[key].shape)}{_origin(key, given, model)}, the model has "
            f"{tuple(wanted[key].shape)} ({len(shapes)} shapes differ); was it made for another size or number of "
            "classes?"
        )
    for key, value in state.items():
        if value.is_floating_point() and not value.isfinite().all():
            raise ValueError(
                f"{label}: {key!r}{_origin(key, given, model)} holds NaN or infinity; the file is damaged or its "
                "training diverged"
            )


def _origin(key: str, given: Mapping[str, Tensor], model: VisionModel) -> str:
    """In brackets, what the file calls this tensor and how large it is there; nothing where both are the same."""
    there = model.official(key)
    if there.key == key or there.key not in given:
        return ""
    part = f"part {there.part + 1} of {there.parts} of " if there.parts > 1 else ""
    return f" ({part}the official {there.key!r}, {tuple(given[there.key].shape)})"
