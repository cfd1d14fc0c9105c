"""Sources of images are read, opened and seen as timm's configuration of a model says."""

from __future__ import annotations

import re
from dataclasses import replace
from types import SimpleNamespace

import numpy as np
import pytest
import timm
import torch
from PIL import Image
from safetensors.torch import save_file
from timm.data import create_transform, resolve_data_config

import ouro.evaluate
from ouro.data import IGNORED, batches, load, normalize, to_pixels
from ouro.data.captions import captions
from ouro.data.export import export
from ouro.data.source import noise, open_data, parse, space_of, spelled, transform
from ouro.data.views import Renumbered
from ouro.evaluate.accuracy import judged
from ouro.models import create_model
from ouro.registry import MODELS
from ouro.tasks import task_of
from ouro.types import DataSource, ModelInfo
from tests.testing import assert_close


def _first_of_each_view() -> list[str]:
    """One classifier of ImageNet per way in which images are wanted."""
    seen = {}
    for name in MODELS:
        entry, config = MODELS.get(name), MODELS.get(name).config
        if entry.data == "folder" and getattr(config, "num_classes", 0):
            seen.setdefault((config.image, config.mean, config.std, entry.crop_pct, entry.interpolation), name)
    return list(seen.values())


@pytest.mark.parametrize("name", _first_of_each_view())
def test_a_folder_is_seen_through_timms_evaluation_transform(name, tmp_path) -> None:
    pixels = np.random.default_rng(0).integers(0, 256, (300, 410, 3), dtype=np.uint8)
    Image.fromarray(pixels).save(tmp_path / "x.png")
    cfg, config = timm.get_pretrained_cfg(name), MODELS.get(name).config
    wanted = create_transform(**resolve_data_config(pretrained_cfg=cfg.to_dict()))(Image.fromarray(pixels))
    info = SimpleNamespace(
        input_size=cfg.input_size, mean=config.mean, std=config.std, crop_pct=cfg.crop_pct,
        interpolation=cfg.interpolation, class_names=(),
    )  # fmt: skip
    data = open_data(f"folder:{tmp_path}", "test", info)
    assert_close(normalize(data.images(0, 1)[0], info.mean, info.std)[0], wanted, atol=1e-6)
    seen = transform(f"folder:{tmp_path}", info)
    assert {key: tuple(value) if isinstance(value, list) else value for key, value in seen.items()} == {
        key: getattr(cfg, key) for key in ("input_size", "interpolation", "crop_pct", "mean", "std")
    }


def test_the_released_models_differ_in_their_crop() -> None:
    crops = {MODELS.get(name).crop_pct for name in _first_of_each_view()}
    assert {0.875, 0.93, 0.98, 1.0} <= crops


def test_evaluate_sees_a_folder_as_the_model_does(tmp_path, monkeypatch) -> None:
    for label in range(12):
        (tmp_path / f"{label:02d}").mkdir()
    Image.new("RGB", (70, 70)).save(tmp_path / "03" / "x.png")
    model = create_model("vim_nano", width=16, depth=1, image=28)
    seen = []
    model.register_forward_pre_hook(lambda _, args: seen.append(args[0]))
    result = ouro.evaluate(model, data=f"folder:{tmp_path}")
    # a pixel that is 0 in the file, in model space
    assert result["n"] == 1 and seen[0].shape == (1, 3, 28, 28)
    assert torch.allclose(seen[0][0, 0, 0, 0], torch.tensor(-model.info.mean[0] / model.info.std[0]))


def test_a_set_drawn_at_the_size_of_the_input_is_not_cropped() -> None:
    seen = transform("scenes", create_model("vim_nano").info)
    assert seen["crop_pct"] is None and seen["interpolation"] is None and seen["input_size"] == [3, 56, 56]


def test_a_model_says_how_it_wants_its_files(tmp_path) -> None:
    assert create_model("mambavision_s").info.crop_pct == 0.93
    seen = transform(f"folder:{tmp_path}", create_model("vim_nano").info)
    assert (seen["crop_pct"], seen["interpolation"]) == (1.0, "bicubic")


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("", DataSource("")),
        ("real", DataSource("")),
        ("real:64", DataSource("", "", 64)),
        ("real:64:scenes", DataSource("scenes", "", 64)),
        ("real:64:folder:/some/where", DataSource("folder", "/some/where", 64)),
        ("noise", DataSource("noise")),
        ("noise:32", DataSource("noise", "", 32)),
        ("synthetic:8", DataSource("synthetic", "", 8)),
        ("scenes", DataSource("scenes")),
        ("scenes:500", DataSource("scenes", "", 500)),
        ("folder:/some/where", DataSource("folder", "/some/where")),
        ("folder:/some/where:12", DataSource("folder", "/some/where", 12)),
        ("out/set.safetensors", DataSource("file", "out/set.safetensors")),
    ],
)
def test_sources_are_read_and_spelled_the_same(text, expected) -> None:
    assert parse(text) == expected
    assert parse(spelled(expected)) == expected


