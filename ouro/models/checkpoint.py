"""A checkpoint file as tensors with bare names: read without running any of its code, taken out of its wrappings.

What the tensors say of the model is read in `identify`, and how they get into one in `fit`.
"""

from __future__ import annotations

import argparse
import logging
import os
import pickle
import re
import warnings
import zipfile
from collections import OrderedDict
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from hashlib import sha256
from pathlib import Path
from typing import Any, TypeAlias

import torch
from safetensors import SafetensorError
from torch import Tensor

from ouro.models.download import DIGITS, content_digest, locate
from ouro.settings import first_line
from ouro.store import one_line, read_whole, tensors_and_metadata, too_large

CONTAINERS = ("model", "model_ema", "ema_model", "state_dict", "state_dict_ema", "ema")
"""Keys under which training scripts store the weights, in the order they are tried."""
BACKBONES = ("encoder.", "backbone.")
"""What marks the classifier's body inside a larger model, as MambaVision, mmdetection and mmsegmentation save it."""
_WRAPPERS = re.compile(r"(^|(?<=\.))(_orig_mod|_fsdp_wrapped_module|_checkpoint_wrapped_module)\.")
"""What torch puts into the names of modules that it compiles, shards or checkpoints, wherever they are."""
_DEPTH = 8
_log = logging.getLogger(__name__)

Rename: TypeAlias = Callable[[str], str | None] | Mapping[str, str | None]
"""How names of a file become those of a model without wrappers.

A mapping replaces prefixes, the longest that matches: {"student.net.": "", "teacher.": None}; None leaves tensors out.
A prefix is one of the names in the file, or of what is left when `read_checkpoint` has taken its wrappings off. A
function is given each name as it is in the file.
"""


@dataclass(frozen=True, slots=True, eq=False)
class Checkpoint:
    """Weights on their way into a model.

    state: bare name -> tensor as it is stored. source: path, URL or hub file; label: its short name, for messages.
    container: under which key of the file they were, "" for the file itself. revision: the commit of a hub file, the
    digest of another, "" of a state dict. digest: start of the SHA-256 of the content. grid: patches (down, across) of
    the position embedding, where somebody says so. others: what lay among the tensors and is none, with its type.
    metadata: of a safetensors file. all: bare name -> tensor of the larger model that `state` is the backbone of, with the
    backbone's prefix; {} where there is no larger one.
    """

    state: Mapping[str, Tensor]
    source: str
    label: str
    container: str = ""
    revision: str = ""
    digest: str = ""
    grid: tuple[int, int] | None = None
    others: Mapping[str, str] = field(default_factory=dict)
    metadata: Mapping[str, str] = field(default_factory=dict)
    all: Mapping[str, Tensor] = field(default_factory=dict)

    def tensors(self, whole: bool = False) -> Mapping[str, Tensor]:
        """The tensors of a classifier, or of a model with another head as a whole."""
        return self.all or self.state if whole else self.state


Source: TypeAlias = str | os.PathLike[str] | Mapping[str, Any] | Checkpoint


