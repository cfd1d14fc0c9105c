"""Boxes in COCO's form: our scenes come back as they were written, and what cannot be used is named."""

from __future__ import annotations

import json
import logging

import numpy as np
import pytest
import torch
from PIL import ExifTags, Image

from ouro.data import load
from ouro.data.boxes import padded, present
from ouro.data.export import export


def content(tmp_path, annotations, images=None, categories=None) -> str:
    Image.fromarray(np.zeros((20, 40, 3), np.uint8)).save(tmp_path / "p.png")
    whole = {
        "images": images or [{"id": 7, "file_name": "p.png", "width": 40, "height": 20}], "annotations": annotations,
        "categories": categories or [{"id": 5, "name": "dog"}, {"id": 2, "name": "cat"}],
    }  # fmt: skip
    path = tmp_path / "set.json"
    path.write_text(json.dumps(whole))
    return f"coco:{path}"


def box(*xywh, category=2, **more):
    return {"image_id": 7, "category_id": category, "bbox": list(xywh)} | more


def test_scenes_come_back_as_they_were_written(tmp_path) -> None:
    own = load("scenes_det", size=64)
    assert list(export(own, tmp_path, 5)) == [1, 2, 3, 4, 5]
    data = load(f"coco:{tmp_path}/annotations.json", size=64)
    assert data.classes == own.classes and len(data) == 5
    pixels, rows = data.images(0, 5)
    wanted, boxes = own.images(0, 5)
    assert torch.equal(pixels, wanted)
    for one, other in zip(rows, boxes, strict=True):
        assert torch.equal(present(one), present(other))


def test_boxes_are_scaled_with_their_picture_and_classes_follow_the_ids(tmp_path) -> None:
    data = load(content(tmp_path, [box(4, 2, 10, 6, category=5), box(0, 0, 4, 4, iscrowd=1)]), size=20)
    assert data.classes == ("cat", "dog")
    pixels, rows = data.images(0, 1)
    assert pixels.shape == (1, 3, 20, 20)
    assert rows[0].tolist() == [[2.0, 1.0, 7.0, 4.0, 1.0, 0.0], [0.0, 0.0, 2.0, 2.0, 0.0, 1.0]]


def test_what_cannot_be_used_is_named_and_nothing_else_is_lost(tmp_path, caplog) -> None:
    bad = [
        box(0, 0, 5, 5, category=9), box(1, 1, 0, 3), box(50, 0, 5, 5), box("a", 0, 1, 1), box(35, 15, 10, 10),
        {"image_id": 8, "category_id": 2, "bbox": [0, 0, 1, 1]},
    ]  # fmt: skip
    images = [{"id": 7, "file_name": "p.png"}, {"id": 8, "file_name": "gone.png"}]
    with caplog.at_level(logging.WARNING):
        data = load(content(tmp_path, bad, images), size=(20, 40))
    told = [record.getMessage() for record in caplog.records]
    assert len(told) == 5
    assert told[0].startswith("gone.png is left out: it is in none of")
    for words in (
        "p.png is left out: its class 9 is no category", "its box is empty, 0 x 3",
        "its box [50, 0, 5, 5] is outside of the picture, 40 x 20", "its box is ['a', 0, 1, 1], expected [x, y, width, height]",
    ):  # fmt: skip
        assert any(words in line for line in told), words
    # what reaches out is cut
    assert data.images(0, 1)[1][0].tolist() == [[35.0, 15.0, 40.0, 20.0, 0.0, 0.0]]


def told(tmp_path, caplog, *args):
    """(the set, what was said while it was opened)."""
    with caplog.at_level(logging.WARNING):
        data = load(content(tmp_path, *args), size=40)
    return data, [record.getMessage() for record in caplog.records]


