"""Scenes are a pure function of (seed, index), carry true masks and boxes, and cannot be read off single pixels."""

from __future__ import annotations

from itertools import pairwise

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from sklearn.linear_model import LogisticRegression

from ouro.data import load
from ouro.data.scenes import _SHAPES, CLASSES, MEAN, STD, Scenes, draw

SPLITS = ("train", "calib", "test")


@pytest.mark.parametrize("size", [32, 56, 63])
def test_draw_repeats_itself(size):
    first, again = draw(3, 2**41 + 5, size), draw(3, 2**41 + 5, size)
    assert first.image.dtype == np.uint8 and first.image.shape == (3, size, size)
    assert np.array_equal(first.image, again.image) and np.array_equal(first.mask, again.mask)
    assert (first.label, first.box) == (again.label, again.box)


def test_draw_is_what_the_embedded_checkpoints_saw():
    expected = [
        ("heart", (4, 16, 29, 39), (192.1, 31.9, 125.1)),
        ("bar", (17, 20, 31, 53), (24.1, 44.6, 207.8)),
        ("ring", (9, 5, 42, 40), (221.1, 161.3, 84.9)),
        ("heart", (5, 5, 42, 43), (138.4, 149.0, 62.7)),
    ]
    for index, (name, box, color) in enumerate(expected):
        scene = Scenes("test").scene(index)
        assert (CLASSES[scene.label], scene.box) == (name, box)
        assert scene.image.mean(axis=(1, 2)) == pytest.approx(color, abs=0.1)


def test_draw_depends_on_seed_and_index():
    images = [draw(seed, index).image for seed, index in [(0, 0), (0, 1), (1, 0), (1, 1)]]
    for i, image in enumerate(images):
        assert all(np.abs(image.astype(int) - other).mean() > 10 for other in images[:i])


def test_images_do_not_depend_on_the_batch():
    data = Scenes("calib", size=32)
    images, labels = data.images(0, 12)
    parts = [data.images(start, 4) for start in (0, 4, 8)]
    assert torch.equal(images, torch.cat([part[0] for part in parts]))
    assert torch.equal(labels, torch.cat([part[1] for part in parts]))
    scene = data.scene(7)
    assert np.array_equal(images[7].numpy(), scene.image) and labels[7] == scene.label
    assert torch.equal(data.masks(5, 3)[2], torch.from_numpy(scene.mask))


@settings(max_examples=60, deadline=None)
@given(seed=st.integers(0, 2**63 - 1), index=st.integers(0, 2**63 - 1), size=st.integers(16, 80))
def test_draw_boxes_the_mask_inside_the_image(seed, index, size):
    scene = draw(seed, index, size)
    rows, columns = np.nonzero(scene.mask)
    assert scene.box == (columns.min(), rows.min(), columns.max() + 1, rows.max() + 1)
    extent = max(scene.box[2] - scene.box[0], scene.box[3] - scene.box[1])
    assert 0.38 * size - 3 <= extent <= 0.75 * size + 1
    assert 0 <= scene.label < len(CLASSES)


@pytest.mark.parametrize("index", range(24))
def test_draw_shows_the_same_scene_at_every_size(index):
    small, large = draw(0, index, 56), draw(0, index, 112)
    pooled_mask = large.mask.reshape(56, 2, 56, 2).mean(axis=(1, 3))
    pooled_image = large.image.reshape(3, 56, 2, 56, 2).mean(axis=(2, 4))
    assert small.label == large.label
    assert np.abs(pooled_mask - small.mask).mean() < 0.04
    assert np.abs(pooled_image - small.image).mean() < 14
    assert max(abs(a - b / 2) for a, b in zip(small.box, large.box, strict=True)) <= 1


def test_mask_covers_what_changes_the_class():
    # object and ground differ in mean color, on no fixed side: the sign of the difference is a coin toss
    gaps = []
    for index in range(400):
        scene = draw(0, index)
        image = scene.image / 255
        gaps.append(image[:, scene.mask].mean(axis=1) - image[:, ~scene.mask].mean(axis=1))
    gaps = np.array(gaps)
    assert np.linalg.norm(gaps, axis=1).min() > 0.3
    assert np.abs(gaps.mean(axis=0)).max() < 0.08


def test_splits_never_share_an_index():
    ranges = {split: (Scenes(split).start, Scenes(split).start + 2**40) for split in SPLITS}
    ordered = sorted(ranges.values())
    assert all(end <= start for (_, end), (start, _) in pairwise(ordered))
    assert all(len(Scenes(split)) <= 2**40 for split in SPLITS)
    firsts = [Scenes(split, size=32).images(0, 1)[0] for split in SPLITS]
    assert not any(torch.equal(a, b) for i, a in enumerate(firsts) for b in firsts[:i])