def read_checkpoint(
    source: Source,
    *,
    container: str | None = None,
    rename: Rename | None = None,
    grid: tuple[int, int] | None = None,
) -> Checkpoint:
    """Reads a file or a state dict and takes the tensors out of what scripts wrap them in.

    Wrappings are `CONTAINERS`, one in another too; what all names begin with ("module.", "model.", "net."); torch's own
    infixes such as "_orig_mod."; and `BACKBONES`, of which only what is inside is kept.

    Args:
        source: a .safetensors or .pth file, a URL of one, a Hugging Face file as "org/name:file" or
            "org/name:file@revision", a state dict, or what this function returned. Pickles are read with
            `weights_only`: nothing in them is executed.
        container: the key to take the weights from; by default the first of `CONTAINERS` that is there.
        rename: for wrappings of your own, see `Rename`.
        grid: patches (down, across) that the position embedding belongs to, where they form no square.

    Raises:
        ValueError: unreadable, hostile or truncated file, one without weights, or with tensors that are not plain.
    """
    if isinstance(source, Checkpoint):
        if container is not None or rename is not None or grid is not None:
            raise ValueError(f"{source.label} is read already; give container, rename and grid to read_checkpoint")
        return source
    metadata: Mapping[str, str] = {}
    commit = ""
    if isinstance(source, Mapping):
        place = label = "the given state dict"
        content = dict(source)
    elif isinstance(source, (str, os.PathLike)):
        place = str(source)
        path, commit = locate(place)
        label = path.name
        content, metadata = _read(path)
    else:
        raise ValueError(
            f"weights are given as a {type(source).__name__}, expected a path, a URL, a hub file or a state dict"
        )
    weights, taken = _unwrapped(content, label, container)
    state, others = _tensors(weights, label, stored=not isinstance(source, Mapping))
    state, larger = _bare(state, label, rename)
    if not state:
        raise ValueError(f"{label} holds no tensor that is left after renaming; check rename")
    digest = _digest(larger or state) if isinstance(source, Mapping) else content_digest(path)
    revision = "" if isinstance(source, Mapping) else commit or digest
    return Checkpoint(state, place, label, taken, revision, digest, grid, others, metadata, larger)


class _Config:
    """Stands in for yacs' CfgNode, a dict, while a file is read: what is made is an OrderedDict, which has no code."""

    def __new__(cls, *_: object) -> Any:
        return OrderedDict()


class _Ignored:
    """Stands in for what is no tensor, such as numpy's numbers and arrays: takes everything, does nothing."""

    def __init__(self, *_: object) -> None:
        pass

    def __setstate__(self, _: object) -> None:
        pass


_HARMLESS: list[Any] = [
    argparse.Namespace,
    (_Config, "yacs.config.CfgNode"),
    *((_Ignored, f"numpy.{name}") for name in ("dtype", "ndarray")),
    *(
        (_Ignored, f"numpy.{core}.multiarray.{name}")
        for core in ("core", "_core")
        for name in ("scalar", "_reconstruct")
    ),
    *((_Ignored, f"pathlib.{name}") for name in ("PosixPath", "WindowsPath", "_local.PosixPath", "_local.WindowsPath")),
    # what mmengine remembers of the losses
    (_Ignored, "mmengine.logging.history_buffer.HistoryBuffer"),
]
"""What training scripts pickle beside the weights; a pair is (stand-in, name in the file)."""


def _read(path: Path) -> tuple[dict[Any, Any], Mapping[str, str]]:
    """(content, metadata) of a checkpoint file; nothing in it is executed."""
    if path.stat().st_size == 0:
        raise ValueError(f"{path.name} is empty; download it again")
    if path.suffix == ".safetensors":
        try:
            content, metadata = read_whole(path, tensors_and_metadata)
        except SafetensorError as error:
            words = f"{path.name} is no readable safetensors file ({one_line(error)})"
            raise ValueError(f"{words}; download it again") from error
        except MemoryError as error:
            raise ValueError(too_large(path)) from error
        if metadata.get("format", "").startswith("ouro "):
            raise ValueError(
                f"{path.name} is no checkpoint but an {metadata['format']!r}; a quantized model is opened by its path, "
                "as `ouro evaluate` does"
            )
        return content, metadata
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
    # a crafted pickle calls the few functions it may with whatever it likes, and they fail in any way
    except Exception as error:
        detail = first_line(error)
        with path.open("rb") as file:
            pickled = file.read(1) == pickle.PROTO
        if not pickled and not _is_archive(path):
            # what a text or a picture fails with says nothing about it
            detail = "torch.save did not write it"
        raise ValueError(f"{path.name} is no readable checkpoint ({detail[:160]}); download it again") from error
    if not isinstance(content, dict):
        raise ValueError(
            f"{path.name} holds a {type(content).__name__}, expected a dict of tensors or a container of one"
        )
    return content, {}


def _is_archive(path: Path) -> bool:
    try:
        return zipfile.is_zipfile(path)
    # one of several disks, as damaged ones say that they are
    except zipfile.BadZipFile:
        return False


