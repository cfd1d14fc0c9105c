"""Which images: one spelling for --data and --calib, read once, and opened as a model wants to see them."""

from __future__ import annotations

import json
import os
from collections.abc import Mapping
from dataclasses import replace
from typing import Any

import torch
from torch import Tensor

from ouro.data import Dataset, batches, check_range, comes_along, load, to_pixels
from ouro.data.views import First, numbered_for
from ouro.registry import DATASETS
from ouro.store import read_tensors
from ouro.streams import generator
from ouro.types import DataSource, ModelInfo

NOISE, SYNTHETIC, FILE, REAL = "noise", "synthetic", "file", "real"
SPELLINGS = "real:N, noise:N, synthetic:N, a registered set, folder:PATH, folder:PATH:N or the path of a set"
"""What a user may write."""
NOISES = 10_000
"""Images of noise that can be looked at."""


def parse(text: str | DataSource) -> DataSource:
    """Reads a source of images.

    "" is the set that a model was trained on, "real", "real:N" and "real:N:SET" are (N images of) that set or of SET,
    "noise:N" is Gaussian noise, "synthetic:N" what `ouro generate` makes. "NAME", "NAME:N", "NAME:ARGUMENT" and
    "NAME:ARGUMENT:N" are registered sets, such as "cifar10:500" or "folder:PATH:128". Anything else is the path of a
    stored set.

    Raises:
        ValueError: a count that is no number from 1 up, an unknown name, images themselves, or a path that does not say
            of which kind its images are.
    """
    if isinstance(text, DataSource):
        return text
    if not isinstance(text, str):
        raise ValueError(
            f"data is a {type(text).__name__}, expected text, such as 'scenes' or 'folder:PATH'; what gives batches of "
            "images and targets is scored by ouro.evaluate.accuracy.outcomes(model, batches)"
        )
    kind, _, rest = text.partition(":")
    if text == "":
        return DataSource("")
    if kind == REAL:
        count, _, data = rest.partition(":")
        inner = parse(data)
        return DataSource(inner.kind, inner.argument, inner.count if not count else _count(text, count))
    if kind in (NOISE, SYNTHETIC):
        return DataSource(kind, "", _count(text, rest) if rest else None)
    if kind in DATASETS:
        argument, number = _counted(rest, takes_path=DATASETS.get(kind).argument is not None)
        return DataSource(kind, argument, None if number is None else _count(text, number))
    if not os.path.exists(text) and not _looks_like_path(text):
        known = ", ".join((REAL, NOISE, SYNTHETIC, *DATASETS))
        raise ValueError(f"unknown data set {text!r}; known: {known}, or the path of a set")
    if meant := _meant(text):
        raise ValueError(f"{text} does not say what it holds; write {meant}")
    return DataSource(FILE, text)


def _meant(path: str) -> str:
    """What to write for a path that is no stored set, "" where it may be one."""
    if os.path.isdir(path):
        made = os.path.join(path, "tensors.safetensors")
        if os.path.exists(made):
            return made
        return (
            f"folder:{path} for pictures in a folder for each class, masks:{path} for pictures with masks beside them"
        )
    return f"coco:{path} for pictures with boxes" if path.endswith(".json") and os.path.exists(path) else ""


def spelled(source: DataSource) -> str:
    """The source as `parse` reads it."""
    if source.kind == FILE:
        return source.argument
    if source.kind == "":
        return "" if source.count is None else f"{REAL}:{source.count}"
    return ":".join([source.kind, *filter(None, [source.argument, str(source.count or "")])])


def open_data(data: str | DataSource, split: str, info: ModelInfo) -> Any:
    """A data set at the model's size; pictures in files are seen through timm's evaluation transform of the model.

    Classes that are called as the model's are numbered as the model's, see `ouro.data.views.numbered_for`.
    Noise has no labels: it can be looked at, but scores nothing.

    Args:
        data: "" is the set that the model was trained on.
        split: "train", "calib" or "test"; stored sets have one only, which serves for any.

    Raises:
        ValueError: an unknown data set, one without images here, or more images than there are.
        FileNotFoundError: there is no such stored set.
    """
    source = _resolved(parse(data), info)
    name = spelled(replace(source, count=None))
    if source.kind == FILE:
        dataset: Dataset = StoredImages(source.argument, info)
    elif source.kind == NOISE:
        dataset = NoiseImages(info)
    elif source.kind == SYNTHETIC:
        raise ValueError(f"{SYNTHETIC} is for calibration and has no labels to score against; take a data set instead")
    else:
        height, width = info.input_size[1:]
        if DATASETS.get(source.kind).square and height != width:
            raise ValueError(
                f"{name} has square images only, {info.name} takes {height}x{width}; name a folder instead"
            )
        seen = transform(source, info)
        view = {key: seen[key] for key in ("crop_pct", "interpolation")} | {"mean": info.mean, "std": info.std}
        # a folder's classes are sorted and a file's have numbers of its author: what a class is, its name says
        whole = load(name, split=split, size=_size(info), **(view if seen["crop_pct"] else {}))
        dataset = numbered_for(whole, info)
    if source.count is None:
        return dataset
    if source.count > len(dataset):
        raise ValueError(f"{source.count} images were asked for, {name} has {len(dataset)}")
    return First(dataset, source.count)


