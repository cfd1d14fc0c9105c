"""Whatever `load` opens keeps the one interface; a spec that it cannot open is answered in one clear line."""

from __future__ import annotations

import pytest
import torch
from PIL import Image

from ouro.data import batches, load, normalize
from ouro.registry import DATASETS


@pytest.fixture(params=list(DATASETS))
def data(request, tmp_path):
    if DATASETS.get(request.param).argument is None:
        return load(request.param, split="test", size=32)
    for name in ("cat", "dog"):
        for index in range(5):
            (tmp_path / name).mkdir(exist_ok=True)
            Image.new("RGB", (40, 40), (index * 40, 0, 99)).save(tmp_path / name / f"{index}.png")
    return load(f"{request.param}:{tmp_path}", split="test", size=32)


def test_images_have_the_common_form(data):
    images, labels = data.images(2, 5)
    assert images.dtype == torch.uint8 and images.shape == (5, 3, 32, 32)
    assert labels.dtype == torch.int64 and labels.shape == (5,)
    assert labels.min() >= 0 and labels.max() < len(data.classes)
    assert len(data.mean) == len(data.std) == 3 and len(data) >= 7
    again, labels_again = data.images(2, 5)
    assert torch.equal(images, again) and torch.equal(labels, labels_again)


@pytest.mark.parametrize("batch_size", [3, 4, 50])
def test_batches_cover_the_first_images_once(data, batch_size):
    images, labels = data.images(0, 8)
    seen = list(batches(data, batch_size, limit=8))
    assert torch.equal(torch.cat([batch for batch, _ in seen]), normalize(images, data.mean, data.std))
    assert torch.equal(torch.cat([batch for _, batch in seen]), labels)
    assert all(len(batch) <= batch_size for batch, _ in seen)


@pytest.mark.parametrize("parts", [1, 2, 3, 5])
def test_parts_of_the_batches_are_all_batches(data, parts):
    whole = [batch for batch, _ in batches(data, 2, limit=7)]
    shared = [[batch for batch, _ in batches(data, 2, limit=7, part=(k, parts))] for k in range(parts)]
    assert [len(part) for part in shared] == [len(range(k, 4, parts)) for k in range(parts)]
    assert all(torch.equal(shared[k % parts][k // parts], batch) for k, batch in enumerate(whole))


def test_batches_normalize_for_the_model_that_asks(data):
    (batch, _), (images, _) = next(batches(data, 2, mean=(0, 0, 0), std=(1, 1, 1))), data.images(0, 2)
    assert torch.equal(batch, images / 255)


def test_images_refuse_a_range_outside(data):
    with pytest.raises(ValueError, match=r"^images -2\.\.3 were asked for; there are "):
        data.images(-2, 5)


def test_normalize_agrees_with_its_definition():
    images = torch.randint(0, 256, (2, 3, 4, 5), dtype=torch.uint8, generator=torch.Generator().manual_seed(0))
    mean, std = (0.1, 0.2, 0.3), (0.4, 0.5, 0.6)
    actual = normalize(images, mean, std)
    assert actual.dtype == torch.float32
    for channel in range(3):
        expected = (images[:, channel].double() / 255 - mean[channel]) / std[channel]
        torch.testing.assert_close(actual[:, channel].double(), expected, atol=1e-6, rtol=1e-6)


@pytest.mark.parametrize(
    ("spec", "message"),
    [
        ("scene", r"unknown data set 'scene' \(did you mean 'scenes'\?\); known: scenes, digits, folder"),
        ("scenes:x", "data set 'scenes' takes nothing after a colon, got 'scenes:x'; write 'scenes'"),
        ("folder", "data set 'folder' lacks its PATH; write 'folder:PATH'"),
        ("folder:", "data set 'folder:' lacks its PATH; write 'folder:PATH'"),
    ],
)
def test_load_says_what_is_wrong_with_a_spec(spec, message):
    with pytest.raises(ValueError, match=f"^{message}"):
        load(spec)
