"""What a job works on: weights by content, devices by name, images by one spelling."""

from __future__ import annotations

import json
import os
import re
from dataclasses import replace
from types import SimpleNamespace

import pytest
import torch
from PIL import Image
from safetensors.torch import save_file

from ouro.data.source import open_data
from ouro.jobs.calibration import CALIBRATION, calibration_set
from ouro.jobs.evaluate import EvaluateSpec, evaluate, opened_beside
from ouro.jobs.inputs import (
    data_digest,
    device_of,
    identity,
    image_file,
    one_image,
    open_model,
    open_quantized,
    provenance_of,
    source_from,
    source_of,
)
from ouro.jobs.quantize import QuantizeSpec, quantize
from ouro.jobs.synthesize import SynthesisSpec
from ouro.models import create_model
from ouro.store import digest
from ouro.types import ModelSource
from tests import zoo
from tests.ouro.jobs.running import finish


def test_a_name_is_a_source() -> None:
    assert source_of("vim_nano") == ModelSource("vim_nano") and str(source_of("vim_nano")) == "vim_nano"
    assert SynthesisSpec("vim_nano") == SynthesisSpec(ModelSource("vim_nano"))


def test_devices_by_name(monkeypatch) -> None:
    assert device_of("cpu") == torch.device("cpu")
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 2)
    assert [str(device_of(name)) for name in ("auto", "cuda", "cuda:1")] == ["cuda:0", "cuda:0", "cuda:1"]
    monkeypatch.setenv("LOCAL_RANK", "3")
    assert str(device_of("auto")) == "cuda:1" and str(device_of("cuda:0")) == "cuda:0"
    with pytest.raises(ValueError, match="^device is 'cuda:2', but this machine has 2 CUDA devices; take auto or cpu$"):
        device_of("cuda:2")


@pytest.mark.parametrize("word", ["gpu", "cpu:0", "cuda:", "cuda:x", "mps", ""])
def test_other_words_are_no_devices(word) -> None:
    message = f"device is {word!r}, allowed are auto, cpu, cuda and cuda:0, cuda:1 ..."
    with pytest.raises(ValueError, match=f"^{re.escape(message)}$"):
        device_of(word)


def test_without_a_gpu_cuda_is_refused_and_auto_is_the_cpu(monkeypatch) -> None:
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    assert device_of("auto") == torch.device("cpu")
    with pytest.raises(ValueError, match="^device is 'cuda', but this machine has no CUDA device; take auto or cpu$"):
        finish(evaluate(EvaluateSpec("vim_nano", device="cuda")))


def test_identity_is_content_not_path(tiny_zoo, tmp_path) -> None:
    state = create_model("vim_nano", pretrained=True).state_dict()
    first, second = tmp_path / "a.safetensors", tmp_path / "b.safetensors"
    save_file(state, first)
    save_file(state, second)

    def key(source: str | ModelSource) -> str:
        return digest(identity(SynthesisSpec(source), open_model(source), options={}))

    assert key(ModelSource("vim_nano", str(first))) == key(ModelSource("vim_nano", str(second))) == key("vim_nano")
    save_file({**state, "head.bias": torch.ones(12)}, second)
    assert key(ModelSource("vim_nano", str(second))) != key("vim_nano")
    # the same weights, but other labels of the same folder
    names = tuple(map(str, range(12)))
    keys = {key(ModelSource("vim_nano", class_names=order)) for order in ((), names, names[::-1])}
    assert len(keys) == 3 and key("vim_nano") in keys


def test_the_device_of_a_run_is_part_of_it_unless_it_is_a_cpu(tiny_zoo) -> None:
    model, spec = open_model("vim_nano"), SynthesisSpec("vim_nano")
    assert identity(spec, model, options={}) == identity(replace(spec, device="cpu"), model, options={})
    assert "device" not in identity(spec, model, options={})
    moved = SimpleNamespace(
        device=torch.device("cuda:1"), **{"named_modules": model.named_modules, "state_dict": model.state_dict}
    )
    assert identity(spec, moved, options={})["device"] == "cuda"


def test_what_differs_from_the_variant_is_written_down_and_read_again(tiny_zoo, tmp_path) -> None:
    path = tmp_path / "own.safetensors"
    with torch.random.fork_rng():
        torch.manual_seed(0)
        model = create_model("vim_nano", num_classes=7, image=20, class_names=())
    save_file(model.state_dict(), path)
    source = ModelSource("vim_nano", str(path), (("num_classes", 7), ("image", 20), ("class_names", ())))
    kept = provenance_of(source, open_model(source))
    assert kept["weights"] == str(path) and kept["config"]["num_classes"] == 7
    assert open_model(source_from("vim_nano", kept)).config == model.config


