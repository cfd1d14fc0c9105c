"""The one place where picture files are opened: upright, as RGB, on white; what cannot be read is said in one line."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from functools import cache
from pathlib import Path

from PIL import ExifTags, Image
from PIL.TiffImagePlugin import TiffImageFile

from ouro.settings import first_line

BACKGROUND = "white"
"""What lies behind transparent pixels."""


@dataclass(frozen=True, slots=True)
class PictureFile:
    """What there is to know of a picture file: its size once it is upright, and whether anything shows through it."""

    width: int
    height: int
    transparent: bool


@cache
def formats() -> tuple[str, ...]:
    """PIL's names of the formats that are read: all but EPS, a program, which PIL would have Ghostscript run."""
    Image.init()
    return tuple(name for name in Image.OPEN if name != "EPS")


@contextmanager
def opened(path: Path, what: str = "image") -> Iterator[Image.Image]:
    """A picture file as it is stored; only its header is read until its pixels are asked for.

    Args:
        what: it is called in messages.

    Raises:
        ValueError: whatever keeps it from being opened, or from being decoded in the block, in one line that names the file.
    """
    # one clear line for whatever PIL's decoders raise on bytes that are no image (OSError, SyntaxError, EOFError…)
    try:
        if path.stat().st_size == 0:
            raise ValueError("the file is empty (0 bytes)")
        with Image.open(path, formats=formats()) as image:
            yield image
    except Exception as error:
        reason = first_line(error)
        raise ValueError(f"cannot read {what} {path}: {reason}; replace or remove the file") from error


def read_image(path: Path, *, least: int | None = None, size: tuple[int, int] | None = None) -> Image.Image:
    """One image file as RGB, turned upright as its EXIF orientation says; gray is repeated, transparency lies on white.

    Args:
        least: a side that is enough. Where the format can, it is decoded smaller, but no side below that.
        size: (width, height) that it has to have, upright, because what is known of its pixels is known for that size.

    Raises:
        ValueError: whatever keeps it from being decoded, or another size, in one line that names the file.
    """
    image, _ = _read(path, least)
    if size is not None and image.size != size:
        raise ValueError(
            f"image {path} is {image.width}x{image.height} once it is upright, expected {size[0]}x{size[1]}; turn the "
            "file itself, or remove it"
        )
    return image


def upright_size(path: Path) -> tuple[int, int]:
    """(width, height) of a picture as `read_image` gives it, from the header alone.

    A PNG may name its orientation behind its pixels; such a one is taken as it is stored.

    Raises:
        ValueError: it cannot be opened, in one line that names the file.
    """
    with opened(path) as image:
        # the size of a TIFF is that of the upright picture already
        if isinstance(image, TiffImageFile):
            return image.size
        # not PNG's own getexif, which decodes all of a picture that has no orientation in its header
        turn = Image.Image.getexif(image).get(ExifTags.Base.Orientation, 1)
        return (image.height, image.width) if turn in _LYING else image.size


def about(path: Path) -> PictureFile:
    """What a picture file is; all of it is decoded.

    Raises:
        ValueError: as `read_image`.
    """
    image, transparent = _read(path, None)
    return PictureFile(image.width, image.height, transparent)


def _read(path: Path, least: int | None) -> tuple[Image.Image, bool]:
    """(the picture, whether anything shows through it)."""
    with opened(path) as image:
        # PIL would clip these to white or black instead of scaling them
        if image.mode.startswith(("I", "F")):
            raise ValueError(f"pixels of mode {image.mode} are deeper than 8 bits; convert them to 8")
        if isinstance(image, TiffImageFile) and _is_plain_luma_chroma(image):
            return _upright(_luma_chroma(image)).convert("RGB"), False
        if least is not None:
            image.draft("RGB", (least, least))
        return _opaque(_upright(image))


def _opaque(image: Image.Image) -> tuple[Image.Image, bool]:
    """(RGB on the background, whether that shows anywhere)."""
    if not image.has_transparency_data:
        return image.convert("RGB"), False
    layered = image.convert("RGBA")
    least, _ = layered.getchannel("A").getextrema()
    # an opaque one stays as it is, bit for bit
    if least == 255:
        return layered.convert("RGB"), False
    return Image.alpha_composite(Image.new("RGBA", layered.size, BACKGROUND), layered).convert("RGB"), True


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
_LYING = (5, 6, 7, 8)
"""Those of a picture whose stored rows are upright columns."""


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
