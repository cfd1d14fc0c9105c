"""Pictures with a class for every pixel: a folder of one's own, and ADE20K as it is published.

PATH/images holds pictures, PATH/masks one PNG of the same name for each, whose values are classes (255: nobody knows).
PATH/classes.txt names the classes, one in each line from class 0 on; without it they are called 0, 1, ... A picture
without mask, with a mask of another size or of colors is left out, with one line that names it, and so is a pair of which
one is no picture at all: headers say so when the set is opened. Later it has a length, so that a file whose pixels turn out
damaged when they are read is an error, which names it; values beyond the classes are named and not scored.
"""

from __future__ import annotations

import logging
import os
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
from torch import Tensor

from ouro.data import IGNORED
from ouro.data.fitted import FittedFiles
from ouro.data.folder import pictures
from ouro.data.names import read_names
from ouro.data.picture import opened, read_image, upright_size

_log = logging.getLogger(__name__)


class Masks(FittedFiles):
    """The pictures under `root` with their masks, ordered by path.

    Args:
        split: "train", "calib" or "test", all of them the same pictures.
        size: of the input, one side or (height, width); pictures are fitted into it, see `ouro.data.fitted`.
        view: of the model, as `FittedFiles` takes it.

    Raises:
        ValueError: unknown split, or no such folder, or no picture with a mask in it, or class names that cannot be read,
            or, where there are no names and classes have to be counted, a damaged mask.
    """

    argument = "PATH"
    targets = "segments"

    def __init__(
        self,
        root: str | os.PathLike[str],
        split: str = "test",
        size: int | tuple[int, int] = 512,
        **view: Any,
    ) -> None:
        super().__init__(split, size, **view)
        self.root = Path(root)
        images, masks = self.folders(split)
        self.pairs = paired(images, masks)
        self.classes = self.names([mask for _, mask in self.pairs])

    def folders(self, split: str) -> tuple[Path, Path]:
        """Where the pictures and the masks of a split are."""
        return self.root / "images", self.root / "masks"

    def names(self, masks: Sequence[Path]) -> tuple[str, ...]:
        """The classes, in the order of their numbers."""
        listed = self.root / "classes.txt"
        if listed.is_file():
            return read_names(listed)
        largest = 0
        for path in masks:
            values = _values(path)
            largest = max(largest, int(values[values != IGNORED].max(initial=0)))
        return tuple(map(str, range(largest + 1)))

    def numbered(self, values: np.ndarray) -> np.ndarray:
        """Values of a mask -> classes."""
        return values

    def __len__(self) -> int:
        return len(self.pairs)

    def read(self, index: int) -> tuple[Tensor, Tensor]:
        picture, mask = self.pairs[index]
        classes = self.numbered(_values(mask))
        unknown = (classes >= len(self.classes)) & (classes != IGNORED)
        if unknown.any():
            first, count = int(classes[unknown][0]), len(self.classes)
            _log.warning(
                "%s: %d pixels of class %d, there are %d; they are not scored", mask, unknown.sum(), first, count
            )
            classes = np.where(unknown, IGNORED, classes)
        height, width = classes.shape
        return self.fitted.picture(read_image(picture, size=(width, height))), self.fitted.classes(classes, IGNORED)


class ADE20K(Masks):
    """ADE20K's scene parsing benchmark, as ADEChallengeData2016.zip unpacks it: 150 classes, what is none is not scored."""

    def folders(self, split: str) -> tuple[Path, Path]:
        part = "validation" if split == "test" else "training"
        return self.root / "images" / part, self.root / "annotations" / part

    def names(self, masks: Sequence[Path]) -> tuple[str, ...]:
        listed = self.root / "objectInfo150.txt"
        if not listed.is_file():
            return tuple(map(str, range(150)))
        lines = listed.read_text("utf-8").splitlines()[1:]
        return tuple(line.split("\t")[-1].strip() for line in lines if line.strip())

    def numbered(self, values: np.ndarray) -> np.ndarray:
        # 0 is everything else; mmsegmentation calls this reduce_zero_label
        return np.where(values == 0, IGNORED, values - 1)


def paired(images: Path, masks: Path) -> list[tuple[Path, Path]]:
    """Pictures that have a mask of their size, each with it.

    Raises:
        ValueError: no such folders, or none.
    """
    for folder in (images, masks):
        if not folder.is_dir():
            raise ValueError(
                f"there is no folder {folder}; a set of masks has pictures in one folder, masks in another"
            )
    pairs = []
    for picture in pictures(images):
        mask = masks / f"{picture.stem}.png"
        if why := _unfit(picture, mask):
            _log.warning("%s is left out: %s", picture, why)
        else:
            pairs.append((picture, mask))
    if not pairs:
        raise ValueError(f"no picture in {images} has a mask of its size and name in {masks}; masks are PNG files")
    return pairs


def _unfit(picture: Path, mask: Path) -> str:
    """Why a picture cannot be used, "" where it can; only headers are read."""
    if not mask.is_file():
        return f"there is no mask {mask.name}"
    try:
        # a picture may be stored lying on its side; a mask is as it is stored, and has to be upright
        size = upright_size(picture)
    except ValueError:
        return f"{picture.name} cannot be read"
    try:
        with opened(mask, "mask") as image:
            wide, high, mode = image.width, image.height, image.mode
    except ValueError:
        return f"{mask.name} cannot be read"
    if mode not in _MODES:
        return f"its mask has pixels of mode {mode}; a mask is gray, or has a palette"
    if size != (wide, high):
        return f"its mask is {wide}x{high}, the picture {size[0]}x{size[1]} as it is shown"
    return ""


_MODES = ("L", "P", "I", "I;16", "1")
"""PIL's modes of pixels that are numbers of classes."""


def _values(path: Path) -> np.ndarray:
    """Values of a mask [h w]: gray levels, or numbers of a palette.

    Raises:
        ValueError: it cannot be decoded.
    """
    with opened(path, "mask") as image:
        return np.asarray(image).astype(np.int64)
