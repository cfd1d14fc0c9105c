"""A folder gives the tensors that timm's evaluation transform gives, in a fixed order, and names the file at fault."""

from __future__ import annotations

import re
import struct
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import ExifTags, Image, ImageOps, TiffImagePlugin

from ouro._torchvision_ops import declare_missing_ops
from ouro.data import batches
from ouro.data.folder import MEAN, STD, Folder
from ouro.data.picture import about, read_image, upright_size

OFFENDERS = Path(__file__).parents[2] / "data" / "offenders"


def _save(path, seed: int, size: tuple[int, int] = (50, 40), mode: str = "RGB") -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    pixels = np.random.default_rng(seed).integers(0, 256, (size[1], size[0], 3), dtype=np.uint8)
    Image.fromarray(pixels).convert(mode).save(path)


@pytest.fixture
def labelled(tmp_path):
    # names chosen so that neither the order of creation nor that of the file names alone is the right one
    for seed, name in enumerate(["b/1.png", "a/2.jpg", "c/0.bmp", "a/1.PNG", "b/deeper/0.webp", "a/3.gif"]):
        _save(tmp_path / name, seed, size=(40 + 7 * seed, 64 - 5 * seed))
    (tmp_path / "a" / "notes.txt").write_text("no image")
    for hidden in (".cache/thumb.png", "b/.thumbs/1.png", "b/deeper/.thumbs/deep/1.png", "c/.0.png"):
        _save(tmp_path / hidden, 9)
    return tmp_path


@pytest.mark.parametrize(("size", "crop_pct", "interpolation"), [(32, 0.875, "bicubic"), (33, 1.0, "bilinear")])
def test_images_are_those_of_timms_transform(labelled, size, crop_pct, interpolation):
    declare_missing_ops()
    from timm.data import create_transform

    reference = create_transform((3, size, size), mean=MEAN, std=STD, crop_pct=crop_pct, interpolation=interpolation)
    data = Folder(labelled, size=size, crop_pct=crop_pct, interpolation=interpolation)
    for (image, _), path in zip(data, data.paths, strict=True):
        with Image.open(path) as original:
            torch.testing.assert_close(image, reference(original.convert("RGB")), atol=1e-6, rtol=1e-6)


def test_order_is_that_of_sorted_names(labelled):
    data = Folder(labelled, size=16)
    assert data.classes == ("a", "b", "c") and len(data) == 6
    names = [path.relative_to(labelled).as_posix() for path in data.paths]
    assert names == ["a/1.PNG", "a/2.jpg", "a/3.gif", "b/1.png", "b/deeper/0.webp", "c/0.bmp"]
    assert data.images(0, 6)[1].tolist() == [0, 0, 0, 1, 1, 2]
    assert [label for _, label in data] == [0, 0, 0, 1, 1, 2]


def test_numbers_stand_in_the_order_of_numbers(tmp_path):
    for label in range(12):
        (tmp_path / str(label)).mkdir()
        Image.new("RGB", (4, 4), (label, 0, 0)).save(tmp_path / str(label) / "x.png")
    folder = Folder(tmp_path, size=4, crop_pct=1.0)
    pixels, labels = folder.images(0, 12)
    assert folder.classes == tuple(map(str, range(12)))
    assert labels.tolist() == pixels[:, 0, 0, 0].tolist() == list(range(12))


def test_images_do_not_depend_on_the_batch(labelled):
    data = Folder(labelled, size=16)
    images, labels = data.images(0, 6)
    parts = [data.images(0, 4), data.images(4, 2)]
    assert images.dtype == torch.uint8 and images.shape == (6, 3, 16, 16)
    assert torch.equal(images, torch.cat([part[0] for part in parts]))
    assert torch.equal(labels, torch.cat([part[1] for part in parts]))
    assert torch.equal(torch.cat([x for x, _ in batches(data, 4)]), torch.stack([image for image, _ in data]))


def test_flat_folder_has_no_labels(tmp_path):
    for seed in range(3):
        _save(tmp_path / f"{seed}.png", seed)
    (tmp_path / "empty").mkdir()
    data = Folder(tmp_path, size=(16, 24))
    images, labels = data.images(0, 3)
    assert data.classes == () and labels is None and images.shape == (3, 3, 16, 24)
    assert [label for _, label in data] == [None] * 3


