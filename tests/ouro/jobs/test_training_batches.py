"""Batches: functions of seed and step alone, every image once in an epoch, and mixed only where the recipe says so."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch

from ouro.data import load, normalize
from ouro.jobs.recipes import Augment, Round, TrainSpec
from ouro.jobs.training_batches import Epochs, revealed, training_batches
from ouro.models import create_model

SPEC = TrainSpec("vim_micro_cifar10", "cifar10", (Round(1e-3, ((32, 40),)),), batch=64, augment=Augment())


@pytest.fixture(scope="module")
def info():
    return create_model("vim_micro_cifar10", depth=1, width=16).info


def batches(spec, info, device="cpu"):
    return training_batches(spec, info, torch.device(device))


@pytest.mark.parametrize(("count", "batch"), [(10, 4), (10, 10), (10, 23), (7, 7), (768, 512)])
def test_an_epoch_has_every_image_once(count, batch) -> None:
    chosen = Epochs(count, seed=3, batch=batch)
    stream = torch.cat([chosen(step) for step in range(4 * count // batch + 2)])[: 3 * count].view(3, count)
    assert all(epoch.sort().values.tolist() == list(range(count)) for epoch in stream)
    assert not torch.equal(stream[0], stream[1])
    # asked for in another order, or alone
    assert torch.equal(Epochs(count, 3, batch)(2), stream.flatten()[2 * batch : 3 * batch]) or 3 * batch > 3 * count
    assert not torch.equal(Epochs(count, 4, batch)(0), Epochs(count, 3, batch)(0))


def test_a_batch_is_a_function_of_seed_and_step(info, device) -> None:
    first, again = batches(SPEC, info, device), batches(SPEC, info)
    for step in (7, 2):
        for a, b in zip(first(step).tensors(), again(step).tensors(), strict=True):
            assert a.device.type == device.type
            # a level of 8 bits may round to the other side on another device
            assert (a.cpu() - b).abs().max() <= (0 if device.type == "cpu" else 0.02)
    other = batches(replace(SPEC, seed=1), info)
    assert not torch.equal(first(2).inputs.cpu(), other(2).inputs)


def test_batches_are_mixed_until_the_last_part_of_the_training(info) -> None:
    of_step = batches(replace(SPEC, augment=Augment(mix=1.0, until=0.5)), info)
    shares = [of_step(step).share.item() for step in range(40)]
    assert all(share < 1 for share in shares[:20]) and set(shares[20:]) == {1.0}
    late = of_step(30)
    assert torch.equal(late.main_labels(), late.labels)
    early = next(batch for step in range(20) if (batch := of_step(step)).share < 0.5)
    assert torch.equal(early.main_labels(), early.others) and not torch.equal(early.others, early.labels)


def test_a_recipe_without_mixing_has_plain_batches(info) -> None:
    batch = batches(replace(SPEC, augment=Augment(mix=0)), info)(0)
    assert batch.others is None and batch.share is None and len(batch.tensors()) == 2
    assert torch.equal(batch.main_labels(), batch.labels)


def test_without_jitter_the_images_are_those_of_the_set(info) -> None:
    still = Augment(pad=0, light=0, mix=0)
    batch = batches(replace(SPEC, augment=still), info)(1)
    data = load("cifar10", split="train")
    images = normalize(data.images(0, len(data))[0], info.mean, info.std)
    known = {image.numpy().tobytes(): index for index, image in enumerate(images)}
    labels = data.images(0, len(data))[1]
    for image, label in zip(batch.inputs, batch.labels, strict=True):
        index = known.get(image.numpy().tobytes(), known.get(image.flip(2).contiguous().numpy().tobytes()))
        assert labels[index] == label


def test_a_set_that_augments_itself_is_asked_to(info) -> None:
    batch = batches(replace(SPEC, augment=None), info)(5)
    images, labels = load("cifar10", split="train").augmented(5, 64)
    assert torch.equal(batch.inputs, normalize(images, info.mean, info.std)) and torch.equal(batch.labels, labels)


def test_pictures_in_folders_are_gone_through_in_epochs(info, tmp_path) -> None:
    from PIL import Image

    for index in range(6):
        (tmp_path / f"class{index % 2}").mkdir(exist_ok=True)
        Image.new("RGB", (40, 40), (40 * index, 0, 0)).save(tmp_path / f"class{index % 2}" / f"{index}.png")
    spec = replace(SPEC, data=f"folder:{tmp_path}", augment=None, batch=4)
    of_step = batches(spec, info)
    seen = torch.cat([of_step(step).inputs[:, 0, 0, 0] for step in range(3)])
    assert torch.equal(seen[:6].sort().values, seen[6:].sort().values) and len(seen.unique()) == 6


@pytest.mark.parametrize("augment", [None, Augment()], ids=["drawn", "held"])
def test_images_without_labels_are_refused(info, tmp_path, augment) -> None:
    from PIL import Image

    Image.new("RGB", (40, 40)).save(tmp_path / "x.png")
    with pytest.raises(ValueError, match="have no labels; training needs a folder with one sub-folder per class$"):
        batches(replace(SPEC, data=f"folder:{tmp_path}", augment=augment, batch=1), info)(0)


def test_a_set_too_large_to_be_held_is_refused(info) -> None:
    message = (
        "^scenes has 1099511627776 training images, .* GB; a recipe with augment holds at most 4.29 GB on the device"
    )
    with pytest.raises(ValueError, match=message):
        batches(replace(SPEC, data="scenes"), info)


def test_revealing_takes_masks(info) -> None:
    with pytest.raises(ValueError, match="^reveal is 3, but cifar10 has no masks; take 0$"):
        batches(replace(SPEC, augment=None, reveal=3), info)


def test_the_background_fades_in_and_the_object_stays() -> None:
    inputs = torch.randn(2, 3, 4, 4, generator=torch.Generator().manual_seed(0))
    masks = torch.zeros(2, 4, 4, dtype=torch.bool)
    masks[:, 1:3, 1:3] = True
    half = revealed(inputs, masks, 0.5)
    assert torch.equal(half[:, :, 1:3, 1:3], inputs[:, :, 1:3, 1:3])
    assert torch.equal(half[:, :, 0], inputs[:, :, 0] / 2)
    assert torch.equal(revealed(inputs, masks, 1), inputs)
