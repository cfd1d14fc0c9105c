"""Images to train, calibrate and evaluate on: one interface (`Dataset`), one front door (`load`)."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any, ClassVar, Protocol

import torch
from torch import Tensor

from ouro.registry import DATASETS
from ouro.settings import check_count
from ouro.types import IGNORED as IGNORED

SPLITS = ("train", "calib", "test")
"""The parts that sets are divided into; a folder alone is the same images in each."""


class Dataset(Protocol):
    """What every data set offers, and what it says it can do; derive from it, and only what differs is to be said.

    Images come as uint8 so that one `normalize` serves them all. A set takes `split` and `size` (and what `argument`
    and `files` say) and is opened by `load`.

    argument: what may follow the colon in a spec ("folder:PATH"), None where nothing does; given before all else.
    needs_argument: whether it has to.
    splits: what `split` may be.
    provides: which of these the set has besides; one that is not named here does not exist.
        "masks": masks(start, n) -> bool [n h w], where the object is.
        "augmented": augmented(step_seed, n) -> random training images and their labels as `images` gives them, the
            same for the same `step_seed`; of the split "train".
        "series": any number of different images; the option `seed` says which endless series.
    targets: what `images` gives beside the images. "labels": the class of each image, int64 [n]. "segments": the class of
        each pixel, int64 [n h w], IGNORED where nobody knows it. "boxes": rows [n m 6] of x0, y0, x1, y1 in pixels,
        class, crowd; rows that stand for nothing have the class -1, crowd 1 marks a group that counts neither way.
    square: images have one side only; `size` is no (height, width).
    sorts_classes: whether classes are numbered by sorting their names, which others may have sorted otherwise.
    files: images are pictures of any size, cut to what a model wants to see: the set takes its crop_pct, interpolation,
        mean and std.
    """

    argument: ClassVar[str | None] = None
    needs_argument: ClassVar[bool] = True
    splits: ClassVar[tuple[str, ...]] = SPLITS
    provides: ClassVar[frozenset[str]] = frozenset()
    targets: ClassVar[str] = "labels"
    sorts_classes: ClassVar[bool] = False
    files: ClassVar[bool] = False
    square: ClassVar[bool] = False
    classes: tuple[str, ...]
    mean: tuple[float, ...]
    std: tuple[float, ...]

    def __len__(self) -> int: ...

    def images(self, start: int, n: int) -> tuple[Tensor, Tensor | None]:
        """Images start..start+n as uint8 [n 3 h w] and their `targets`, None where nobody knows them."""
        ...


def kind(spec: str) -> type[Dataset]:
    """The class of the data set "name" or "name:argument", to ask what it can do before it is opened.

    Raises:
        ValueError: unknown name; the message lists the known ones.
    """
    return DATASETS.get(spec.partition(":")[0])


def comes_along(spec: str) -> bool:
    """Whether the set opens as it is written: with what it needs after the colon, or without need of it.

    Raises:
        ValueError: unknown name.
    """
    dataset = kind(spec)
    return dataset.argument is None or not dataset.needs_argument or bool(spec.partition(":")[2])


def providing(what: str) -> list[str]:
    """The names of the sets that provide "masks", "augmented" or "series"."""
    return [name for name in DATASETS if what in DATASETS.get(name).provides]


def load(spec: str, **options: object) -> Dataset:
    """Opens a data set by "name" or "name:argument", such as "scenes" or "folder:/data/imagenet/val".

    Args:
        options: passed to the data set; `split` and `size` exist for all of them.

    Raises:
        ValueError: unknown name, an argument missing or not taken, or what the data set itself refuses.
    """
    name, _, argument = spec.partition(":")
    dataset: Any = kind(spec)
    if argument and dataset.argument is None:
        raise ValueError(f"data set {name!r} takes nothing after a colon, got {spec!r}; write {name!r}")
    if not comes_along(spec):
        raise ValueError(f"data set {spec!r} lacks its {dataset.argument}; write '{name}:{dataset.argument}'")
    return dataset(argument, **options) if argument else dataset(**options)


def check_split(split: str, splits: Sequence[str]) -> None:
    """Refuses a split that a set does not have.

    Raises:
        ValueError: as said; the message lists the known ones.
    """
    if split not in splits:
        raise ValueError(f"unknown split {split!r}; known: {', '.join(splits)}")


def normalize(images: Tensor, mean: Sequence[float], std: Sequence[float]) -> Tensor:
    """(images / 255 - mean) / std per channel: uint8 [... c h w] to float32, as torchvision's ToTensor + Normalize.

    Raises:
        ValueError: they are no pixels: those of ToTensor are divided by 255 already.
    """
    if not isinstance(images, Tensor) or images.dtype != torch.uint8:
        given = str(images.dtype).removeprefix("torch.") if isinstance(images, Tensor) else f"a {type(images).__name__}"
        raise ValueError(f"images are {given}, expected a tensor of uint8 pixels; of floats in [0, 1] take standardize")
    return standardize(images.float() / 255, mean, std)


def standardize(images: Tensor, mean: Sequence[float], std: Sequence[float]) -> Tensor:
    """(images - mean) / std per channel: floats in [0, 1], [... c h w], as torchvision's Normalize."""
    center, spread = _columns(images, mean, std)
    return (images - center) / spread


def to_pixels(images: Tensor, mean: Sequence[float], std: Sequence[float]) -> Tensor:
    """The inverse of `normalize`, rounded and clipped: float [... c h w] to uint8."""
    center, spread = _columns(images, mean, std)
    return ((images * spread + center) * 255).round().clamp(0, 255).to(torch.uint8)


def _columns(images: Tensor, *values: Sequence[float]) -> list[Tensor]:
    """Numbers of the channels of images [... c h w], each as float32 [c 1 1], whatever torch's default is."""
    return [torch.tensor(each, dtype=torch.float32, device=images.device)[:, None, None] for each in values]


def batches(
    data: Dataset,
    batch_size: int,
    *,
    limit: int | None = None,
    mean: Sequence[float] | None = None,
    std: Sequence[float] | None = None,
    part: tuple[int, int] = (0, 1),
) -> Iterator[tuple[Tensor, Tensor | None]]:
    """The first `limit` images in order, normalized float32 [b 3 h w] with their labels; the last batch may be short.

    Args:
        mean, std: those of the model that will see the images; by default the data set's own.
        part: (k, of): only every `of`-th batch, from the k-th on; together the parts are all batches, each as it is.

    Raises:
        ValueError: a limit or a size of batches that is no number from 1 on, or a set without images.
    """
    check_count("limit", len(data) if limit is None else limit)
    check_count("batch_size", batch_size)
    total = len(data) if limit is None else min(limit, len(data))
    mean, std = data.mean if mean is None else mean, data.std if std is None else std
    number, parts = part
    for start in range(number * batch_size, total, parts * batch_size):
        images, labels = data.images(start, min(batch_size, total - start))
        yield normalize(images, mean, std), labels


def check_range(start: int, n: int, length: int) -> None:
    """Refuses a range that is empty or reaches out of a data set of `length` images.

    Raises:
        ValueError: as said.
    """
    if start < 0 or n < 1 or start + n > length:
        raise ValueError(f"images {start}..{start + n} were asked for; there are {length}, and n must be at least 1")