@pytest.mark.parametrize("packed", [False, True], ids=["simulated", "packed"])
def test_a_quantized_file_of_ones_own_model_opens_again(tiny_zoo, tmp_path, packed) -> None:
    path = tmp_path / "own.safetensors"
    with torch.random.fork_rng():
        torch.manual_seed(0)
        model = create_model("vim_nano", num_classes=7, image=20, class_names=())
        torch.nn.init.normal_(model.head.weight)
    save_file(model.state_dict(), path)
    source = ModelSource("vim_nano", str(path), (("num_classes", 7), ("image", 20), ("class_names", ())))
    spec = QuantizeSpec(source, "minmax", "w8a8", calib="noise:2", packed=packed, out=str(tmp_path / "q.safetensors"))
    finish(quantize(spec, root=tmp_path))
    if packed:
        # it holds its own weights
        path.unlink()
    rounded, calibration, opened = open_quantized(spec.out)
    assert opened.name == "vim_nano" and rounded.info.num_classes == 7 and calibration.plan.method == "minmax"
    images = torch.randn(2, 3, 20, 20, generator=torch.Generator().manual_seed(0))
    with torch.no_grad():
        assert (rounded(images) - model(images)).abs().max() < 0.3 * model(images).abs().max()


@pytest.mark.parametrize("packed", [False, True], ids=["simulated", "packed"])
def test_a_quantized_file_is_not_compared_with_other_weights(tiny_zoo, tmp_path, packed) -> None:
    out, own, other = (str(tmp_path / f"{name}.safetensors") for name in ("q", "own", "other"))
    state = create_model("vim_nano", pretrained=True).state_dict()
    save_file(state, own)
    save_file({**state, "head.bias": torch.ones(12)}, other)
    spec = QuantizeSpec(ModelSource("vim_nano", own), "minmax", "w8a8", calib="noise:2", packed=packed, out=out)
    finish(quantize(spec, root=tmp_path))
    asked = EvaluateSpec(ModelSource(out, own), limit=2)
    finish(evaluate(asked))
    said = "this calibration is of vim_nano with weights [0-9a-f]{16}, the model has [0-9a-f]{16}; calibrate again$"
    with pytest.raises(ValueError, match=f"^cannot load {re.escape(out)}: {said}"):
        finish(evaluate(replace(asked, model=ModelSource(out, other))))
    assert opened_beside(ModelSource("vim_nano", own), out, "cpu")[3].plan.method == "minmax"
    with pytest.raises(ValueError, match=said):
        opened_beside(ModelSource("vim_nano", other), out, "cpu")
    # others in the place of those that it was made from
    os.replace(other, own)
    with pytest.raises(ValueError, match=said):
        finish(evaluate(replace(asked, model=ModelSource(out))))


def test_pictures_of_ones_own_calibrate(tiny_zoo, tmp_path) -> None:
    for number in range(5):
        Image.new("RGB", (40, 30), (50 * number, 0, 0)).save(tmp_path / f"{number}.png")
    model = create_model("vim_nano")
    every = calibration_set(f"folder:{tmp_path}", "vim_nano", model, 0).images
    assert every.shape == (5, 3, 28, 28)
    some = calibration_set(f"folder:{tmp_path}:3", "vim_nano", model, 0).images
    assert torch.equal(some, every[:3]) and not torch.equal(
        some, calibration_set(f"folder:{tmp_path}:3", "vim_nano", model, 1).images
    )
    assert torch.equal(calibration_set(f"real:3:folder:{tmp_path}", "vim_nano", model, 0).images, some)
    with pytest.raises(ValueError, match="^9 calibration images were asked for, folder:.* has 5$"):
        calibration_set(f"folder:{tmp_path}:9", "vim_nano", model, 0)


def test_a_registered_set_calibrates_with_so_many_by_default(tiny_zoo) -> None:
    model = create_model("vim_nano")
    assert len(calibration_set("scenes", "vim_nano", model, 0).images) == CALIBRATION
    assert torch.equal(
        calibration_set("scenes:4", "vim_nano", model, 2).images, calibration_set("real:4", "vim_nano", model, 2).images
    )