@pytest.mark.parametrize("orientation", range(1, 9))
@pytest.mark.parametrize(
    ("name", "mode", "options"),
    [
        ("x.png", "RGB", {}),
        ("x.tif", "RGB", {}),
        ("x.tif", "RGB", {"compression": "tiff_lzw"}),
        ("x.tif", "YCbCr", {}),
        ("x.tif", "YCbCr", {"compression": "tiff_lzw"}),
    ],
    ids=["png", "tiff", "tiff lzw", "tiff ycbcr", "tiff ycbcr lzw"],
)
def test_pictures_are_turned_upright(tmp_path, orientation, name, mode, options):
    pixels = np.random.default_rng(0).integers(0, 256, (20, 30, 3), dtype=np.uint8)
    stored = Image.fromarray(pixels).convert(mode)
    exif = Image.Exif()
    exif[ExifTags.Base.Orientation] = orientation
    stored.save(tmp_path / name, exif=exif, **options)
    stored = stored.convert("RGB")
    stored.getexif()[ExifTags.Base.Orientation] = orientation
    upright = ImageOps.exif_transpose(stored)
    seen = read_image(tmp_path / name)
    assert seen.size == upright.size == upright_size(tmp_path / name) and seen.mode == "RGB"
    # libtiff turns luma and chroma into colors with a rounding of its own
    assert np.abs(np.asarray(seen).astype(int) - np.asarray(upright)).max() <= (mode == "YCbCr" and bool(options))


def test_a_phones_picture_arrives_upright():
    assert read_image(OFFENDERS / "exif.jpg").size == (70, 90) == upright_size(OFFENDERS / "exif.jpg")


def test_a_picture_of_another_size_than_its_annotations_is_refused():
    path = OFFENDERS / "exif.jpg"
    assert read_image(path, size=(70, 90)).size == (70, 90)
    message = f"image {path} is 70x90 once it is upright, expected 90x70; turn the file itself, or remove it"
    with pytest.raises(ValueError, match=f"^{re.escape(message)}$"):
        read_image(path, size=(90, 70))


def test_luma_and_chroma_without_compression_are_read():
    seen = np.asarray(read_image(OFFENDERS / "ycc.tif"))
    stored = np.frombuffer((OFFENDERS / "ycc.tif").read_bytes()[212:], np.uint8).reshape(70, 90, 3)
    assert np.array_equal(seen, np.asarray(Image.fromarray(stored, "YCbCr").convert("RGB")))


@pytest.mark.parametrize(("tag", "value"), [(530, (2, 2)), (284, 2)], ids=["half the chroma", "planes"])
def test_other_layouts_of_luma_and_chroma_are_refused(tmp_path, tag, value):
    tags = TiffImagePlugin.ImageFileDirectory_v2()
    tags[tag] = value
    Image.new("YCbCr", (20, 10)).save(tmp_path / "x.tif", tiffinfo=tags)
    data = bytearray((tmp_path / "x.tif").read_bytes())
    entry = data.find(struct.pack("<H", tag), 8)
    data[entry + 8 : entry + 12] = struct.pack("<HH", *value) if tag == 530 else struct.pack("<HH", value, 0)
    (tmp_path / "x.tif").write_bytes(data)
    with pytest.raises(
        ValueError, match=r"x\.tif: chroma of a lower resolution, or in planes of its own, .*; convert it"
    ):
        read_image(tmp_path / "x.tif")


@pytest.mark.parametrize(
    ("name", "mode"),
    [("x.png", "RGBA"), ("x.png", "LA"), ("x.tif", "RGBA"), ("x.webp", "RGBA"), ("x.png", "P"), ("x.gif", "P")],
)
def test_transparency_lies_on_white(tmp_path, name, mode):
    pixels = np.zeros((20, 30, 4), np.uint8)
    pixels[:10] = (90, 90, 90, 255)
    picture = Image.fromarray(pixels, "RGBA")
    if mode == "P":
        # one color of the palette stands for nothing at all
        picture = Image.fromarray(np.repeat([1, 0], 10)[:, None].repeat(30, 1).astype(np.uint8), "P")
        picture.putpalette([0, 0, 0, 90, 90, 90])
        picture.save(tmp_path / name, transparency=0)
    else:
        picture.convert(mode).save(tmp_path / name, **({"lossless": True} if name == "x.webp" else {}))
    seen = np.asarray(read_image(tmp_path / name))
    assert (seen[:10] == 90).all() and (seen[10:] == 255).all()
    known = about(tmp_path / name)
    assert (known.width, known.height, known.transparent) == (30, 20, True)


def test_half_transparent_pixels_are_mixed_with_white_and_opaque_ones_stay(tmp_path):
    pixels = np.random.default_rng(0).integers(0, 256, (20, 30, 4), dtype=np.uint8)
    Image.fromarray(pixels, "RGBA").save(tmp_path / "x.png")
    share = pixels[..., 3:] / 255
    assert np.abs(read_image(tmp_path / "x.png") - (share * pixels[..., :3] + (1 - share) * 255)).max() <= 1
    pixels[..., 3] = 255
    Image.fromarray(pixels, "RGBA").save(tmp_path / "x.png")
    assert np.array_equal(read_image(tmp_path / "x.png"), pixels[..., :3])
    assert not about(tmp_path / "x.png").transparent


def test_what_is_known_of_a_picture_is_that_of_the_upright_one(tmp_path):
    known = about(OFFENDERS / "exif.jpg")
    assert (known.width, known.height, known.transparent) == (70, 90, False)
    Image.new("YCbCr", (20, 10)).save(tmp_path / "x.tif")
    assert (about(tmp_path / "x.tif").width, about(tmp_path / "x.tif").height) == (20, 10)
    Image.new("RGB", (800, 640)).save(tmp_path / "large.jpg")
    assert read_image(tmp_path / "large.jpg", least=100).size == (200, 160)


