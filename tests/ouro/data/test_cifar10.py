"""CIFAR-10: fixed and disjoint splits of the part that comes along, the whole set where it is, nothing distorted."""

from __future__ import annotations

import io
import pickle
import re
import struct
from typing import ClassVar

import numpy as np
import pytest
import torch
from torch.nn import functional as F

from ouro.data import load
from ouro.data.cifar10 import CLASSES, MEAN, STD, Cifar10


@pytest.fixture(scope="module")
def splits():
    return {split: Cifar10(split=split) for split in ("train", "calib", "test")}


class _Python2(pickle._Pickler):
    """Writes strings and bytes alike, as the pickles of the original files have them."""

    dispatch: ClassVar = dict(pickle._Pickler.dispatch)

    def save_text(self, text):
        data = text if isinstance(text, bytes) else text.encode("ascii")
        self.write(pickle.BINSTRING + struct.pack("<i", len(data)) + data)
        self.memoize(text)

    dispatch[bytes] = dispatch[str] = save_text


def _as_in_2009(content):
    file = io.BytesIO()
    _Python2(file, protocol=2).dump(content)
    return file.getvalue().replace(b"numpy._core.multiarray", b"numpy.core.multiarray")


@pytest.fixture
def root(tmp_path):
    """A folder as torchvision leaves it, with 40 images a batch whose pixels say which image they are."""
    (tmp_path / "cifar-10-batches-py").mkdir()
    for number, name in enumerate([*(f"data_batch_{k}" for k in range(1, 6)), "test_batch"]):
        first = 40 * number if name != "test_batch" else 1000
        which = np.arange(first, first + 40)
        rows = np.zeros((40, 3, 32, 32), np.uint8)
        rows[:, 0], rows[:, 1, 0, 0] = (which % 256)[:, None, None], 7
        content = {"data": rows.reshape(40, -1), "labels": (which % 10).tolist(), "batch_label": "one of several"}
        (tmp_path / "cifar-10-batches-py" / name).write_bytes(_as_in_2009(content))
    return tmp_path


def _everything(data):
    return data.images(0, len(data))


def test_splits_have_their_sizes_and_are_even(splits):
    counts = {split: torch.bincount(_everything(data)[1], minlength=10) for split, data in splits.items()}
    assert {split: int(count.sum()) for split, count in counts.items()} == {"train": 768, "calib": 256, "test": 2000}
    assert all(count.max() - count.min() <= 1 for count in counts.values())
    # the first images of the test split are even, too: a limit is fair
    assert torch.equal(splits["test"].images(0, 20)[1], torch.arange(10).repeat(2))


def test_splits_share_no_image(splits):
    seen = {split: {image.numpy().tobytes() for image in _everything(data)[0]} for split, data in splits.items()}
    assert [len(images) for images in seen.values()] == [768, 256, 2000]
    assert not (seen["train"] & seen["calib"] or seen["train"] & seen["test"] or seen["calib"] & seen["test"])


def test_images_are_those_that_the_embedded_checkpoints_were_measured_on(splits):
    images, labels = splits["test"].images(0, 4)
    assert [CLASSES[label] for label in labels] == ["airplane", "automobile", "bird", "cat"]
    # decoders of JPEG differ by a level here and there
    assert torch.allclose(images.float().mean((1, 2, 3)), torch.tensor([86.55, 118.16, 106.74, 111.51]), atol=0.5)
    pixels = _everything(splits["train"])[0].float() / 255
    assert torch.allclose(pixels.mean((0, 2, 3)), torch.tensor(MEAN), atol=0.02)
    assert torch.allclose(pixels.std((0, 2, 3)), torch.tensor(STD), atol=0.02)


def test_images_do_not_depend_on_the_batch_nor_on_what_was_decoded_before(splits):
    images, labels = splits["calib"].images(10, 9)
    parts = [splits["calib"].images(start, 3) for start in (16, 10, 13)]
    assert torch.equal(images, torch.cat([parts[k][0] for k in (1, 2, 0)]))
    assert torch.equal(labels, torch.cat([parts[k][1] for k in (1, 2, 0)]))
    images.zero_()
    assert splits["calib"].images(10, 9)[0].float().mean() > 10


