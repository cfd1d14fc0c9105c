"""Whatever `load` opens keeps the one interface; a spec that it cannot open is answered in one clear line."""

from __future__ import annotations

import pytest
import torch
from PIL import Image

import ouro
from ouro.data import batches, comes_along, kind, load, normalize, providing
from ouro.registry import DATASETS

TOY = """
import torch
from ouro.data import Dataset


class Toy(Dataset):
    classes = tuple(f"gray {k}" for k in range(12))
    mean = std = (0.5, 0.5, 0.5)

    def __init__(self, split="test", size=8):
        self.size = size

    def __len__(self):
        return 24

    def images(self, start, n):
        labels = torch.arange(start, start + n) % 12
        return (labels * 20).to(torch.uint8)[:, None, None, None].expand(n, 3, self.size, self.size), labels
"""


@pytest.fixture(params=list(DATASETS))
def opened(request, tmp_path):
    """Opens a registered set, on a folder of images where it needs one."""
    if comes_along(request.param):
        return lambda **options: load(request.param, **options)
    for name in ("cat", "dog"):
        for index in range(5):
            (tmp_path / name).mkdir(exist_ok=True)
            Image.new("RGB", (40, 40), (index * 40, 0, 99)).save(tmp_path / name / f"{index}.png")
    return lambda **options: load(f"{request.param}:{tmp_path}", **options)


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


def test_a_set_is_one_file_and_one_line(tmp_path, monkeypatch):
    (tmp_path / "toy_set.py").write_text(TOY)
    monkeypatch.syspath_prepend(tmp_path)
    monkeypatch.setattr(DATASETS, "_targets", dict(DATASETS._targets))
    DATASETS.add("toy", "toy_set:Toy")
    model = ouro.create_model("vim_nano", width=16, depth=1, image=8)
    report = ouro.evaluate(model, data="toy")
    assert report["data"] == "toy" and report["n"] == 24
    # gray alone is told apart by a head that weighs nothing else
    with torch.no_grad():
        model.head.weight.zero_()
        model.head.bias.copy_(torch.arange(12.0))
    assert ouro.evaluate(model, data="toy")["top1"] == pytest.approx(1 / 12)
    assert kind("toy").provides == frozenset() and not kind("toy").files


def test_what_sets_provide_can_be_asked_before_they_are_opened():
    assert providing("masks") == ["scenes", "digits"] and providing("augmented") == ["digits", "cifar10"]
    assert kind("folder:/nowhere").files and not kind("cifar10:/nowhere").files
    assert [comes_along(spec) for spec in ("scenes", "cifar10", "folder", "folder:", "folder:x")] == [1, 1, 0, 0, 1]


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
        ("scene", r"unknown data set 'scene' \(did you mean 'scenes'\?\); known: scenes, digits, cifar10, folder"),
        ("scenes:x", "data set 'scenes' takes nothing after a colon, got 'scenes:x'; write 'scenes'"),
        ("folder", "data set 'folder' lacks its PATH; write 'folder:PATH'"),
        ("folder:", "data set 'folder:' lacks its PATH; write 'folder:PATH'"),
    ],
)
def test_load_says_what_is_wrong_with_a_spec(spec, message):
    with pytest.raises(ValueError, match=f"^{message}"):
        load(spec)
