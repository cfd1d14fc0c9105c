"""What images show, in the words of their classes, whatever kind of targets says it."""

from __future__ import annotations

import pytest
import torch

from ouro.data import IGNORED, load
from ouro.data.captions import captions

NAMES = ("background", "disk", "half_disk")


def test_a_class_for_each_image() -> None:
    assert captions(torch.tensor([2, 0, 1, -1, 7]), "labels", NAMES) == ["half_disk", "", "disk", "", "7"]


def test_classes_of_pixels_without_the_ground_and_what_nobody_knows() -> None:
    classes = torch.tensor([[[0, 2], [1, IGNORED]], [[0, 0], [0, 0]]])
    assert captions(classes, "segments", NAMES) == ["disk, half_disk", ""]


def test_classes_of_boxes() -> None:
    rows = torch.zeros(2, 3, 6)
    rows[:, :, 4] = torch.tensor([[2, 1, 2], [-1, -1, -1]])
    assert captions(rows, "boxes", NAMES) == ["disk, half_disk", ""]


@pytest.mark.parametrize("name", ["scenes", "scenes_seg", "scenes_det", "digits"])
def test_every_set_has_words(name: str) -> None:
    dataset = load(name)
    words = captions(dataset.images(0, 4)[1], dataset.targets, dataset.classes)
    assert len(words) == 4 and all(part in dataset.classes for line in words for part in line.split(", "))