@pytest.mark.parametrize("size", [32, 20, 56, (20, 32), (64, 40)])
def test_sizes_are_reached_without_distortion(splits, size):
    originals = splits["test"].images(0, 8)[0]
    images = Cifar10(split="test", size=size).images(0, 8)[0]
    height, width = (size, size) if isinstance(size, int) else size
    assert images.shape == (8, 3, height, width) and images.dtype == torch.uint8
    side = max(height, width)
    whole = F.interpolate(originals.float(), (side, side), mode="bicubic", antialias=True).clamp(0, 255)
    middle = whole[:, :, (side - height) // 2 :, (side - width) // 2 :][:, :, :height, :width]
    assert (images.float() - middle.float()).abs().max() <= 0.51


def test_augmented_images_are_the_originals_moved_and_relit(splits):
    images, labels = splits["train"].augmented(7, 32)
    assert torch.equal(images, splits["train"].augmented(7, 32)[0])
    assert not torch.equal(images, splits["train"].augmented(8, 32)[0])
    train, train_labels = _everything(splits["train"])
    # of small copies, the nearest original has the right label nearly always; chance is 10 %
    small, wanted = (F.adaptive_avg_pool2d(x.float(), 4).flatten(1) for x in (images, train))
    both = [torch.cdist(x, wanted) for x in (small, F.adaptive_avg_pool2d(images.flip(3).float(), 4).flatten(1))]
    nearest = torch.minimum(*both).argmin(1)
    assert (train_labels[nearest] == labels).float().mean() > 0.8
    with pytest.raises(ValueError, match=r"^augmented batches come from split 'train', not 'test'; use images\(\)$"):
        splits["test"].augmented(0, 4)


@pytest.mark.parametrize("inside", [True, False], ids=["folder", "root"])
def test_the_whole_set_is_that_of_torchvision(root, inside):
    where = root / "cifar-10-batches-py" if inside else root
    test = load(f"cifar10:{where}", split="test")
    images, labels = _everything(test)
    assert len(test) == 40 and images[:, 0, 5, 5].tolist() == [(1000 + k) % 256 for k in range(40)]
    assert torch.equal(labels, torch.arange(1000, 1040) % 10) and images[:, 1, 0, 0].eq(7).all()


def test_the_whole_set_leaves_its_calibration_images_out_of_training(root, monkeypatch):
    monkeypatch.setattr("ouro.data.cifar10._CALIB", 30)
    train, calib = (load(f"cifar10:{root}", split=split) for split in ("train", "calib"))
    which = [data.images(0, len(data))[0][:, 0, 0, 0].tolist() for data in (train, calib)]
    assert len(which[1]) == 30 and sorted(which[0] + which[1]) == list(range(200))
    assert torch.bincount(_everything(calib)[1]).tolist() == [3] * 10


def test_the_whole_set_is_taken_from_the_users_folder(root, monkeypatch, tmp_path):
    monkeypatch.setenv("OURO_HOME", str(tmp_path / "home"))
    assert len(load("cifar10")) == 2000
    (tmp_path / "home").mkdir()
    (tmp_path / "home" / "data").symlink_to(root)
    assert len(load("cifar10")) == 40


@pytest.mark.parametrize("missing", ["data_batch_3", "test_batch"])
def test_a_part_of_the_whole_set_is_refused(root, missing):
    (root / "cifar-10-batches-py" / missing).unlink()
    message = (
        f"{root} holds no whole CIFAR-10: expected cifar-10-batches-py with data_batch_1 to data_batch_5 and "
        "test_batch, as torchvision's CIFAR10(root, download=True) leaves them; write 'cifar10' alone for the part that "
        "comes along"
    )
    with pytest.raises(ValueError, match=f"^{re.escape(message)}$"):
        load(f"cifar10:{root}")


def test_a_home_that_nobody_has_is_a_folder_like_any_other() -> None:
    with pytest.raises(ValueError, match="^~nobodyhere holds no whole CIFAR-10"):
        load("cifar10:~nobodyhere")


class _Harmful:
    def __reduce__(self):
        return print, ("this must not run",)


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (pickle.dumps({b"data": _Harmful(), b"labels": []}), "is no batch of CIFAR-10 (it asks for builtins.print)"),
        (b"no pickle", "is no batch of CIFAR-10 ("),
        (b"", "is no batch of CIFAR-10 (Ran out of input)"),
        (pickle.dumps({b"labels": [1]}), "is no batch of CIFAR-10 (b'data')"),
        (
            pickle.dumps({b"data": np.zeros((2, 3072), np.uint8), b"labels": [1, 10]}),
            "holds uint8 (2, 3072) for 2 labels, expected uint8 (2, 3072) and labels 0 to 9",
        ),
        (pickle.dumps({b"data": np.zeros((2, 3)), b"labels": [1, 1]}), "holds float64 (2, 3) for 2 labels, expected"),
        (pickle.dumps({b"data": np.zeros((2, 3)), b"labels": 3}), "holds float64 (2, 3) for 1 labels, expected"),
    ],
    ids=["code", "text", "empty", "no data", "label", "shape", "number"],
)
def test_a_damaged_or_hostile_batch_is_named(root, capsys, content, message):
    path = root / "cifar-10-batches-py" / "test_batch"
    path.write_bytes(content)
    with pytest.raises(ValueError, match=f"^{re.escape(f'{path} {message}')}.*; download it again$"):
        load(f"cifar10:{root}")
    assert capsys.readouterr().out == ""


def test_what_cannot_be_opened_is_refused():
    with pytest.raises(ValueError, match=r"^unknown split 'val'; known: train, calib, test$"):
        Cifar10(split="val")
    for size in (0, (32, 0)):
        with pytest.raises(ValueError, match="^size is .*, expected a side or .height, width. of 1 pixel or more$"):
            Cifar10(size=size)
    with pytest.raises(ValueError, match=r"^images 1990\.\.2010 were asked for; there are 2000, "):
        Cifar10().images(1990, 20)