def _items(content: Mapping[Any, Any]) -> dict[Any, Any]:
    """A plain dict of the same entries; a pickle may have hung anything on the attributes of an OrderedDict."""
    return dict(dict.items(content)) if isinstance(content, dict) else dict(content)


def _unwrapped(content: Mapping[Any, Any], label: str, container: str | None) -> tuple[dict[Any, Any], str]:
    """(state dict, container) inside a training checkpoint; one in another is "model_ema.state_dict"."""
    content, taken = _items(content), []
    if container is not None:
        for key in (container,) if container in content else container.split("."):
            if not isinstance(content.get(key), Mapping):
                raise ValueError(f"{label} has no {key!r}; it has {few(content)}")
            content = _items(content[key])
            taken.append(key)
    while key := _next(content, label):
        content = _items(content[key])
        taken.append(str(key))
        if len(taken) > _DEPTH:
            raise ValueError(f"{label} has containers in containers without end ({'.'.join(taken)}); it is damaged")
    if not any(isinstance(value, Tensor) for value in content.values()):
        raise ValueError(f"{label} holds no weights: {_contents(content)}; give the file of a model")
    return content, ".".join(taken)


def _next(content: dict[Any, Any], label: str) -> Any:
    """The key under which the weights are, one level down; None where they are on this one, or nowhere."""
    inner = {key: _items(value) for key, value in content.items() if isinstance(value, Mapping)}
    if known := next((key for key in CONTAINERS if inner.get(key)), None):
        return known
    if any(isinstance(value, Tensor) for value in content.values()):
        return None
    full = [key for key, below in inner.items() if _has_weights(below)]
    if len(full) > 1:
        raise ValueError(f"{label} holds several state dicts, {few(full)}; choose one by container={str(full[0])!r}")
    return full[0] if full else None


def _has_weights(content: dict[Any, Any], depth: int = 0) -> bool:
    """Whether there are tensors with names somewhere inside; those of an optimizer are numbered."""
    if "param_groups" in content or depth > _DEPTH:
        return False
    named = [value for key, value in content.items() if isinstance(key, str)]
    return any(isinstance(value, Tensor) for value in named) or any(
        _has_weights(_items(value), depth + 1) for value in named if isinstance(value, Mapping)
    )


def _contents(content: dict[Any, Any]) -> str:
    """What a file without weights has instead."""
    if not content:
        return "there is nothing in it"
    if "optimizer" in content or "param_groups" in content:
        return f"it is the state of an optimizer ({few(content)})"
    return f"it has {few(content)}, and no tensors under {', '.join(CONTAINERS)} or at the top"


def _tensors(content: dict[Any, Any], label: str, *, stored: bool) -> tuple[dict[str, Tensor], dict[str, str]]:
    """(the tensors, type of everything else); `stored` tensors must be as large in the file as they claim to be."""
    state, others = {}, {}
    for name, value in content.items():
        key = str(name)
        if isinstance(value, Tensor):
            if why := _refusal(value, stored):
                raise ValueError(f"{label}: {key!r} {why}")
            state[key] = value.detach()
        elif type(value) is int and key.endswith("num_batches_tracked"):
            # batch norm's counter, a tensor of its own in torch
            state[key] = torch.tensor(value)
        else:
            others[key] = "numpy value" if isinstance(value, _Ignored) else type(value).__name__
    # torch's AveragedModel counts its updates beside the weights
    state.pop("n_averaged", None)
    if others:
        _log.info("%s: left out what is no tensor: %s", label, few(others))
    return state, others


def _refusal(value: Tensor, stored: bool) -> str:
    """Why a tensor is not plain numbers, and what to do; "" where it is."""
    if value.is_nested or value.layout == torch.jagged:
        return "is a nested tensor, weights are dense; save it padded, as torch.nested.to_padded_tensor makes it"
    if value.is_quantized:
        return f"is quantized by torch ({value.dtype}), weights are floating point; save value.dequantize()"
    if value.layout != torch.strided:
        return f"is sparse ({value.layout}), weights are dense; save value.to_dense()"
    if value.is_meta:
        return "is on the meta device and has no values; save the model after its weights are loaded"
    if value.is_complex():
        return f"is complex ({value.dtype}), weights are real; was it made for another family?"
    if stored and value.untyped_storage().nbytes() < value.numel() * value.element_size():
        return f"claims to be {tuple(value.shape)}, and the file holds less than that; save value.contiguous()"
    return ""