def test_a_picture_of_another_size_than_it_is_said_to_have_is_left_out(tmp_path, caplog) -> None:
    exif = Image.Exif()
    exif[ExifTags.Base.Orientation] = 6
    for name in ("lying", "upright"):
        Image.new("RGB", (40, 20)).save(tmp_path / f"{name}.jpg", exif=exif)
    (tmp_path / "broken.jpg").write_text("no picture")
    images = [
        {"id": 7, "file_name": "p.png", "width": 40.0, "height": 20},
        {"id": 8, "file_name": "lying.jpg", "width": 40, "height": 20},
        {"id": 9, "file_name": "upright.jpg", "width": 20, "height": 40},
        {"id": 11, "file_name": "upright.jpg", "width": 0, "height": 0},
        {"id": 10, "file_name": "broken.jpg"},
    ]
    boxes = [box(0, 0, 9, 9), *({**box(0, 0, 9, 9), "image_id": number} for number in (8, 9, 10))]
    data, lines = told(tmp_path, caplog, boxes, images)
    assert [key for key, _, _ in data.pictures] == [7, 9, 11] and list(map(len, data.objects)) == [1, 1, 0]
    assert lines[0] == f"{tmp_path}/lying.jpg is left out: it is 20x40 as it is shown, set.json says 40x20"
    assert lines[1].startswith("broken.jpg is left out: cannot read image ") and len(lines) == 2
    with pytest.raises(
        ValueError, match=r"none of the 1 pictures of .*set\.json is in .* and of the size that it says"
    ):
        told(tmp_path, caplog, boxes, images[1:2])


def test_annotations_of_no_image_are_counted_in_one_line(tmp_path, caplog) -> None:
    strange = [{**box(0, 0, 5, 5), "id": 4, "image_id": "7"}, {"bbox": [0, 0, 1, 1], "category_id": 2}]
    data, lines = told(tmp_path, caplog, [*strange, box(1, 1, 5, 5)])
    assert list(map(len, data.objects)) == [1]
    words = "2 of 3 annotations are left out, as the image_id '7' of annotation 4: no image has it, ids are such as 7"
    assert lines == [f"{tmp_path}/set.json: {words}"]


def test_a_crowd_is_said_by_0_or_1(tmp_path, caplog) -> None:
    crowds = [0, 1, False, True, "0", 2, 1.0, None]
    data, lines = told(tmp_path, caplog, [box(0, 0, 5, 5, iscrowd=crowd) for crowd in crowds])
    assert [row[5] for row in data.objects[0]] == [0, 1, 0, 1]
    assert [line.partition("is left out: ")[2] for line in lines] == [
        f"its iscrowd is {crowd!r}, expected 0 or 1" for crowd in crowds[4:]
    ]


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("{", "cannot read .*set.json: .*expected COCO's form"),
        ("[]", "has no list of images; expected COCO's form"),
        ('{"images": [{"id": 1}], "annotations": [], "categories": []}', "one of its images has no 'file_name'"),
        ('{"images": [], "annotations": [], "categories": []}', "has no categories"),
        ('{"images": [], "annotations": [], "categories": [{"id": 1, "name": "a"}]}', "none of the 0 pictures"),
    ],
)
def test_a_file_of_another_form_is_one_line(tmp_path, text, words) -> None:
    path = tmp_path / "set.json"
    path.write_text(text)
    with pytest.raises(ValueError, match=words) as error:
        load(f"coco:{path}")
    assert "\n" not in str(error.value)


def test_masks_come_back_as_they_were_written(tmp_path) -> None:
    own = load("scenes_seg", size=64)
    assert list(export(own, tmp_path, 4))[-1] == 4
    data = load(f"masks:{tmp_path}", size=64)
    assert data.classes == own.classes and len(data) == 4
    for one, other in zip(data.images(0, 4), own.images(0, 4), strict=True):
        assert torch.equal(one, other)


def test_what_cannot_be_exported(tmp_path) -> None:
    with pytest.raises(
        ValueError, match="a set with one class per image has no masks and no boxes; take scenes_seg or"
    ):
        list(export(load("scenes"), tmp_path, 1))
    with pytest.raises(ValueError, match="10001 images were asked for, there are 10000"):
        list(export(load("scenes_det"), tmp_path, 10_001))


def test_more_objects_than_room() -> None:
    with pytest.raises(ValueError, match="image 0 has 2 objects, room is for 1"):
        padded([[[0, 0, 1, 1, 0]] * 2], 1)


def test_a_device_is_no_set():
    with pytest.raises(ValueError, match="cannot read /dev/zero: it is no file; expected COCO's form"):
        load("coco:/dev/zero")
