"""Boxes in COCO's form: our scenes come back as they were written, and what cannot be used is named."""

from __future__ import annotations

import json
import logging

import numpy as np
import pytest
import torch
from PIL import Image

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