@pytest.mark.parametrize("name", ["vim_nano", "vmamba_tiny", "vmamba_nano_seg", "vmamba_nano_det", "vmamba_tiny_coco"])
@pytest.mark.parametrize("input_size", [(3, 48, 48), (3, 32, 56)], ids=["square", "wide"])
def test_an_image_file_is_seen_as_in_a_set_of_its_task(name, input_size, tmp_path) -> None:
    info = replace(zoo.small(name).info, input_size=input_size)
    picture = tmp_path / "images" / "x.png"
    for folder in ("images", "masks"):
        (tmp_path / folder).mkdir()
    pixels = torch.randint(256, (50, 90, 3), dtype=torch.uint8, generator=torch.Generator().manual_seed(0))
    Image.fromarray(pixels.numpy()).save(picture)
    Image.new("L", (90, 50)).save(tmp_path / "masks" / "x.png")
    listed = {"images": [{"id": 1, "file_name": "x.png"}], "annotations": [], "categories": [{"id": 1, "name": "a"}]}
    (tmp_path / "list.json").write_text(json.dumps(listed))
    data = {
        "classification": f"folder:{picture.parent}",
        "segmentation": f"masks:{tmp_path}",
        "detection": f"coco:{tmp_path / 'list.json'}",
    }[info.task]
    in_set = open_data(data, "test", info).images(0, 1)[0]
    assert torch.equal(image_file(str(picture), info), in_set)


def test_a_digest_of_data_knows_its_files(tmp_path) -> None:
    root = tmp_path / "set"
    for label in "ab":
        (root / label).mkdir(parents=True)
        Image.new("RGB", (8, 8)).save(root / label / "x.png")
    first = data_digest(f"folder:{root}")
    assert re.fullmatch("[0-9a-f]{16}", first) and data_digest(f"folder:{root}:1") == first
    # what is no picture, is hidden, or leads back is none of the set's
    (root / "a" / "notes.md").touch()
    (root / ".hidden").mkdir()
    Image.new("RGB", (8, 8)).save(root / ".hidden" / "x.png")
    (root / "a" / "loop").symlink_to(root)
    assert data_digest(f"folder:{root}") == first
    # with its times, as cp -a and mv do
    root.rename(tmp_path / "moved")
    root = tmp_path / "moved"
    (root / "a" / "loop").unlink()
    assert data_digest(f"folder:{root}") == first
    changes = (
        lambda: os.utime(root / "a" / "x.png", ns=(0, 1)),
        lambda: (root / "a" / "x.png").rename(root / "a" / "y.png"),
        lambda: (root / "a" / "y.png").rename(root / "b" / "y.png"),
        lambda: (root / "classes.txt").write_text("a"),
        lambda: (root / "b" / "x.png").unlink(),
    )
    found = [first]
    for change in changes:
        change()
        found.append(data_digest(f"folder:{root}"))
    assert len(set(found)) == len(found)
    assert data_digest("scenes") == data_digest("cifar10") == data_digest("noise:3") == ""


def test_a_digest_of_a_list_of_pictures_knows_these(tmp_path) -> None:
    listed = tmp_path / "annotations" / "instances_val.json"
    for folder in ("annotations", "val"):
        (tmp_path / folder).mkdir()
    for name in "xy":
        Image.new("RGB", (8, 8)).save(tmp_path / "val" / f"{name}.png")
    content = {"images": [{"id": 1, "file_name": "x.png"}], "annotations": [], "categories": [{"id": 1, "name": "a"}]}
    listed.write_text(json.dumps(content))
    first = data_digest(f"coco:{listed}")
    os.utime(tmp_path / "val" / "y.png", ns=(0, 1))
    assert data_digest(f"coco:{listed}") == first
    os.utime(tmp_path / "val" / "x.png", ns=(0, 1))
    second = data_digest(f"coco:{listed}")
    listed.write_text(json.dumps(content, indent=1))
    assert len({first, second, data_digest(f"coco:{listed}")}) == 3


def test_one_image_of_a_set_or_a_file(tiny_zoo, tmp_path) -> None:
    info = create_model("vim_nano").info
    Image.new("RGB", (40, 30), (255, 0, 0)).save(tmp_path / "x.png")
    pixels, where = one_image(info, None, str(tmp_path / "x.png"))
    assert pixels.shape == (1, 3, 28, 28) and where == str(tmp_path / "x.png") and int(pixels[0, 0].min()) == 255
    assert one_image(info, 3, None)[1] == "scenes 3"
    assert one_image(info, 0, None, f"folder:{tmp_path}")[0].shape == (1, 3, 28, 28)
    with pytest.raises(ValueError, match="^sample is 1, the test split of folder:.* has 0 to 0$"):
        one_image(info, 1, None, f"folder:{tmp_path}")
    with pytest.raises(ValueError, match="^there is nothing to look at: give a sample or an image file$"):
        one_image(info, None, None)
