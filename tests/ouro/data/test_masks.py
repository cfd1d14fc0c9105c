"""Pictures with masks: fitted whole, padding is not scored, and what is bad is named and left out."""

from __future__ import annotations

import logging

import numpy as np
import pytest
import torch
from PIL import ExifTags, Image

from ouro.data import IGNORED, load, masks
from ouro.data.fitted import Fitted


def written(folder, name, size=(20, 10), value=1, mask_size=None):
    for part in ("images", "masks"):
        (folder / part).mkdir(exist_ok=True)
    Image.fromarray(np.full((size[1], size[0], 3), 90, np.uint8)).save(folder / "images" / f"{name}.png")
    wide, high = mask_size or size
    mask = np.zeros((high, wide), np.uint8)
    mask[:, wide // 2 :] = value
    Image.fromarray(mask).save(folder / "masks" / f"{name}.png")


def test_pictures_are_fitted_whole_and_padded(tmp_path) -> None:
    written(tmp_path, "a", value=2)
    (tmp_path / "classes.txt").write_text("ground\nsky\ntree\n")
    data = load(f"masks:{tmp_path}", size=16, mean=(0.5, 0.25, 1.0))
    assert data.classes == ("ground", "sky", "tree") and len(data) == 1 and data.targets == "segments"
    pixels, classes = data.images(0, 1)
    assert pixels.shape == (1, 3, 16, 16) and classes.shape == (1, 16, 16)
    assert (pixels[0, :, :8] == 90).all()
    assert pixels[0, :, 8:, 0].T.unique(dim=0).tolist() == [[128, 64, 255]]
    assert classes[0, :8, :8].unique().tolist() == [0] and classes[0, :8, 8:].unique().tolist() == [2]
    assert (classes[0, 8:] == IGNORED).all()


def test_classes_without_names_are_counted(tmp_path) -> None:
    written(tmp_path, "a", value=4)
    assert load(f"masks:{tmp_path}", size=16).classes == ("0", "1", "2", "3", "4")


@pytest.mark.parametrize(("text", "line"), [("ground\n\nsky\n", 2), ("\nground\nsky", 1), ("a\nb\n \nc\n\n", 3)])
def test_an_empty_line_would_shift_the_classes(tmp_path, text, line) -> None:
    written(tmp_path, "a")
    (tmp_path / "classes.txt").write_text(text)
    with pytest.raises(ValueError, match=rf"^line {line} of .*classes\.txt is empty, .*; write the name"):
        load(f"masks:{tmp_path}")
    (tmp_path / "classes.txt").write_text("ground\nsky\n\n")
    assert load(f"masks:{tmp_path}").classes == ("ground", "sky")


def test_what_is_bad_is_named_and_nothing_else_is_lost(tmp_path, caplog) -> None:
    written(tmp_path, "good", value=1)
    written(tmp_path, "short", mask_size=(20, 9))
    written(tmp_path, "alone")
    (tmp_path / "masks" / "alone.png").unlink()
    written(tmp_path, "broken")
    (tmp_path / "masks" / "broken.png").write_bytes(b"no picture")
    written(tmp_path, "strange", value=9)
    written(tmp_path, "colored")
    Image.new("RGB", (20, 10)).save(tmp_path / "masks" / "colored.png")
    (tmp_path / "classes.txt").write_text("a\nb\n")
    with caplog.at_level(logging.WARNING):
        data = load(f"masks:{tmp_path}", size=16)
        _, classes = data.images(0, 2)
    assert [picture.stem for picture, _ in data.pairs] == ["good", "strange"]
    told = [record.getMessage() for record in caplog.records]
    assert any("alone.png is left out: there is no mask alone.png" in line for line in told)
    assert any("broken.png is left out: broken.png cannot be read" in line for line in told)
    assert any("colored.png is left out: its mask has pixels of mode RGB; a mask is gray" in line for line in told)
    assert any("short.png is left out: its mask is 20x9, the picture 20x10" in line for line in told)
    assert any("strange.png: 100 pixels of class 9, there are 2; they are not scored" in line for line in told)
    assert len(told) == 5 and classes[1].unique().tolist() == [0, IGNORED]


def lying(folder, name, *, behind=False) -> None:
    """The picture as a phone stores it: on its side, with the orientation that turns it upright again."""
    path = folder / "images" / f"{name}.png"
    exif = Image.Exif()
    exif[ExifTags.Base.Orientation] = 6
    with Image.open(path) as upright:
        upright.transpose(Image.Transpose.ROTATE_90).save(path, exif=exif)
    if behind:
        data = path.read_bytes()
        start = data.index(b"eXIf") - 4
        end = start + 12 + int.from_bytes(data[start : start + 4], "big")
        # the last chunk has 12 bytes
        path.write_bytes(data[:start] + data[end:-12] + data[start:end] + data[-12:])


def test_a_mask_is_compared_with_the_upright_picture(tmp_path, caplog) -> None:
    written(tmp_path, "upright")
    lying(tmp_path, "upright")
    written(tmp_path, "both", mask_size=(10, 20))
    lying(tmp_path, "both")
    with caplog.at_level(logging.WARNING):
        data = load(f"masks:{tmp_path}", size=20)
    assert [picture.stem for picture, _ in data.pairs] == ["upright"]
    assert [record.getMessage() for record in caplog.records] == [
        f"{tmp_path}/images/both.png is left out: its mask is 10x20, the picture 20x10 as it is shown"
    ]
    pixels, classes = data.images(0, 1)
    assert (pixels[0, :, :10] == 90).all() and (classes[0, :10] != IGNORED).all()


@pytest.mark.parametrize("part", ["images", "masks"])
def test_a_file_that_is_cut_off_is_an_error_that_names_it_once_it_is_read(tmp_path, part) -> None:
    for name in "abc":
        written(tmp_path, name)
    (tmp_path / "classes.txt").write_text("ground\nsky\n")
    path = tmp_path / part / "b.png"
    content = path.read_bytes()
    path.write_bytes(content[: content.index(b"IDAT") + 6])
    data = load(f"masks:{tmp_path}", size=16)
    assert len(data) == 3 and len(data.images(0, 1)[0]) == len(data.images(2, 1)[0]) == 1
    with pytest.raises(ValueError, match=rf"^cannot read (image|mask) {path}: .+; replace or remove the file$"):
        data.images(0, 3)


def test_an_orientation_behind_the_pixels_is_noticed_when_they_are_read(tmp_path) -> None:
    written(tmp_path, "both", mask_size=(10, 20))
    lying(tmp_path, "both", behind=True)
    data = load(f"masks:{tmp_path}", size=20)
    with pytest.raises(
        ValueError, match=r"both\.png is 20x10 once it is upright, expected 10x20; turn the file itself"
    ):
        data.images(0, 1)


def test_a_folder_without_pairs_is_refused(tmp_path) -> None:
    with pytest.raises(
        ValueError, match=r"there is no folder .*images; a set of masks has pictures in one folder, masks"
    ):
        load(f"masks:{tmp_path}")
    written(tmp_path, "a", mask_size=(3, 3))
    with pytest.raises(
        ValueError, match="no picture in .*images has a mask of its size and name in .*masks; masks are PNG"
    ):
        load(f"masks:{tmp_path}")


def test_ade20k_as_it_is_unpacked(tmp_path) -> None:
    for part in ("images", "annotations"):
        (tmp_path / part / "validation").mkdir(parents=True)
    Image.fromarray(np.zeros((8, 8, 3), np.uint8)).save(tmp_path / "images/validation/ADE_val_1.jpg")
    values = np.array([[0, 1], [2, 150]], np.uint8).repeat(4, 0).repeat(4, 1)
    Image.fromarray(values).save(tmp_path / "annotations/validation/ADE_val_1.png")
    data = load(f"ade20k:{tmp_path}", size=8)
    assert len(data.classes) == 150
    assert data.images(0, 1)[1][0, ::4, ::4].tolist() == [[IGNORED, 0], [1, 149]]
    listed = ["Idx\tRatio\tTrain\tVal\tStuff\tName", *(f"{k}\t0\t0\t0\t0\tname {k}" for k in range(1, 151))]
    (tmp_path / "objectInfo150.txt").write_text("\n".join(listed))
    assert load(f"ade20k:{tmp_path}", size=8).classes[149] == "name 150"


@pytest.mark.parametrize(
    ("given", "size"), [((30, 20), (16, 24)), ((7, 100), 32), ((500, 3), (20, 40)), ((16, 16), 16)]
)
def test_fitting_keeps_proportions(given, size) -> None:
    fitted = Fitted(size, (0, 0, 0))
    wide, high = fitted.inner(*given)
    assert wide <= fitted.width and high <= fitted.height
    assert wide == fitted.width or high == fitted.height
    values = np.arange(given[0] * given[1]).reshape(given[1], given[0])
    out = fitted.classes(values, -1)
    assert out.shape == (fitted.height, fitted.width) and (out >= 0).sum() == wide * high
    if (wide, high) == given:
        assert torch.equal(out[:high, :wide], torch.from_numpy(values))


def test_a_mask_with_a_damaged_chunk_is_refused_in_one_line(tmp_path) -> None:
    path = tmp_path / "mask.png"
    Image.new("L", (200, 200), 3).save(path)
    content = bytearray(path.read_bytes())
    content[content.index(b"IDAT")] = 1
    path.write_bytes(content)
    with pytest.raises(ValueError, match=f"^cannot read mask {path}: ") as caught:
        masks._values(path)
    assert str(caught.value).endswith("; replace or remove the file") and "\n" not in str(caught.value)
