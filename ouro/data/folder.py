"""A folder of images, one sub-folder per class as ImageNet is laid out, seen through timm's evaluation transform.

A folder without sub-folders is a set without labels. Class order is the order of the sorted sub-folder names, as in
torchvision's ImageFolder, so the labels are those of the official checkpoints. But numbers stand in the order of numbers:
folder 2 comes before folder 10, which ImageFolder sorts as text. Opened for a model that names the same classes, a folder
has the order of the model, see `ouro.data.views`.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import torch
from PIL import Image
from torch import Tensor

from ouro.data import Dataset, check_range, check_split, normalize
from ouro.data.picture import formats, read_image

MEAN = (0.485, 0.456, 0.406)
STD = (0.229, 0.224, 0.225)

_THREADS = 4
_INTERPOLATIONS = ("bilinear", "bicubic", "lanczos", "nearest", "box", "hamming")


class Folder(Dataset):
    """The images under `root`, ordered by class and then by path.

    Args:
        split: "train", "calib" or "test", all of them the same images: what a folder is for is known to who names it.
        size: side of the square that the model sees, or (height, width).
        crop_pct: part of the resized image that the center crop keeps, as in timm.
        interpolation: "bilinear", "bicubic", "lanczos", "nearest", "box" or "hamming".
        mean, std: of the model; ImageNet's by default.

    Raises:
        ValueError: unknown split, no such folder, no file in it whose extension PIL reads, images beside class
            folders, or a setting outside what is listed here.
    """

    argument = "PATH"
    sorts_classes = True
    files = True

    def __init__(
        self,
        root: str | os.PathLike[str],
        split: str = "test",
        size: int | tuple[int, int] = 224,
        *,
        crop_pct: float = 0.875,
        interpolation: str = "bicubic",
        mean: tuple[float, ...] = MEAN,
        std: tuple[float, ...] = STD,
    ) -> None:
        check_split(split, self.splits)
        if interpolation not in _INTERPOLATIONS:
            raise ValueError(f"unknown interpolation {interpolation!r}; known: {', '.join(_INTERPOLATIONS)}")
        if not 0 < crop_pct <= 1:
            raise ValueError(f"crop_pct is {crop_pct}, expected a part of the image: above 0, at most 1")
        self.root, self.mean, self.std = Path(root), mean, std
        self.classes, self.paths, self._labels = _walk(self.root)
        height, width = (size, size) if isinstance(size, int) else size
        self._transform = eval_transform((3, height, width), crop_pct, interpolation)

    def __len__(self) -> int:
        return len(self.paths)

    def images(self, start: int, n: int) -> tuple[Tensor, Tensor | None]:
        """Images start..start+n: uint8 [n 3 h w] and labels int64 [n], None for a folder without classes.

        Raises:
            ValueError: a file that cannot be decoded; the message names it.
        """
        check_range(start, n, len(self))
        with ThreadPoolExecutor(min(_THREADS, n)) as pool:
            pixels = torch.stack(list(pool.map(self._read, self.paths[start : start + n])))
        return pixels, None if self._labels is None else torch.tensor(self._labels[start : start + n])

    def __iter__(self) -> Iterator[tuple[Tensor, int | None]]:
        """Every image once: normalized float32 [3 h w] with its label or None."""
        for index, path in enumerate(self.paths):
            label = None if self._labels is None else self._labels[index]
            yield normalize(self._read(path), self.mean, self.std), label

    def _read(self, path: Path) -> Tensor:
        return self._transform(read_image(path))


def _walk(root: Path) -> tuple[tuple[str, ...], list[Path], list[int] | None]:
    """Class names, image paths and labels under `root`; no classes and None where there are no sub-folders."""
    if not root.is_dir():
        problem = "is a file" if root.exists() else "does not exist"
        raise ValueError(f"image folder {root} {problem}; give a folder of images or of one sub-folder per class")
    loose = pictures(root)
    with os.scandir(root) as entries:
        classes = sorted(entry.name for entry in entries if not entry.name.startswith(".") and _is(entry, "dir"))
    # as text 10 would come before 2, and every class after it be taken for another one
    if all(name.isdecimal() for name in classes):
        classes.sort(key=int)
    per_class = [pictures(root / name, deep=True) for name in classes]
    if not loose and not any(per_class):
        raise ValueError(f"image folder {root} holds no image; give a folder of images or of one sub-folder per class")
    if not any(per_class):
        return (), loose, None
    if loose:
        raise ValueError(f"image folder {root} has images beside its class folders, such as {loose[0].name}; move them")
    paths = [path for members in per_class for path in members]
    return tuple(classes), paths, [label for label, members in enumerate(per_class) for _ in members]


def pictures(folder: Path, *, deep: bool = False) -> list[Path]:
    """The files of a folder, or of all that is inside it, that PIL can read, sorted; hidden files and folders are left out.

    Raises:
        OSError: a folder may not be read.
    """
    readable = {extension for extension, kind in Image.registered_extensions().items() if kind in formats()}
    found, folders = [], [os.fspath(folder)]
    while folders:
        # what a system says of an entry at once need not be asked for it, which counts where there are 100,000
        with os.scandir(folders.pop()) as entries:
            for entry in entries:
                if entry.name.startswith("."):
                    continue
                if deep and entry.is_dir(follow_symlinks=False):
                    folders.append(entry.path)
                elif os.path.splitext(entry.name)[1].lower() in readable:
                    found += [entry.path] if _is(entry, "file") else []
    return [Path(path) for path in sorted(found, key=lambda path: path.split(os.sep))]


def _is(entry: os.DirEntry[str], what: str) -> bool:
    """Whether an entry is a "file" or a "dir", or leads to one; a link that leads to itself is neither."""
    try:
        return entry.is_file() if what == "file" else entry.is_dir()
    except OSError:
        return False


def eval_transform(
    input_size: tuple[int, int, int], crop_pct: float, interpolation: str
) -> Callable[[Image.Image], Tensor]:
    """What timm makes of a picture for a model to be evaluated on: the middle, at input_size, uint8 [3 h w]."""
    # timm brings torchvision along, which a CPU build of torch can only import once its operators are declared
    from ouro._torchvision_ops import declare_missing_ops

    declare_missing_ops()
    from timm.data import create_transform

    return create_transform(input_size, crop_pct=crop_pct, interpolation=interpolation, normalize=False)
