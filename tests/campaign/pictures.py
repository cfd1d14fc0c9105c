"""Pictures of every mode and format, damaged, and those that claim to be larger than any memory."""

from __future__ import annotations

import io
import os
import struct
import zlib
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

from ouro.data.folder import Folder
from ouro.data.picture import about, read_image
from ouro.jobs.inputs import image_file
from tests.campaign.containers import tiny
from tests.campaign.mutate import damaged_bytes
from tests.campaign.registry import MARKER, Offence, Trial, Verdict, kind, tried

_MODES = (
    "1", "L", "LA", "La", "P", "PA", "RGB", "RGBA", "RGBa", "RGBX", "CMYK", "YCbCr", "LAB", "HSV", "I", "F", "I;16", "I;16B",
)  # fmt: skip
_FORMATS = (
    "PNG", "JPEG", "GIF", "WEBP", "TIFF", "BMP", "PPM", "ICO", "TGA", "PCX", "DDS", "SGI", "JPEG2000", "AVIF", "MSP", "SPIDER",
    "IM", "DIB", "MPO", "QOI", "BLP", "EPS",
)  # fmt: skip


def looked_at(trial: Trial, path: Path) -> Verdict:
    """A file seen in each of the ways that there are."""
    info = tiny(trial).info
    draw = trial.rng.random()
    if draw < 0.5:
        return tried(lambda: sane(read_image(path), path))
    if draw < 0.6:
        return tried(lambda: read_image(path, least=trial.rng.choice((1, 8, 10**6))))
    if draw < 0.7:
        return tried(lambda: about(path))
    if draw < 0.85:
        return tried(lambda: image_file(str(path), info))
    return tried(lambda: Folder(path.parent, size=24).images(0, 1))


def sane(image: Image.Image, path: Path) -> None:
    """RGB of some size.

    Raises:
        Offence: anything else.
    """
    if image.mode != "RGB" or min(image.size) < 1 or np.asarray(image).shape != (image.height, image.width, 3):
        raise Offence(f"a picture is read as {image.mode} {image.size}")


def drawn_picture(trial: Trial) -> tuple[bytes, str]:
    """A picture of some mode in a format that takes it, and how the format's files are called."""
    rng = trial.rng
    while True:
        mode, form = rng.choice(_MODES), rng.choice(_FORMATS)
        size = rng.choice(((1, 1), (1, 40), (40, 1), (7, 5), (24, 24), (33, 65)))
        pixels = np.frombuffer(rng.randbytes(size[0] * size[1] * 3), np.uint8).reshape(size[1], size[0], 3)
        options: dict[str, Any] = {}
        if rng.random() < 0.4:
            options["exif"] = drawn_exif(trial)
        if form == "TIFF":
            # libtiff crashes where a mode does not suit one of its compressions, before there is a file to look at
            packings = (
                [None, "tiff_lzw", "tiff_deflate", "packbits"] + ["jpeg"] * (mode == "RGB") + ["group4"] * (mode == "1")
            )
            options["compression"] = rng.choice(packings)
        frames = rng.choice((0, 0, 2)) if form in ("GIF", "PNG", "WEBP", "TIFF", "MPO") else 0
        file = io.BytesIO()
        try:
            image = (
                Image.fromarray(pixels, "RGB").convert(mode)
                if mode not in ("I;16", "I;16B")
                else Image.new(mode, size, 777)
            )
            more = {"save_all": True, "append_images": [image.copy() for _ in range(frames)]} if frames else {}
            image.save(file, form, **options, **more)
        # most formats take a few modes only
        except (
            OSError,
            ValueError,
            KeyError,
            SystemError,
            SyntaxError,
            TypeError,
            AttributeError,
            RuntimeError,
            struct.error,
        ):
            continue
        suffix = {"JPEG": "jpg", "TIFF": "tif", "JPEG2000": "jp2", "SPIDER": "spi", "DIB": "dib"}.get(
            form, form.lower()
        )
        return file.getvalue(), suffix


def drawn_exif(trial: Trial) -> bytes:
    """An EXIF block with some orientation, or damaged."""
    exif = Image.Exif()
    exif[274] = trial.rng.choice((0, 1, 2, 3, 4, 5, 6, 7, 8, 9, 65535))
    exif[270] = trial.rng.choice(("", "x", "é" * 50))
    data = exif.tobytes()
    return data if trial.rng.random() < 0.5 else b"Exif\0\0" + damaged_bytes(trial.rng, data.removeprefix(b"Exif\0\0"))


