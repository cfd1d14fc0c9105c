"""The data set that a model is evaluated on, seen as the model wants it: its size, and timm's conventions for a folder."""

from __future__ import annotations

from typing import Any

from torch import Tensor

from ouro.data import batches, comes_along, kind, load
from ouro.models import variant
from ouro.registry import MODELS
from ouro.types import ModelInfo


def open_data(data: str, split: str, name: str, info: ModelInfo) -> Any:
    """The data set "scenes", "cifar10", "folder:PATH"… at the model's size; files as the model wants to see them.

    Raises:
        ValueError: unknown data set, or one without images here.
    """
    if not comes_along(data) and name in MODELS and data == variant(name).data:
        raise ValueError(f"{name} was trained on ImageNet, which does not come along; name a folder as folder:PATH")
    if not kind(data).files:
        return load(data, split=split, size=info.input_size[-1])
    seen = transform(data, name, info)
    view = {"crop_pct": seen["crop_pct"], "interpolation": seen["interpolation"], "mean": info.mean, "std": info.std}
    return load(data, split=split, size=info.input_size[1:], **view)


def own_images(name: str, split: str, count: int, info: ModelInfo) -> Tensor:
    """The first images of the data set a model was trained on, normalized, [count 3 h w].

    Raises:
        ValueError: that data set does not come along.
    """
    dataset = open_data(variant(name).data, split, name, info)
    return next(batches(dataset, count, limit=count, mean=info.mean, std=info.std))[0]


def transform(data: str, name: str, info: ModelInfo) -> dict[str, Any]:
    """How images of `data` become a model's input, in the words of timm's configuration of a pretrained model.

    {input_size, interpolation, crop_pct, mean, std}: an image file is resized to input_size / crop_pct, and its middle
    is kept. Sets that are drawn at the size of the input need neither: both are None there.
    """
    entry = variant(name) if name in MODELS else None
    files = kind(data).files
    return {
        "input_size": list(info.input_size),
        "interpolation": (entry.interpolation if entry else "bicubic") if files else None,
        "crop_pct": (entry.crop_pct if entry else 0.875) if files else None,
        "mean": list(info.mean),
        "std": list(info.std),
    }