def test_a_folder_whose_name_ends_in_a_number_is_no_count(tmp_path) -> None:
    place = tmp_path / "a:12"
    place.mkdir()
    assert parse(f"folder:{place}") == DataSource("folder", str(place))
    assert parse(f"folder:{place}:7") == DataSource("folder", str(place), 7)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("real:many", "'real:many' has no count from 1 up; write real:N, "),
        ("noise:0", "'noise:0' has no count from 1 up; "),
        ("scenes:0", "'scenes:0' has no count from 1 up; "),
        ("imagenet", "unknown data set 'imagenet'; known: real, noise, synthetic, scenes, "),
    ],
)
def test_what_cannot_be_read_is_refused(text, message) -> None:
    with pytest.raises(ValueError, match=f"^{re.escape(message)}"):
        parse(text)


def test_a_count_takes_the_first_images() -> None:
    info = create_model("vim_nano").info
    whole, some = open_data("scenes", "test", info), open_data("scenes:5", "test", info)
    assert len(some) == 5 and torch.equal(some.images(1, 4)[0], whole.images(1, 4)[0])
    with pytest.raises(ValueError, match="there are 5"):
        some.images(4, 2)
    with pytest.raises(ValueError, match="^99999 images were asked for, scenes has "):
        open_data("scenes:99999", "test", info)


@pytest.mark.parametrize(
    ("data", "model"),
    [
        ("scenes", "vim_nano"), ("scenes_seg", "vmamba_nano_seg"), ("scenes_det", "vmamba_nano_det"),
        ("masks", "vmamba_nano_seg"), ("coco", "vmamba_nano_det"),
    ],
)  # fmt: skip
def test_the_first_images_pose_the_task_of_the_whole_set(data, model, tmp_path) -> None:
    info = create_model(model).info
    if data in ("masks", "coco"):
        list(export(load("scenes_seg" if data == "masks" else "scenes_det", size=48), tmp_path, 4))
        data = f"masks:{tmp_path}" if data == "masks" else f"coco:{tmp_path}/annotations.json"
    whole, some = open_data(data, "test", info), open_data(f"{data}:3", "test", info)
    task_of(info).require(some, data, info)
    assert len(some) == 3 and (some.targets, some.files, some.classes) == (whole.targets, whole.files, whole.classes)
    for one, other in zip(some.images(1, 2), whole.images(1, 2), strict=True):
        assert torch.equal(one, other)
    assert some.provides == whole.provides & {"masks"}
    if "masks" in some.provides:
        assert torch.equal(some.masks(0, 3), whole.masks(0, 3))
        with pytest.raises(ValueError, match="there are 3"):
            some.masks(2, 2)


def reordered(info, *order):
    """A model's facts, its classes in another order."""
    return replace(info, class_names=tuple(info.class_names[place] for place in order))


@pytest.mark.parametrize("data", ["scenes", "scenes_seg", "scenes_det"])
def test_classes_have_the_numbers_of_the_model_that_looks(data) -> None:
    names = load(data).classes
    info = ModelInfo("toy", "vim", (), None, (3, 32, 32), (0.5,) * 3, (0.5,) * 3, len(names), names)
    order = list(range(len(names)))[::-1]
    turned = reordered(info, *order)
    whole, seen = open_data(data, "test", info), open_data(f"{data}:8", "test", turned)
    assert seen.classes == turned.class_names and seen.targets == whole.targets
    (images, targets), (same, others) = whole.images(2, 6), seen.images(2, 6)
    assert torch.equal(images, same) and targets.dtype == others.dtype
    assert captions(targets, whole.targets, whole.classes) == [
        ", ".join(reversed(words.split(", "))) for words in captions(others, seen.targets, seen.classes)
    ]
    # renumbered again, it is what it was, with whatever stands for no class
    assert torch.equal(Renumbered(seen, order).images(2, 6)[1], targets)


