"""Scenes of several objects: the same for ever, the same at every size, and everything with a label can be seen."""

from __future__ import annotations

import hashlib

import numpy as np
import pytest
import torch

from ouro.data import load
from ouro.data.crowds import MOST, SEGMENTS, draw
from ouro.data.scenes import CLASSES
from ouro.data.scenes import draw as draw_single


def test_a_scene_is_its_number_for_ever() -> None:
    one, again = draw(3, 17), draw(3, 17)
    assert np.array_equal(one.image, again.image) and one.boxes == again.boxes
    digest = hashlib.sha256(draw(0, 2**41).image.tobytes() + bytes(draw(0, 2**41).owner.tobytes())).hexdigest()[:16]
    assert digest == "165f75b09d0ef449"


def test_scenes_differ_by_seed_number_and_series() -> None:
    scenes = [draw(0, 0), draw(0, 1), draw(1, 0)]
    images = [scene.image for scene in scenes] + [draw_single(0, 0, 96).image]
    assert len({image.tobytes() for image in images}) == 4


def test_truth_is_of_one_piece() -> None:
    counts = []
    for index in range(60):
        scene = draw(0, index)
        counts.append(len(scene.labels))
        assert 1 <= len(scene.labels) <= MOST and len(scene.boxes) == len(scene.labels)
        segments = scene.segments()
        assert ((segments == 0) == (scene.owner < 0)).all()
        for number, (label, (x0, y0, x1, y1)) in enumerate(zip(scene.labels, scene.boxes, strict=True)):
            seen = scene.owner == number
            rows, columns = np.nonzero(seen)
            assert (columns.min(), rows.min(), columns.max() + 1, rows.max() + 1) == (x0, y0, x1, y1)
            assert (segments[seen] == label + 1).all() and SEGMENTS[label + 1] == CLASSES[label]
    assert set(counts) == {1, 2, 3, 4}


def test_objects_are_hidden_by_two_fifths_at_most() -> None:
    """Of what was seen of them before, judged at the raster that places are chosen on; a little more at another."""
    for index in range(40):
        scene = draw(2, index)
        alone = np.array([(scene.owner == number).sum() for number in range(len(scene.labels))])
        assert (alone > 20).all()


@pytest.mark.parametrize("size", [48, 64, 131])
def test_the_same_scene_at_every_size(size) -> None:
    for index in range(8):
        one, other = draw(0, index, 192), draw(0, index, size)
        assert one.labels == other.labels
        scaled = np.array(one.boxes) * size / 192
        assert np.abs(scaled - np.array(other.boxes)).max() <= 2


def test_splits_share_nothing_and_targets_belong_to_images() -> None:
    sets = {split: load("scenes_seg", split=split) for split in ("train", "calib", "test")}
    first = {split: dataset.images(0, 1)[0].numpy().tobytes() for split, dataset in sets.items()}
    assert len(set(first.values())) == 3
    segments, boxes = load("scenes_seg"), load("scenes_det")
    pixels, classes = segments.images(5, 3)
    other, rows = boxes.images(5, 3)
    assert torch.equal(pixels, other) and classes.shape == (3, 96, 96) and rows.shape == (3, MOST, 6)
    assert segments.classes == ("background", *boxes.classes)
    for image in range(3):
        named = {int(row[4]) + 1 for row in rows[image] if row[4] >= 0}
        assert named == set(classes[image].unique().tolist()) - {0}


def test_what_cannot_be_drawn() -> None:
    with pytest.raises(
        ValueError, match=r"scene \(seed 0, index 0, size 31\) cannot be drawn; give seed and index 0 or"
    ):
        draw(0, 0, 31)
    with pytest.raises(ValueError, match="unknown split 'val'; known: train, calib, test"):
        load("scenes_det", split="val")