@kind("picture", 20)
def picture(trial: Trial) -> Verdict:
    data, suffix = drawn_picture(trial)
    if trial.rng.random() < 0.7:
        data = damaged_bytes(trial.rng, data)
    name = trial.rng.choice(
        (f"p.{suffix}", f"p.{suffix}", "p.png", "p.jpg", "\u00e9 \U0001f40d.png", "a:1.png", "%s.png", "p.PNG")
    )
    return looked_at(trial, trial.write(name, data))


def chunk(name: bytes, data: bytes) -> bytes:
    """A part of a PNG file, with its checksum."""
    return struct.pack(">I", len(data)) + name + data + struct.pack(">I", zlib.crc32(name + data))


@kind("bomb", 2)
def bomb(trial: Trial) -> Verdict:
    """Few bytes that claim to be, or become, gigabytes."""
    rng = trial.rng
    side = rng.choice((20_000, 60_000, 2**31 - 1, 2**32 - 1, 0))
    draw = rng.random()
    if draw < 0.5:
        head = struct.pack(
            ">IIBBBBB", side, rng.choice((side, 1)), rng.choice((1, 8, 16)), rng.choice((0, 2, 3, 6)), 0, 0, 0
        )
        body = zlib.compress(bytes(rng.choice((0, 100, 10**6))))
        parts = [chunk(b"IHDR", head), chunk(b"IDAT", body), chunk(b"IEND", b"")]
        if rng.random() < 0.4:
            # a comment of a gigabyte, packed
            parts.insert(
                1,
                chunk(rng.choice((b"zTXt", b"iCCP")), b"x\0\0" + zlib.compress(bytes(rng.choice((10**5, 3 * 10**7))))),
            )
        data, name = b"\x89PNG\r\n\x1a\n" + b"".join(parts), "b.png"
    elif draw < 0.7:
        low = min(side, 65535)
        screen = struct.pack("<HHBBB", low, low, 0x80, 0, 0) + bytes(6)
        frame = b"," + struct.pack("<HHHHB", 0, 0, low, low, 0) + b"\x02\x01\x00\x00;"
        data, name = b"GIF89a" + screen + frame, "b.gif"
    elif draw < 0.85:
        data, name = f"P{rng.choice((5, 6, 4))}\n{side} {side}\n255\n".encode() + bytes(100), "b.ppm"
    else:
        header = struct.pack("<IiiHHIIiiII", 40, min(side, 2**31 - 1), min(side, 2**31 - 1), 1, 24, 0, 0, 0, 0, 0, 0)
        data, name = b"BM" + struct.pack("<IHHI", 54, 0, 0, 54) + header, "b.bmp"
    return looked_at(trial, trial.write(name, data))


@kind("no picture", 4)
def no_picture(trial: Trial) -> Verdict:
    """A path that is something else than a picture, or a picture that would have a program run."""
    rng, path = trial.rng, trial.folder / "p.png"
    draw = rng.randrange(8)
    if draw == 0:
        path.mkdir()
    elif draw == 1:
        os.mkfifo(path)
    elif draw == 2:
        path.symlink_to(path)
    elif draw == 3:
        path.symlink_to(rng.choice(("/dev/zero", "/dev/full", "/dev/null", "/proc/self/mem", "/nonexistent")))
    elif draw == 4:
        # for Ghostscript, which PIL would call
        marker = trial.folder / MARKER
        body = f"({marker}) (w) file closefile" if rng.random() < 0.5 else f"(%pipe%touch {marker}) (w) file"
        text = f"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 24 24\n%%EndComments\n{body}\nshowpage\n%%EOF\n"
        path.write_text(text)
    elif draw == 5:
        path.write_text(
            rng.choice(("<svg xmlns='http://www.w3.org/2000/svg'/>", "not a picture", "GIF89a", "\x89PNG", ""))
        )
    elif draw == 6:
        path = trial.folder / rng.choice(("nowhere.png", "x" * 300 + ".png", "a\x00b.png", "\udcff.png", ""))
    else:
        path.write_bytes(rng.randbytes(rng.choice((1, 10, 5000))))
    return looked_at(trial, path)