def test_ignored_pixels_and_rows_of_no_object_have_no_number() -> None:
    class Toy:
        def __init__(self, targets, values, count=2):
            self.targets, self.values, self.classes = targets, values, tuple(map(str, range(count)))

        def images(self, start, n):
            return torch.zeros(n, 3, 1, 1), self.values

    rows = torch.tensor([[[0, 0, 2, 2, 0.0, 1], [0, 0, 0, 0, -1, 0], [1, 0, 2, 2, 1, 0]]])
    boxes = Renumbered(Toy("boxes", rows), [1, 0]).images(0, 1)[1]
    assert boxes[0].tolist() == [[0, 0, 2, 2, 1, 1], [0, 0, 0, 0, -1, 0], [1, 0, 2, 2, 0, 0]]
    pixels = Renumbered(Toy("segments", torch.tensor([[[0, 1, IGNORED]]])), [1, 0]).images(0, 1)[1]
    assert pixels.tolist() == [[[1, 0, IGNORED]]]
    # a set may have more classes than IGNORED
    labels = Renumbered(Toy("labels", torch.tensor([IGNORED, 0]), 300), [*range(1, 300), 0]).images(0, 2)[1]
    assert labels.tolist() == [IGNORED + 1, 1] and Renumbered(Toy("labels", None), [1, 0]).images(0, 1)[1] is None
    assert rows[0, 0, 4] == 0, "the whole set stays as it is"


@pytest.mark.parametrize("names", [tuple("210"), ("2", "10", "1"), ("big cat", "Dog", "a-b")])
def test_a_folder_is_scored_in_the_order_that_the_model_learned(names, tmp_path) -> None:
    for place, name in enumerate(names):
        (tmp_path / name.replace(" ", "_").lower()).mkdir()
        Image.new("RGB", (8, 8), (100 * place, 0, 0)).save(tmp_path / name.replace(" ", "_").lower() / "x.png")
    model = create_model("vim_nano", width=16, depth=1, image=8, num_classes=3, class_names=names)
    data = open_data(f"folder:{tmp_path}", "test", model.info)
    images, labels = data.images(0, 3)
    assert (images[:, 0, 0, 0] == 100 * labels).all() and sorted(labels.tolist()) == [0, 1, 2]
    assert [path.parent.name for path in data.paths] != list(data.classes), "sorted by name they are in another order"
    # always answers the last class, which is one picture of three, whatever its name
    with torch.no_grad():
        model.head.weight.zero_()
        model.head.bias.copy_(torch.arange(3.0))
    assert ouro.evaluate(model, data=f"folder:{tmp_path}", batch=1)["top1"] == pytest.approx(1 / 3)
    seen = [one for one, _ in judged(model, batches(data, 1))]
    assert [bool(one) for one in seen] == [label == 2 for label in labels.tolist()]


def test_a_stored_set_is_a_data_set(tmp_path) -> None:
    info, path = create_model("vim_nano").info, str(tmp_path / "set.safetensors")
    images, labels = torch.randn(3, *info.input_size), torch.arange(3)
    save_file({"images": images, "labels": labels}, path)
    dataset = open_data(path, "test", info)
    assert dataset.classes == info.class_names and torch.equal(dataset.images(0, 3)[1], labels)
    inside = ((images * 0 + normalize(dataset.images(0, 3)[0], info.mean, info.std)) - images).abs() < 0.02
    assert inside[images.abs() < 0.5].all()
    other = create_model("vim_nano", image=28).info
    with pytest.raises(ValueError, match=r"images are \(3, 3, 56, 56\), vim_nano takes \(3, 28, 28\)"):
        open_data(path, "test", other)


def test_a_stored_set_keeps_the_pixels_and_classes_of_its_model(tmp_path) -> None:
    maker, other = create_model("vim_nano").info, create_model("vim_nano_digits").info
    pixels = torch.randint(0, 256, (12, *maker.input_size), dtype=torch.uint8)
    images = normalize(pixels, maker.mean, maker.std)
    path = str(tmp_path / "set.safetensors")
    save_file({"images": images, "labels": torch.arange(12)}, path, {"space": space_of(maker)})
    seen = open_data(path, "test", other)
    # the other model's own mean and std would make other pixels of the same numbers
    assert other.mean != maker.mean and torch.equal(seen.images(0, 12)[0], pixels)
    assert seen.classes == maker.class_names
    with pytest.raises(ValueError, match=r"has 12 classes, vim_nano_digits has 10$"):
        ouro.evaluate(create_model("vim_nano_digits"), path)
    # a file of old says nothing: what can be seen from outside is refused all the same
    save_file({"images": images, "labels": torch.arange(12)}, path)
    with pytest.raises(ValueError, match=r"has an image of class 11, its model 10 classes from 0 on; "):
        ouro.evaluate(create_model("vim_nano_digits"), path)


