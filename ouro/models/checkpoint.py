"""Foreign weights, read without running any of their code, renamed, and verified key by key before they are loaded."""

from __future__ import annotations

import argparse
import os
import pickle
import zipfile
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import safetensors
import torch
from safetensors.torch import load_file
from torch import Tensor

from ouro.models.position import resize_pos_embed
from ouro.vision import VisionModel

CONTAINERS = ("model", "model_ema", "ema_model", "state_dict", "ema")
"""Keys under which training scripts store the weights, in the order they are tried."""
PREFIXES = ("module.", "_orig_mod.")
"""What wrappers put in front of every key."""


def load_checkpoint(
    model: VisionModel, source: str | os.PathLike[str] | Mapping[str, Tensor], *, container: str | None = None
) -> VisionModel:
    """Loads official or our own weights into `model`, in place, and returns it.

    Args:
        source: a .safetensors or .pth file, a Hugging Face file as "org/name:file" or "org/name:file@revision",
            or a state dict. Pickles are read with `weights_only`: nothing in them is executed.
        container: which of `CONTAINERS` to take from a training checkpoint; by default the first one there.

    Raises:
        ValueError: unreadable, hostile or truncated file, or weights that do not fit; the message names the first
            offending key with both shapes. The model is untouched then.
    """
    if isinstance(source, Mapping):
        label, state = "the given state dict", dict(source)
    else:
        path = _resolve(str(source))
        label, state = path.name, _read(path)
    state = _unwrap(state, label, container)
    # ours already, or official names to be translated
    if not set(state) & set(model.state_dict()) or any(key not in state for key in model.state_dict()):
        state = model.from_official(state)
    state = _fitted(state, model)
    _verify(state, model, label)
    model.load_state_dict(state)
    return model


def _resolve(source: str) -> Path:
    path = Path(source)
    if path.exists():
        return path
    repository, colon, file = source.partition(":")
    if not colon or repository.count("/") != 1:
        raise ValueError(
            f"no checkpoint at {source!r}; give a .safetensors or .pth file, or a Hugging Face file as 'org/name:file'"
        )
    # only needed for hub files
    from huggingface_hub import hf_hub_download
    from huggingface_hub.errors import HfHubHTTPError, LocalEntryNotFoundError

    file, _, revision = file.partition("@")
    try:
        return Path(hf_hub_download(repository, file, revision=revision or None))
    except (HfHubHTTPError, LocalEntryNotFoundError, OSError) as error:
        raise ValueError(
            f"cannot download {file!r} of {repository!r}: {str(error).splitlines()[0]}; download it by hand and give "
            "its path"
        ) from error


def _read(path: Path) -> dict[str, Any]:
    """The content of a checkpoint file; nothing in it is executed."""
    if path.is_dir():
        raise ValueError(f"{path} is a folder, expected a .safetensors or .pth file")
    if path.stat().st_size == 0:
        raise ValueError(f"{path.name} is empty; download it again")
    if path.suffix == ".safetensors":
        try:
            return load_file(path)
        except safetensors.SafetensorError as error:
            raise ValueError(f"{path.name} is no readable safetensors file ({error}); download it again") from error
    try:
        with torch.serialization.safe_globals([argparse.Namespace]):
            content = torch.load(path, map_location="cpu", weights_only=True)
    except pickle.UnpicklingError as error:
        # torch names the class it refused in "GLOBAL x.y" or "class x.y"
        detail = next((line.strip() for line in str(error).splitlines() if "lobal" in line or "class" in line), "")
        raise ValueError(
            f"{path.name} holds more than tensors and was not opened, because opening it could run code "
            f"({detail[:160]}); save its state dict as .safetensors where you trust it"
        ) from error
    except (RuntimeError, EOFError, OSError, KeyError, ValueError, zipfile.BadZipFile) as error:
        raise ValueError(
            f"{path.name} is no readable checkpoint ({str(error).splitlines()[0][:160]}); download it again"
        ) from error
    if not isinstance(content, dict):
        raise ValueError(
            f"{path.name} holds a {type(content).__name__}, expected a dict of tensors or a container of one"
        )
    return content


def _unwrap(content: dict[str, Any], label: str, container: str | None) -> dict[str, Tensor]:
    """The state dict inside a training checkpoint, without wrappers' prefixes, in float32."""
    if container is not None and container not in content:
        raise ValueError(f"{label} has no {container!r}; it has {', '.join(map(str, content))}")
    for key in (container,) if container else CONTAINERS:
        if isinstance(content.get(key), dict):
            content = content[key]
            break
    if not content or not all(isinstance(value, Tensor) for value in content.values()):
        odd = next((str(key) for key, value in content.items() if not isinstance(value, Tensor)), "nothing")
        raise ValueError(
            f"{label} holds no state dict: found {odd!r}; looked under {', '.join(CONTAINERS)} and at the top"
        )
    for prefix in PREFIXES:
        if all(key.startswith(prefix) for key in content):
            content = {key.removeprefix(prefix): value for key, value in content.items()}
    return {key: value.float() if value.is_floating_point() else value for key, value in content.items()}


def _fitted(state: dict[str, Tensor], model: VisionModel) -> dict[str, Tensor]:
    """Interpolates the position embedding when only the resolution differs."""
    wanted, given = getattr(model, "pos_embed", None), state.get("pos_embed")
    if wanted is None or given is None or given.dim() != 3 or given.shape[1] == wanted.shape[1]:
        return state
    has_class = model.info.cls_index is not None
    cls_index = (given.shape[1] - 1) // 2 if has_class else None
    return state | {"pos_embed": resize_pos_embed(given, cls_index, model.info.stages[0].grid)}


def _verify(state: Mapping[str, Tensor], model: VisionModel, label: str) -> None:
    wanted = model.state_dict()
    name = model.info.name
    missing = [key for key in wanted if key not in state]
    unexpected = [key for key in state if key not in wanted]
    shapes = [key for key in wanted if key in state and state[key].shape != wanted[key].shape]
    if shapes:
        key = shapes[0]
        raise ValueError(
            f"{label} does not fit {name}: {key!r} is {tuple(state[key].shape)}, the model has "
            f"{tuple(wanted[key].shape)} ({len(shapes)} shapes differ); was it made for another size "
            "or number of classes?"
        )
    if missing or unexpected:
        first = f"{missing[0]!r} is missing" if missing else f"{unexpected[0]!r} is not of this model"
        raise ValueError(
            f"{label} does not fit {name}: {first} ({len(missing)} keys missing, {len(unexpected)} unexpected); was it "
            "made for another family?"
        )
    for key, value in state.items():
        if value.is_floating_point() and not value.isfinite().all():
            raise ValueError(f"{label}: {key!r} holds NaN or infinity; the file is damaged or its training diverged")
