"""A folder of images, one sub-folder per class as ImageNet is laid out, seen through timm's evaluation transform.

A folder without sub-folders is a set without labels. Class order is the order of the sorted sub-folder names, as in
torchvision's ImageFolder, so the labels are those of the official checkpoints.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import torch
from PIL import ExifTags, Image
from PIL.TiffImagePlugin import TiffImageFile
from torch import Tensor

from ouro.data import Dataset, check_range, check_split, normalize

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
        self._transform = _eval_transform((3, height, width), crop_pct, interpolation)

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


def read_image(path: Path) -> Image.Image:
    """One image file as RGB, turned upright as its EXIF orientation says; gray is repeated, transparency is dropped.

    Raises:
        ValueError: whatever keeps it from being decoded, in one line that names the file.
    """
    # one clear line for whatever PIL's decoders raise on bytes that are no image (OSError, SyntaxError, EOFError…)
    try:
        if path.stat().st_size == 0:
            raise ValueError("the file is empty (0 bytes)")
        with Image.open(path) as image:
            # PIL would clip these to white or black instead of scaling them
            if image.mode.startswith(("I", "F")):
                raise ValueError(f"pixels of mode {image.mode} are deeper than 8 bits; convert them to 8")
            if isinstance(image, TiffImageFile) and _is_plain_luma_chroma(image):
                return _upright(_luma_chroma(image)).convert("RGB")
            return _upright(image).convert("RGB")
    except Exception as error:
        reason = str(error).splitlines()[0] if str(error) else type(error).__name__
        raise ValueError(f"cannot read image {path}: {reason}; replace or remove the file") from error


_TURNS = {
    2: Image.Transpose.FLIP_LEFT_RIGHT,
    3: Image.Transpose.ROTATE_180,
    4: Image.Transpose.FLIP_TOP_BOTTOM,
    5: Image.Transpose.TRANSPOSE,
    6: Image.Transpose.ROTATE_270,
    7: Image.Transpose.TRANSVERSE,
    8: Image.Transpose.ROTATE_90,
}
"""EXIF orientation -> what turns the stored pixels upright."""


def _upright(image: Image.Image) -> Image.Image:
    """As PIL.ImageOps.exif_transpose, which also rewrites the EXIF block and fails on what is damaged in it."""
    # decoding a TIFF may turn it, and says so in its orientation afterwards
    image.load()
    turn = _TURNS.get(image.getexif().get(ExifTags.Base.Orientation, 1))
    return image if turn is None else image.transpose(turn)


_WIDTH, _LENGTH, _PHOTOMETRIC, _PLANES, _SUBSAMPLING = 256, 257, 262, 284, 530
"""Tags of a TIFF."""
_YCBCR = 6
"""What _PHOTOMETRIC says of luma and chroma."""


def _is_plain_luma_chroma(image: TiffImageFile) -> bool:
    """Whether this is luma and chroma without compression, which PIL (12.3) writes but misreads as 4 bytes a pixel."""
    return image.tag_v2.get(_PHOTOMETRIC) == _YCBCR and all(tile[0] == "raw" for tile in image.tile)


def _luma_chroma(image: TiffImageFile) -> Image.Image:
    """The pixels of such a file, strip by strip, with its orientation."""
    if image.tag_v2.get(_SUBSAMPLING) != (1, 1) or image.tag_v2.get(_PLANES, 1) != 1:
        raise ValueError(
            "chroma of a lower resolution, or in planes of its own, without compression; convert it to RGB"
        )
    # as stored: image.size is that of the picture turned upright
    whole = Image.new("YCbCr", (image.tag_v2[_WIDTH], image.tag_v2[_LENGTH]))
    for _, extents, offset, _ in image.tile:
        assert extents is not None and image.fp is not None
        left, top, right, bottom = extents
        image.fp.seek(offset)
        data = image.fp.read(3 * (right - left) * (bottom - top))
        whole.paste(Image.frombytes("YCbCr", (right - left, bottom - top), data), (left, top))
    whole.getexif()[ExifTags.Base.Orientation] = image.getexif().get(ExifTags.Base.Orientation, 1)
    return whole


def _walk(root: Path) -> tuple[tuple[str, ...], list[Path], list[int] | None]:
    """Class names, image paths and labels under `root`; no classes and None where there are no sub-folders."""
    if not root.is_dir():
        problem = "is a file" if root.exists() else "does not exist"
        raise ValueError(f"image folder {root} {problem}; give a folder of images or of one sub-folder per class")
    loose = pictures(root.iterdir())
    classes = sorted(entry.name for entry in root.iterdir() if entry.is_dir() and not entry.name.startswith("."))
    per_class = [pictures((root / name).rglob("*")) for name in classes]
    if not loose and not any(per_class):
        raise ValueError(f"image folder {root} holds no image; give a folder of images or of one sub-folder per class")
    if not any(per_class):
        return (), loose, None
    if loose:
        raise ValueError(f"image folder {root} has images beside its class folders, such as {loose[0].name}; move them")
    paths = [path for members in per_class for path in members]
    return tuple(classes), paths, [label for label, members in enumerate(per_class) for _ in members]


def pictures(entries: Iterable[Path]) -> list[Path]:
    """Those of the files that PIL can read, sorted; hidden ones are left out."""
    readable = {extension for extension, kind in Image.registered_extensions().items() if kind in Image.OPEN}
    return sorted(
        path for path in entries if path.suffix.lower() in readable and not path.name.startswith(".") and path.is_file()
    )


def _eval_transform(
    input_size: tuple[int, int, int], crop_pct: float, interpolation: str
) -> Callable[[Image.Image], Tensor]:
    # timm brings torchvision along, which a CPU build of torch can only import once its operators are declared
    from ouro._torchvision_ops import declare_missing_ops

    declare_missing_ops()
    from timm.data import create_transform

    return create_transform(input_size, crop_pct=crop_pct, interpolation=interpolation, normalize=False)