@pytest.mark.parametrize(
    ("tensors", "header", "message"),
    [
        (
            {"labels": torch.zeros(2)},
            {},
            "labels are float32 (2,), expected int64 (2,), a class from 0 on for each image",
        ),
        ({"labels": torch.zeros(3).long()}, {}, "labels are int64 (3,), expected int64 (2,), "),
        ({"labels": torch.tensor([0, -1])}, {}, "labels are int64 (2,), expected int64 (2,), a class from 0 on"),
        ({}, {"space": "[]"}, "space in its header is '[]', expected a JSON object; was it damaged?"),
        ({}, {"space": "{" * 5000}, "space in its header is '{{{{"),
        ({}, {"space": '{"mean": [0, 0]}'}, "mean of space is [0, 0], expected a number for each of 3 channels"),
        (
            {},
            {"space": '{"mean": [0, 0, 0], "std": [1, 1, 1], "classes": 12}'},
            "classes of space is '12', expected the names of the classes",
        ),
        ({"images": torch.zeros(2, 3, 56, 56).to(torch.uint8)}, {}, "images are 2 of torch.uint8, expected normalized"),
    ],
)
def test_a_damaged_set_is_refused_in_one_line(tmp_path, tensors, header, message) -> None:
    path = str(tmp_path / "set.safetensors")
    save_file({"images": torch.zeros(2, 3, 56, 56)} | tensors, path, header)
    with pytest.raises(ValueError, match="^" + re.escape(f"{path}: {message}")) as caught:
        open_data(path, "test", create_model("vim_nano").info)
    assert "\n" not in str(caught.value)


def test_a_set_of_squares_does_not_serve_a_model_of_another_aspect(tmp_path) -> None:
    info = create_model("vim_nano", image=(28, 56)).info
    with pytest.raises(
        ValueError, match="^scenes has square images only, vim_nano takes 28x56; name a folder instead$"
    ):
        open_data("scenes", "test", info)
    Image.new("RGB", (90, 40)).save(tmp_path / "x.png")
    assert open_data(f"folder:{tmp_path}", "test", info).images(0, 1)[0].shape == (1, 3, 28, 56)
    assert open_data("cifar10", "test", info).images(0, 1)[0].shape == (1, 3, 28, 56)


def test_noise_is_looked_at_but_scores_nothing() -> None:
    info = create_model("vim_nano").info
    images, labels = open_data("noise", "test", info).images(5, 2)
    assert labels is None and images.dtype == torch.uint8 and tuple(images.shape) == (2, *info.input_size)
    expected = to_pixels(torch.cat([noise(info, 1, seed) for seed in (5, 6)]), info.mean, info.std)
    assert torch.equal(images, expected) and images.float().std() > 40
    assert len(open_data("noise:4", "test", info)) == 4
    with pytest.raises(ValueError, match="^noise has no labels; accuracy needs a data set with one folder per class$"):
        task_of(info).require(open_data("noise", "test", info), "noise", info)
    with pytest.raises(ValueError, match="^synthetic is for calibration and has no labels to score against; "):
        open_data("synthetic:4", "test", info)


def test_a_model_whose_images_are_not_here_says_what_to_name() -> None:
    info = create_model("vim_tiny_patch16_224", depth=1).info
    with pytest.raises(
        ValueError, match="^the images that vim_tiny_patch16_224 was trained on do not come along; name"
    ):
        open_data("", "test", info)


def test_a_bare_path_is_told_what_to_write(tmp_path) -> None:
    words = f"{tmp_path} does not say what it holds; write folder:{tmp_path} for pictures in a folder for each class, masks:"
    with pytest.raises(ValueError, match=f"^{re.escape(words)}"):
        parse(str(tmp_path))
    (tmp_path / "boxes.json").write_text("{}")
    with pytest.raises(ValueError, match=f"write {re.escape(f'coco:{tmp_path}/boxes.json')} for pictures with boxes$"):
        parse(f"{tmp_path}/boxes.json")
    # what a run of `ouro generate` keeps
    (tmp_path / "tensors.safetensors").write_text("")
    with pytest.raises(ValueError, match=f"write {re.escape(f'{tmp_path}/tensors.safetensors')}$"):
        parse(str(tmp_path))


def test_images_themselves_are_no_source() -> None:
    with pytest.raises(
        ValueError, match=r"^data is a list, expected text, such as 'scenes' or 'folder:PATH'; what gives "
    ):
        parse([(torch.zeros(3, 2, 2), 1)])