def _bare(state: dict[str, Tensor], label: str, rename: Rename | None) -> tuple[dict[str, Tensor], dict[str, Tensor]]:
    """The state dict without what wrappers put around and in front of its names; and that of the larger model it is in."""
    left: dict[str, str | None] = {}
    if isinstance(rename, Mapping):
        # prefixes that no name in the file has are tried again when the wrappings are off
        left = {prefix: to for prefix, to in rename.items() if not any(key.startswith(prefix) for key in state)}
        state = _renamed(state, {prefix: to for prefix, to in rename.items() if prefix not in left}, label)
    elif callable(rename):
        state = _renamed(state, rename, label)
    elif rename is not None:
        raise ValueError(f"rename is a {type(rename).__name__}, expected a mapping of prefixes or a function of names")
    state, larger = _unprefixed(state, label)
    for prefix in left:
        if not any(key.startswith(prefix) for key in state):
            first = {key.partition(".")[0] for key in state}
            raise ValueError(
                f"rename has {prefix!r}, and no name in {label} begins with it; they begin with {few(first)}"
            )
    return _unprefixed(_renamed(state, left, label), label) if left else (state, larger)


def _renamed(state: dict[str, Tensor], rename: Rename, label: str) -> dict[str, Tensor]:
    prefixes = sorted(rename, key=len, reverse=True) if isinstance(rename, Mapping) else ()

    def name_of(key: str) -> str | None:
        if callable(rename):
            return rename(key)
        prefix = next((prefix for prefix in prefixes if key.startswith(prefix)), None)
        if prefix is None:
            return key
        to = rename[prefix]
        return None if to is None else to + key.removeprefix(prefix)

    renamed: dict[str, Tensor] = {}
    for key, value in state.items():
        if (name := name_of(key)) is None:
            continue
        if name in renamed:
            raise ValueError(f"{label}: two tensors are called {name!r} once {key!r} is renamed; check rename")
        renamed[name] = value
    return renamed


def _unprefixed(state: dict[str, Tensor], label: str) -> tuple[dict[str, Tensor], dict[str, Tensor]]:
    """Without torch's infixes, without what all names begin with, and of a larger model the backbone alone; and that one."""
    larger: dict[str, Tensor] = {}
    state = _renamed(state, lambda key: _WRAPPERS.sub("", key), label)
    while True:
        first = {key.partition(".")[0] for key in state}
        rest = [key.partition(".")[2] for key in state]
        # "layers.0" is the list of a family and "head.weight" a layer, but what else all names share is a wrapper
        if len(first) == 1 and any("." in key for key in rest) and not any(key[:1].isdigit() for key in rest):
            prefix = f"{first.pop()}."
        elif marked := next((mark for mark in BACKBONES if any(key.startswith(mark) for key in state)), None):
            prefix, larger = marked, larger or state
        else:
            return state, larger
        state = {key.removeprefix(prefix): value for key, value in state.items() if key.startswith(prefix)}


def _digest(state: Mapping[str, Tensor]) -> str:
    """Start of the SHA-256 of names, types, shapes and values."""
    total = sha256()
    for key, value in sorted(state.items()):
        total.update(f"{key} {value.dtype} {tuple(value.shape)}".encode())
        total.update(value.cpu().contiguous().reshape(-1).view(torch.uint8).numpy().data)
    return total.hexdigest()[:DIGITS]


def few(names: Any, count: int = 6) -> str:
    """The first of them for a message, and how many more there are."""
    shown = sorted(map(str, names)) if isinstance(names, set) else [str(name) for name in names]
    more = f" and {len(shown) - count} more" if len(shown) > count else ""
    return ", ".join(shown[:count]) + more
