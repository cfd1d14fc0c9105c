"""Whatever `load` opens keeps the one interface; a spec that it cannot open is answered in one clear line."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch
from PIL import Image

from ouro.data import IGNORED, batches, comes_along, kind, load, normalize, providing, standardize
from ouro.data.boxes import present
from ouro.registry import DATASETS
from tests.growing import examples, grown


@pytest.fixture(params=list(DATASETS))
def opened(request, tmp_path):
    """Opens a registered set, on files where it needs some."""
    if comes_along(request.param):
        return lambda **options: load(request.param, **options)
    path = FILES[request.param](tmp_path)
    return lambda **options: load(f"{request.param}:{path}", **options)


def pictures(folder: Path, mode: str = "RGB") -> None:
    """Ten pictures, or as many masks of two classes."""
    folder.mkdir(parents=True)
    for index in range(10):
        color = (index * 20, 0, 99) if mode == "RGB" else index % 2 + 1
        Image.new(mode, (40, 40), color).save(folder / f"{index}.png")


def folder(root: Path) -> Path:
    for name in ("cat", "dog"):
        pictures(root / name)
    return root


def masks(root: Path) -> Path:
    pictures(root / "images")
    pictures(root / "masks", "L")
    return root


def ade20k(root: Path) -> Path:
    for part in ("training", "validation"):
        pictures(root / "images" / part)
        pictures(root / "annotations" / part, "L")
    return root


def coco(root: Path) -> Path:
    pictures(root / "images")
    images = [{"id": index, "file_name": f"{index}.png"} for index in range(10)]
    boxes = [{"image_id": index, "category_id": 1, "bbox": [index, 0, 9, 9]} for index in range(10)]
    content = {"images": images, "annotations": boxes, "categories": [{"id": 1, "name": "cat"}]}
    (root / "set.json").write_text(json.dumps(content))
    return root / "set.json"


FILES = {"folder": folder, "masks": masks, "ade20k": ade20k, "coco": coco}
"""Set that needs files -> what writes some."""


@pytest.fixture
def data(opened):
    return opened(split="test", size=32)


def test_a_set_can_do_what_it_says_and_nothing_else(opened):
    for split in (data := opened(size=32)).splits:
        data = opened(split=split, size=32)
        assert data.images(0, 2)[0].shape == (2, 3, 32, 32)
        assert data.provides <= {"masks", "augmented", "series"}
        assert hasattr(data, "masks") == ("masks" in data.provides)
        assert hasattr(data, "augmented") == ("augmented" in data.provides)
        if "masks" in data.provides:
            masks = data.masks(1, 2)
            assert masks.shape == (2, 32, 32) and masks.dtype == torch.bool
    if "augmented" in data.provides:
        first, again, other = (opened(split="train", size=32).augmented(seed, 4) for seed in (3, 3, 4))
        assert first[0].dtype == torch.uint8 and first[0].shape == (4, 3, 32, 32) and first[1].shape == (4,)
        assert torch.equal(first[0], again[0]) and torch.equal(first[1], again[1])
        assert not torch.equal(first[0], other[0])
    if "series" in data.provides:
        ours, other = (opened(split="train", size=32, seed=seed).images(0, 2)[0] for seed in (0, 1))
        assert not torch.equal(ours, other)
    if data.files:
        assert opened(size=(24, 32), crop_pct=1.0, interpolation="bilinear").images(0, 1)[0].shape == (1, 3, 24, 32)
    with pytest.raises(ValueError, match=f"^unknown split 'val'; known: {', '.join(data.splits)}$"):
        opened(split="val", size=32)


def test_a_set_is_one_file_and_one_line(tmp_path):
    with grown(examples()["A data set"], tmp_path):
        assert kind("flags").provides == {"masks"} and not kind("flags").files and comes_along("flags")
        assert load("flags", split="calib", size=8).masks(2, 3).shape == (3, 8, 8)
        with pytest.raises(ValueError, match="^unknown split 'val'; known: train, calib, test$"):
            load("flags", split="val")
    assert "flags" not in DATASETS


def test_what_sets_provide_can_be_asked_before_they_are_opened():
    assert providing("masks") == ["scenes", "digits"] and providing("augmented") == ["digits", "cifar10"]
    assert kind("folder:/nowhere").files and not kind("cifar10:/nowhere").files
    assert [comes_along(spec) for spec in ("scenes", "cifar10", "folder", "folder:", "folder:x")] == [1, 1, 0, 0, 1]


def test_images_have_the_common_form(data):
    images, labels = data.images(2, 5)
    assert images.dtype == torch.uint8 and images.shape == (5, 3, 32, 32)
    form = {"labels": (5,), "segments": (5, 32, 32), "boxes": (5, labels.shape[1], 6) if labels.dim() > 1 else ()}
    assert labels.shape == form[data.targets]
    assert labels.dtype == (torch.float32 if data.targets == "boxes" else torch.int64)
    numbers = present(labels.flatten(0, 1))[:, 4] if data.targets == "boxes" else labels[labels != IGNORED]
    assert numbers.min() >= 0 and numbers.max() < len(data.classes)
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
    ("images", "given"),
    [(torch.rand(1, 3, 2, 2), "float32"), (torch.zeros(1, 3, 2, 2).long(), "int64"), ([0], "a list")],
)
def test_normalize_takes_pixels_only(images, given):
    """Floats of ToTensor would be divided by 255 once more, and next to nothing would be left of them."""
    with pytest.raises(ValueError, match=f"^images are {given}, expected a tensor of uint8 pixels; of floats in "):
        normalize(images, (0.5,) * 3, (0.5,) * 3)


def test_standardize_is_the_rest_of_normalize():
    images = torch.randint(0, 256, (2, 3, 4, 5), dtype=torch.uint8)
    mean, std = (0.1, 0.2, 0.3), (0.4, 0.5, 0.6)
    torch.set_default_dtype(torch.float64)
    try:
        actual = normalize(images, mean, std)
    finally:
        torch.set_default_dtype(torch.float32)
    assert actual.dtype == torch.float32 and torch.equal(standardize(images.float() / 255, mean, std), actual)


@pytest.mark.parametrize(
    ("size", "limit", "words"), [(0, None, "batch_size is 0"), (2, 0, "limit is 0"), (2, -1, "limit is -1")]
)
def test_batches_of_nothing_are_refused(data, size, limit, words):
    with pytest.raises(ValueError, match=f"^{words}, expected 1 or more$"):
        next(batches(data, size, limit=limit))


@pytest.mark.parametrize(
    ("spec", "message"),
    [
        (
            "scene",
            r"unknown data set 'scene' \(did you mean 'scenes'\?\); known: scenes, scenes_seg, scenes_det, digits, cifar10, folder",
        ),
        ("scenes:x", "data set 'scenes' takes nothing after a colon, got 'scenes:x'; write 'scenes'"),
        ("folder", "data set 'folder' lacks its PATH; write 'folder:PATH'"),
        ("folder:", "data set 'folder:' lacks its PATH; write 'folder:PATH'"),
    ],
)
def test_load_says_what_is_wrong_with_a_spec(spec, message):
    with pytest.raises(ValueError, match=f"^{message}"):
        load(spec)