def own_data(data: str | DataSource, info: ModelInfo) -> str:
    """How a source is spelled out: the name of the set in place of "", the model's own."""
    return spelled(_resolved(parse(data), info))


def has_own_images(info: ModelInfo) -> bool:
    """Whether the set that a model was trained on comes along."""
    return info.data in DATASETS and comes_along(info.data)


def own_images(info: ModelInfo, split: str, count: int) -> Tensor:
    """The first images of the data set a model was trained on, normalized, [count 3 h w].

    Raises:
        ValueError: that data set does not come along.
    """
    dataset = open_data("", split, info)
    return next(batches(dataset, count, limit=count, mean=info.mean, std=info.std))[0]


def transform(data: str | DataSource, info: ModelInfo) -> dict[str, Any]:
    """How images become a model's input, in the words of timm's configuration of a pretrained model.

    {input_size, interpolation, crop_pct, mean, std}: an image file is resized to input_size / crop_pct, and its middle
    is kept. Sets that are drawn at the size of the input need neither: both are None there.
    """
    source = _resolved(parse(data), info)
    files = source.kind in DATASETS and DATASETS.get(source.kind).files
    return {
        "input_size": list(info.input_size),
        "interpolation": info.interpolation if files else None,
        "crop_pct": info.crop_pct if files else None,
        "mean": list(info.mean),
        "std": list(info.std),
    }


class StoredImages(Dataset):
    """A set that `ouro generate` wrote, as a data set: its images as pixels, its target classes as labels.

    Pixels and classes are those of the model that it was made for. A file that does not say so (`space_of`) is taken
    for one of the model that looks at it.

    Raises:
        FileNotFoundError: there is no such file.
        ValueError: it is damaged, holds no images, or images of another size.
    """

    def __init__(self, path: str, info: ModelInfo) -> None:
        tensors, metadata = read_set(path)
        images, self._labels = tensors["images"], tensors.get("labels")
        if not images.is_floating_point() or not len(images):
            raise ValueError(
                f"{path}: images are {len(images)} of {images.dtype}, expected normalized floats, 1 or more"
            )
        if tuple(images.shape[1:]) != info.input_size:
            raise ValueError(f"{path}: images are {tuple(images.shape)}, {info.name} takes {info.input_size}")
        if not images.isfinite().all():
            raise ValueError(f"{path}: images hold NaN or infinity; generate the set again")
        space = space_in(metadata, path) or json.loads(space_of(info))
        self.mean, self.std = tuple(space["mean"]), tuple(space["std"])
        self.classes = tuple(space["classes"])
        self._pixels = to_pixels(images.float(), self.mean, self.std)
        if self._labels is not None and self._labels.dim() == 1 and not int(self._labels.max()) < len(self.classes):
            raise ValueError(
                f"{path} has an image of class {int(self._labels.max())}, its model {len(self.classes)} classes from 0 "
                "on; was it made for another model?"
            )

    def __len__(self) -> int:
        return len(self._pixels)

    def images(self, start: int, n: int) -> tuple[Tensor, Tensor | None]:
        """Images start..start+n as uint8 [n 3 h w] and their target classes int64 [n], None where there are none."""
        check_range(start, n, len(self))
        return self._pixels[start : start + n], None if self._labels is None else self._labels[start : start + n]


class NoiseImages(Dataset):
    """Gaussian noise as pixels, without labels: image `i` is `noise` of the seed `i`, clipped to what pixels can be."""

    classes = ()

    def __init__(self, info: ModelInfo) -> None:
        self.info, self.mean, self.std = info, info.mean, info.std

    def __len__(self) -> int:
        return NOISES

    def images(self, start: int, n: int) -> tuple[Tensor, None]:
        """Images start..start+n as uint8 [n 3 h w]."""
        check_range(start, n, len(self))
        drawn = torch.cat([noise(self.info, 1, seed) for seed in range(start, start + n)])
        return to_pixels(drawn, self.mean, self.std), None