@pytest.mark.parametrize("split", SPLITS)
def test_labels_are_uniform(split):
    counts = torch.bincount(Scenes(split, size=16).images(0, 2400)[1], minlength=len(CLASSES))
    chi_square = ((counts - 200) ** 2 / 200).sum()
    # 11 degrees of freedom: beyond 31.3 once in a thousand times
    assert chi_square < 31.3


def test_mean_and_std_are_those_of_the_images():
    images = Scenes("train").images(0, 1500)[0].double() / 255
    assert torch.allclose(images.mean((0, 2, 3)), torch.tensor(MEAN, dtype=torch.float64), atol=0.02)
    assert torch.allclose(images.std((0, 2, 3)), torch.tensor(STD, dtype=torch.float64), atol=0.02)


def _silhouette(name: str, angle: float) -> np.ndarray:
    """The shape turned by `angle`, with its center of mass at the origin and an area of 1."""
    axis = np.linspace(-1.1, 1.1, 121)
    shape = _SHAPES[name]
    inside = shape(axis[None, :], axis[:, None]) <= 0
    rows, columns = np.nonzero(inside)
    center_x, center_y = axis[columns].mean(), axis[rows].mean()
    scale = np.sqrt(inside.sum()) * (axis[1] - axis[0])
    grid = np.linspace(-1.2, 1.2, 61) * scale
    x, y = grid[None, :], grid[:, None]
    c, s = np.cos(angle), np.sin(angle)
    return shape(c * x + s * y + center_x, c * y - s * x + center_y) <= 0


def test_classes_differ_at_every_rotation():
    angles = np.arange(0, 2 * np.pi, np.pi / 18)
    upright = [_silhouette(name, 0.0).ravel() for name in CLASSES]
    for i, name in enumerate(CLASSES):
        turned = np.stack([_silhouette(name, angle).ravel() for angle in angles])
        for j, other in enumerate(upright):
            overlap = ((turned & other).sum(axis=1) / (turned | other).sum(axis=1)).max()
            assert i == j or overlap < 0.86, f"{name} covers {CLASSES[j]} by {overlap:.3f}"


@pytest.mark.slow
def test_linear_probe_of_pixels_stays_below_half():
    def pixels(split: str, n: int) -> tuple[np.ndarray, np.ndarray]:
        images, labels = Scenes(split).images(0, n)
        pooled = torch.nn.functional.avg_pool2d(images.float() / 255 - 0.5, 2)
        return pooled.flatten(1).numpy(), labels.numpy()

    probe = LogisticRegression(C=0.01, max_iter=100).fit(*pixels("train", 2000))
    assert probe.score(*pixels("test", 500)) < 0.5


def test_scenes_unknown_split():
    with pytest.raises(ValueError, match=r"^unknown split 'val'; known: train, calib, test$"):
        Scenes("val")


def test_scenes_refuse_indices_of_another_split():
    with pytest.raises(
        ValueError, match=rf"^images -1\.\.0 were asked for; there are {2**40}, and n must be at least 1$"
    ):
        Scenes("test").scene(-1)
    with pytest.raises(ValueError, match=r"^images 0\.\.0 were asked for"):
        Scenes("test").images(0, 0)


@pytest.mark.parametrize(("name", "smallest"), [("scenes", 16), ("scenes_seg", 32), ("scenes_det", 32)])
def test_a_set_that_cannot_be_drawn_does_not_open(name, smallest):
    for size in (0, -3, smallest - 1):
        with pytest.raises(ValueError, match=f"^size is {size}, expected {smallest} or more$"):
            load(name, size=size)
    with pytest.raises(ValueError, match="^size is 56.5, expected a whole number, "):
        load(name, size=56.5)
    with pytest.raises(ValueError, match="^seed is -1, expected a whole number from 0 to "):
        load(name, seed=-1)
    assert load(name, size=smallest).images(0, 1)[0].shape[-1] == smallest


@pytest.mark.parametrize("wrong", [(-1, 0, 56), (0, -1, 56), (0, 2**63, 56), (0, 0, 15)])
def test_draw_names_its_limits(wrong):
    with pytest.raises(
        ValueError, match=r"cannot be drawn; give seed and index 0 or more, below 2[*][*]63, and size at le"
    ):
        draw(*wrong)
