"""Augmentation: what is drawn, drawn by (seed, step) alone; images stay what they were but for place and light."""

from __future__ import annotations

import pytest
import torch
from torch.nn import functional as F

from ouro.data.augment import generator, jittered, mixed


@pytest.fixture
def images():
    return torch.randint(0, 256, (64, 3, 12, 14), dtype=torch.uint8, generator=torch.Generator().manual_seed(0))


def test_seed_and_step_both_count(images):
    first = jittered(images, generator(1, 2))
    assert torch.equal(first, jittered(images, generator(1, 2)))
    for other in ((2, 1), (1, 3), (1 + 2**32, 2), (1, 2 + 2**32)):
        assert not torch.equal(first, jittered(images, generator(*other)))


def test_every_image_is_a_reflected_crop_of_itself_or_of_its_mirror_image(images):
    moved = jittered(images, generator(0, 0), pad=3, light=0)
    padded = F.pad(images.float(), (3, 3, 3, 3), mode="reflect")
    places = set()
    for image, around in zip(moved, padded, strict=True):
        matches = [
            (top, left, flip)
            for top in range(7) for left in range(7) for flip in (False, True)
            if torch.equal(image.float(), _crop(around, top, left, flip))
        ]  # fmt: skip
        assert len(matches) == 1
        places.update(matches)
    assert {top for top, _, _ in places} == {left for _, left, _ in places} == set(range(7))


def _crop(padded, top, left, flip):
    crop = padded[:, top : top + 12, left : left + 14]
    return crop.flip(2) if flip else crop


def test_half_of_the_images_are_mirrored(images):
    still = jittered(images, generator(0, 0), pad=0, light=0)
    mirrored = [torch.equal(after, before.flip(2)) for after, before in zip(still, images, strict=True)]
    kept = [torch.equal(after, before) for after, before in zip(still, images, strict=True)]
    assert 20 < sum(mirrored) < 44 and sum(mirrored) + sum(kept) == 64


def test_light_moves_mean_and_contrast_within_its_bounds():
    # far from black and white, where nothing is cut off; symmetric, so that mirroring does not show
    column = torch.tensor([100, 156, 156, 100], dtype=torch.uint8).expand(256, 3, 4, 4)
    lit = jittered(column, generator(0, 0), pad=0, light=0.2).float()
    mean = lit.mean((1, 2, 3)) - 128
    spread = (lit[:, :, :, 1] - lit[:, :, :, 0]).mean((1, 2)) / 56
    assert mean.abs().max() <= 0.2 * 255 / 4 + 1 and mean.abs().max() > 10
    assert 0.78 < spread.min() < 0.85 and 1.15 < spread.max() < 1.22


def test_a_pad_that_cannot_be_reflected_is_refused(images):
    with pytest.raises(ValueError, match="^pad is 12, images of 12x14 can be reflected by less than their side$"):
        jittered(images, generator(0, 0), pad=12)


@pytest.mark.parametrize("step", range(12))
def test_mixed_images_are_made_of_the_two_that_their_labels_name(step):
    # image k is k everywhere, and so is its label
    labels = torch.arange(1, 9)
    inputs = labels.float()[:, None, None, None].expand(8, 3, 16, 16)
    made = mixed(inputs, labels, generator(0, step), part=1.0)
    assert torch.equal(made.labels, labels) and sorted(made.others.tolist()) == labels.tolist()
    wanted = made.share * labels + (1 - made.share) * made.others
    assert torch.allclose(made.inputs.mean((1, 2, 3)), wanted.float(), atol=1e-5)
    kinds = made.inputs.flatten(1).unique(dim=1).shape[1]
    # CutMix leaves pixels of two images, mixup of none
    assert kinds in (1, 2)
    if kinds == 2:
        pairs = zip(labels.tolist(), made.others.tolist(), strict=True)
        assert all(set(x.unique().tolist()) <= set(pair) for x, pair in zip(made.inputs, pairs, strict=True))


def test_both_ways_of_mixing_occur_and_so_does_none():
    inputs, labels = torch.randn(16, 3, 16, 16, generator=torch.Generator().manual_seed(0)), torch.arange(16)
    made = [mixed(inputs, labels, generator(0, step), part=0.5) for step in range(200)]
    untouched = [torch.equal(one.inputs, inputs) for one in made]
    assert 70 < sum(untouched) < 130
    assert all(one.share == 1 for one, still in zip(made, untouched, strict=True) if still)
    cut = [(one.inputs == inputs).flatten(1).any(1).all().item() for one in made]
    assert 20 < sum(cut) - sum(untouched) < 80