def read_set(path: str) -> tuple[dict[str, Tensor], dict[str, str]]:
    """Tensors ("images" in model space [s 3 h w], "labels" int64 [s] or none) and metadata of a stored set.

    Raises:
        FileNotFoundError: there is no such file.
        ValueError: it is damaged, or holds no images.
    """
    if not os.path.isfile(path):
        raise FileNotFoundError(f"there is no calibration set {path!r}; write {SPELLINGS}")
    tensors, metadata = read_tensors(path)
    if "images" not in tensors:
        raise ValueError(
            f"{path} holds no images but {', '.join(repr(name)[1:-1] for name in list(tensors)[:6]) or 'nothing'}; is it a calibration set?"
        )
    images, labels = tensors["images"], tensors.get("labels")
    if images.dim() != 4:
        raise ValueError(f"{path}: images are {tuple(images.shape)}, expected [s, 3, h, w]")
    if labels is not None and (labels.shape[:1] != images.shape[:1] or not _are_targets(labels)):
        given = f"{str(labels.dtype).removeprefix('torch.')} {tuple(labels.shape)}"
        words = f"expected int64 ({len(images)},), a class from 0 on for each image"
        raise ValueError(f"{path}: labels are {given}, {words}")
    return tensors, metadata


def _are_targets(labels: Tensor) -> bool:
    """Whether these can be classes [s]; or rows of boxes [s k 6] or maps of classes [s h w], which tasks of theirs know."""
    if labels.dim() == 1:
        return labels.dtype == torch.int64 and bool((labels >= 0).all())
    return labels.dtype in (torch.int64, torch.float32) and bool(labels.isfinite().all())


def space_of(info: ModelInfo) -> str:
    """What a set's header says of the model that it is for: {mean, std} of its input, and its {classes}, as JSON."""
    classes = info.class_names or tuple(map(str, range(info.num_classes)))
    return json.dumps({"mean": list(info.mean), "std": list(info.std), "classes": list(classes)})


def space_in(metadata: Mapping[str, str], path: str) -> dict[str, Any] | None:
    """What `space_of` said in a set's header, None where it says nothing.

    Raises:
        ValueError: it is damaged.
    """
    if "space" not in metadata:
        return None
    space = read_header(metadata, "space", path)
    for name in ("mean", "std"):
        values = space.get(name)
        if not (isinstance(values, list) and len(values) == 3 and all(type(x) in (int, float) for x in values)):
            raise ValueError(f"{path}: {name} of space is {values!r}, expected a number for each of 3 channels")
    classes = space.get("classes")
    if not (isinstance(classes, list) and classes and all(isinstance(name, str) for name in classes)):
        raise ValueError(f"{path}: classes of space is {str(classes)[:60]!r}, expected the names of the classes")
    return space


def read_header(metadata: Mapping[str, str], field: str, path: str) -> dict[str, Any]:
    """The JSON object in a field of a file's header, {} where there is no such field.

    Raises:
        ValueError: it is something else; the message names file and field.
    """
    text = metadata.get(field, "{}")
    try:
        value = json.loads(text)
    # what is nested too deep is no error of JSON's own
    except (ValueError, RecursionError):
        value = None
    if not isinstance(value, dict):
        raise ValueError(f"{path}: {field} in its header is {text[:60]!r}, expected a JSON object; was it damaged?")
    return value


def noise(info: ModelInfo, count: int, seed: int) -> Tensor:
    """Gaussian noise in model space, [count 3 h w]."""
    return torch.randn(count, *info.input_size, generator=generator(seed))


def _resolved(source: DataSource, info: ModelInfo) -> DataSource:
    """The model's own set in place of ""."""
    own = source.kind == ""
    if not own:
        return source
    if not has_own_images(info):
        raise ValueError(f"the images that {info.name} was trained on do not come along; name a folder as folder:PATH")
    return replace(source, kind=info.data)


def _size(info: ModelInfo) -> int | tuple[int, int]:
    """Side of the square, or (height, width)."""
    height, width = info.input_size[1:]
    return height if height == width else (height, width)


def _counted(rest: str, takes_path: bool) -> tuple[str, str | None]:
    """(argument, count) of "PATH:128", "128", "PATH"; a path that exists is one, whatever it ends in."""
    if takes_path and os.path.exists(rest):
        return rest, None
    head, _, tail = rest.rpartition(":")
    if tail.isdecimal():
        return head, tail
    return rest, None


def _count(text: str, number: str) -> int:
    if not number.isdecimal() or int(number) < 1:
        raise ValueError(f"{text!r} has no count from 1 up; write {SPELLINGS}")
    return int(number)


def _looks_like_path(text: str) -> bool:
    return os.sep in text or text.endswith(".safetensors")