@pytest.mark.parametrize("mode", ["L", "RGBA", "P", "CMYK", "1"])
def test_every_color_mode_becomes_rgb(tmp_path, mode):
    _save(tmp_path / "x.tif", 0, mode=mode)
    images = Folder(tmp_path, size=16).images(0, 1)[0]
    assert images.shape == (1, 3, 16, 16) and images.float().std() > 1


@pytest.mark.parametrize(("dtype", "mode"), [(np.uint16, "I;16"), (np.int32, "I"), (np.float32, "F")])
def test_deep_pixels_are_refused_not_clipped(tmp_path, dtype, mode):
    Image.fromarray(np.arange(400).reshape(20, 20).astype(dtype)).save(tmp_path / "x.tif")
    message = f"x.tif: pixels of mode {mode} are deeper than 8 bits; convert them to 8; replace or remove the file"
    with pytest.raises(ValueError, match=f"{re.escape(message)}$"):
        Folder(tmp_path, size=16).images(0, 1)


def test_class_without_images_keeps_its_label(labelled):
    (labelled / "aa").mkdir()
    data = Folder(labelled, size=16)
    assert data.classes == ("a", "aa", "b", "c") and data.images(3, 1)[1].tolist() == [2]


def test_missing_folder(tmp_path):
    where = tmp_path / "nowhere"
    message = f"image folder {where} does not exist; give a folder of images or of one sub-folder per class"
    with pytest.raises(ValueError, match=f"^{re.escape(message)}$"):
        Folder(where)


def test_file_instead_of_folder(tmp_path):
    where = tmp_path / "x.png"
    _save(where, 0)
    message = f"image folder {where} is a file; give a folder of images or of one sub-folder per class"
    with pytest.raises(ValueError, match=f"^{re.escape(message)}$"):
        Folder(where)


@pytest.mark.parametrize("inside", [[], ["a", "b"]])
def test_empty_folder(tmp_path, inside):
    for name in inside:
        (tmp_path / name).mkdir()
    message = f"image folder {tmp_path} holds no image; give a folder of images or of one sub-folder per class"
    with pytest.raises(ValueError, match=f"^{re.escape(message)}$"):
        Folder(tmp_path)


def test_images_beside_classes(labelled):
    _save(labelled / "stray.png", 0)
    message = f"image folder {labelled} has images beside its class folders, such as stray.png; move them"
    with pytest.raises(ValueError, match=f"^{re.escape(message)}$"):
        Folder(labelled)


def test_empty_file_is_named(tmp_path):
    _save(tmp_path / "0.png", 0)
    (tmp_path / "1.jpg").touch()
    message = f"cannot read image {tmp_path / '1.jpg'}: the file is empty (0 bytes); replace or remove the file"
    with pytest.raises(ValueError, match=f"^{re.escape(message)}$"):
        Folder(tmp_path, size=16).images(0, 2)


@pytest.mark.parametrize("name", ["x.png", "x.jpg", "x.bmp", "x.gif", "x.tif", "x.webp"])
@pytest.mark.parametrize("damage", ["text", "cut", "scrambled"])
def test_corrupt_file_is_named(tmp_path, name, damage):
    path = tmp_path / name
    _save(path, 0)
    whole = path.read_bytes()
    head = 0 if damage == "text" else len(whole) // 20
    filler = {"text": b"this is no image", "cut": b"", "scrambled": bytes(range(255, 0, -1)) * (len(whole) // 255)}
    path.write_bytes(whole[:head] + filler[damage])
    data = Folder(tmp_path, size=16)
    try:
        data.images(0, 1)
    except ValueError as error:
        assert re.fullmatch(f"cannot read image {re.escape(str(path))}: .+; replace or remove the file", str(error))
    else:
        # only pixels were overwritten, and the format has no checksum to notice
        assert damage == "scrambled"


def test_a_folder_serves_every_split(labelled):
    images, labels = Folder(labelled, size=16).images(0, 6)
    for split in ("train", "calib", "test"):
        again, labels_again = Folder(labelled, split, size=16).images(0, 6)
        assert torch.equal(again, images) and torch.equal(labels_again, labels)
    with pytest.raises(ValueError, match=r"^unknown split 'val'; known: train, calib, test$"):
        Folder(labelled, "val")


def test_folder_refuses_unknown_settings(labelled):
    known = "bilinear, bicubic, lanczos, nearest, box, hamming"
    with pytest.raises(ValueError, match=f"^unknown interpolation 'cubic'; known: {known}$"):
        Folder(labelled, interpolation="cubic")
    with pytest.raises(ValueError, match=r"^crop_pct is 0, expected a part of the image: above 0, at most 1$"):
        Folder(labelled, crop_pct=0)
