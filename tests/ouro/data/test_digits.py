"""The digits' splits are fixed, disjoint and even; augmentation is a function of its seed and keeps the labels."""

from __future__ import annotations

import pytest
import torch
from torch.nn.functional import adaptive_avg_pool2d

from ouro.data.digits import MEAN, STD, Digits


@pytest.fixture(scope="module")
def splits():
    return {split: Digits(split) for split in ("train", "calib", "test")}


def test_splits_are_disjoint_and_complete(splits):
    orders = [data.order.tolist() for data in splits.values()]
    assert [len(order) for order in orders] == [1197, 200, 400]
    assert sorted(index for order in orders for index in order) == list(range(1797))


def test_splits_are_those_of_the_embedded_checkpoints(splits):
    assert splits["test"].order[:6].tolist() == [431, 162, 991, 322, 998, 285]
    assert splits["calib"].order[:3].tolist() == [1440, 1289, 16]


@pytest.mark.parametrize("split", ["train", "calib", "test"])
def test_splits_are_stratified(splits, split):
    data = splits[split]
    counts = torch.bincount(data.images(0, len(data))[1], minlength=10) / len(data)
    everywhere = torch.bincount(torch.cat([d.images(0, len(d))[1] for d in splits.values()])) / 1797
    assert (counts - everywhere).abs().max() <= 1.5 / len(data)


def test_images_do_not_depend_on_the_batch(splits):
    images, labels = splits["calib"].images(10, 9)
    parts = [splits["calib"].images(start, 3) for start in (10, 13, 16)]
    assert images.dtype == torch.uint8 and images.shape == (9, 3, 56, 56)
    assert torch.equal(images, torch.cat([part[0] for part in parts]))
    assert torch.equal(labels, torch.cat([part[1] for part in parts]))


def test_images_keep_the_originals(splits):
    # pooled back to 8 x 8, the smooth enlargement is close to what it came from
    from sklearn.datasets import load_digits

    images, labels = splits["test"].images(0, 400)
    source = load_digits()
    original = torch.from_numpy(source.images[splits["test"].order]).float() / 16
    pooled = adaptive_avg_pool2d(images[:, 0].float() / 255, 8)
    assert (pooled - original).abs().mean() < 0.06
    assert torch.equal(labels, torch.from_numpy(source.target[splits["test"].order]).long())
    assert torch.equal(images[:, 0], images[:, 1]) and torch.equal(images[:, 0], images[:, 2])


def test_masks_are_the_ink(splits):
    images, masks = splits["test"].images(3, 20)[0], splits["test"].masks(3, 20)
    assert torch.equal(masks, images[:, 0] >= 128)
    assert masks.flatten(1).any(dim=1).all()


def test_mean_and_std_are_those_of_the_training_images(splits):
    pixels = splits["train"].images(0, 1197)[0].float() / 255
    assert pixels.mean().item() == pytest.approx(MEAN[0], abs=1e-3)
    assert pixels.std().item() == pytest.approx(STD[0], abs=1e-3)


def test_augmented_is_a_function_of_its_seed(splits):
    images, labels = splits["train"].augmented(7, 32)
    torch.rand(5)
    again, labels_again = splits["train"].augmented(7, 32)
    assert torch.equal(images, again) and torch.equal(labels, labels_again)
    assert images.dtype == torch.uint8 and images.shape == (32, 3, 56, 56)
    assert not torch.equal(images, splits["train"].augmented(8, 32)[0])


def test_augmented_keeps_digits_recognizable(splits):
    # the nearest training image still has the right label most of the time, far above the 10 % of chance
    train, train_labels = splits["train"].images(0, 1197)
    images, labels = splits["train"].augmented(0, 200)
    centered = [x[:, 0].float().flatten(1) - x[:, 0].float().flatten(1).mean(1, keepdim=True) for x in (images, train)]
    similarity = torch.nn.functional.normalize(centered[0]) @ torch.nn.functional.normalize(centered[1]).T
    assert (train_labels[similarity.argmax(dim=1)] == labels).float().mean() > 0.7


@pytest.mark.parametrize("size", [8, 31, 224])
def test_images_have_the_size_asked_for(size):
    data = Digits("calib", size=size)
    assert data.images(0, 2)[0].shape == (2, 3, size, size) and data.masks(0, 2).shape == (2, size, size)


def test_digits_unknown_split():
    with pytest.raises(ValueError, match=r"^unknown split 'val'; known: train, calib, test$"):
        Digits("val")


def test_digits_too_small():
    with pytest.raises(ValueError, match=r"^size 7 is less than the originals' 8 pixels; give 8 or more$"):
        Digits(size=7)


def test_augmented_is_for_training_only(splits):
    with pytest.raises(ValueError, match=r"^augmented batches come from split 'train', not 'test'; use images\(\)$"):
        splits["test"].augmented(0, 4)


def test_images_past_the_end(splits):
    with pytest.raises(
        ValueError, match=r"^images 396\.\.404 were asked for; there are 400, and n must be at least 1$"
    ):
        splits["test"].images(396, 8)
