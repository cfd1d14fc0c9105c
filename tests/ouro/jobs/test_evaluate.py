"""The job counts the same images for the quantized and the float model, and says with what certainty."""

import re

import pytest
import torch
from safetensors.torch import save_file

from ouro.jobs.evaluate import EvaluateSpec, evaluate
from ouro.jobs.quantize import QuantizeSpec, quantize
from ouro.models import create_model
from ouro.tasks.classification import wilson
from ouro.types import ModelSource
from tests.ouro.jobs.running import finish

KEYS = (
    "model", "task", "metric", "method", "bits", "scope", "calib", "data", "n", "top1", "ci95", "fp_top1", "effective_bits", "seconds",
    "device", "seed", "transform", "weights", "ranks",
)  # fmt: skip


@pytest.fixture
def quantized(tiny_zoo, tmp_path):
    spec = QuantizeSpec("vim_nano", "dynamic", "w8a8", calib="noise:2", out=str(tmp_path / "q.safetensors"))
    return finish(quantize(spec, root=tmp_path))[1].values["path"]


def test_float_model(tiny_zoo):
    updates, report = finish(evaluate(EvaluateSpec("vim_nano", limit=25, batch=10)))
    values = report.values
    assert tuple(values) == KEYS
    assert [(update.step, update.total) for update in updates] == [(10, 25), (20, 25), (25, 25)]
    assert (values["method"], values["bits"], values["scope"], values["data"]) == ("float", "w32a32", None, "scenes")
    assert values["top1"] == values["fp_top1"] == int(report.arrays["right"].sum()) / 25
    assert values["effective_bits"] == {"weights": 32, "activations": 32, "outlier_share": 0, "states": 32}
    assert values["ci95"] == list(wilson(int(report.arrays["right"].sum()), 25))


def test_a_classifier_says_what_it_takes_each_image_for(quantized):
    arrays = finish(evaluate(EvaluateSpec(quantized, limit=25, batch=10)))[1].arrays
    assert set(arrays) == {"right", "fp_right", "answers", "fp_answers", "labels"}
    for side in ("", "fp_"):
        assert torch.equal(arrays[f"{side}answers"] == arrays["labels"], arrays[f"{side}right"])
    exact = finish(evaluate(EvaluateSpec("vim_nano", limit=25)))[1].arrays
    assert torch.equal(arrays["fp_answers"], exact["answers"]) and len(set(exact["labels"].tolist())) > 1


def test_where_weights_came_from_is_reported(tiny_zoo, tmp_path):
    weights = create_model("vim_nano", pretrained=True).state_dict()
    torch.save({"model_ema": weights, "epoch": 3}, tmp_path / "x.pth")
    _, report = finish(evaluate(EvaluateSpec(ModelSource("vim_nano", str(tmp_path / "x.pth")), limit=5)))
    taken = report.values["weights"]
    assert (taken["source"], taken["container"]) == (str(tmp_path / "x.pth"), "model_ema")
    embedded = finish(evaluate(EvaluateSpec("vim_nano", limit=5)))[1]
    assert embedded.values["weights"]["source"] == str(tiny_zoo) and len(taken["revision"]) == 12
    assert torch.equal(report.arrays["right"], embedded.arrays["right"])
    assert report.values["ranks"] == 1 and report.values["transform"]["crop_pct"] is None


def test_a_quantized_file_finds_weights_of_ones_own(tiny_zoo, tmp_path):
    own = tmp_path / "own.safetensors"
    state = create_model("vim_nano", pretrained=True).state_dict()
    save_file({**state, "head.bias": torch.linspace(-1, 1, 12)}, own)
    source, out = ModelSource("vim_nano", str(own)), str(tmp_path / "q.safetensors")
    finish(quantize(QuantizeSpec(source, "dynamic", "w8a8", calib="noise:2", out=out), root=tmp_path))
    report = finish(evaluate(EvaluateSpec(out, limit=20)))[1]
    exact = finish(evaluate(EvaluateSpec(source, limit=20)))[1]
    assert torch.equal(report.arrays["fp_right"], exact.arrays["right"])
    assert report.values["weights"]["source"] == str(own)
    moved = own.rename(tmp_path / "moved.safetensors")
    with pytest.raises(
        ValueError, match=r"lay at .*own\.safetensors and are not there; say where they are with --weights$"
    ):
        finish(evaluate(EvaluateSpec(out, limit=2)))
    again = finish(evaluate(EvaluateSpec(ModelSource(out, str(moved)), limit=20)))[1]
    assert torch.equal(again.arrays["right"], report.arrays["right"])
    with pytest.raises(ValueError, match="this calibration is of vim_nano with weights"):
        finish(evaluate(EvaluateSpec(ModelSource(out, str(tiny_zoo)), limit=2)))


def test_a_quantized_file_knows_its_model(quantized):
    message = f"{quantized!r} is a quantized file, which knows its model; leave out config and class names"
    with pytest.raises(ValueError, match=f"^{re.escape(message)}$"):
        finish(evaluate(EvaluateSpec(ModelSource(quantized, config=(("image", 28),)), limit=2)))


def test_quantized_file(quantized):
    _, report = finish(evaluate(EvaluateSpec(quantized, limit=20)))
    values = report.values
    assert (values["model"], values["method"], values["bits"], values["calib"]) == (
        "vim_nano", "dynamic", "w8a8", "noise:2",
    )  # fmt: skip
    assert values["effective_bits"] == {"weights": 8, "activations": 8, "outlier_share": 0, "states": 32}
    _, exact = finish(evaluate(EvaluateSpec("vim_nano", limit=20)))
    assert values["fp_top1"] == exact.values["top1"]
    assert torch.equal(report.arrays["fp_right"], exact.arrays["right"])


def test_batch_size_does_not_change_who_is_right(quantized):
    outcomes = [
        finish(evaluate(EvaluateSpec(quantized, limit=20, batch=batch)))[1].arrays["right"] for batch in (1, 7, 20)
    ]
    assert torch.equal(outcomes[0], outcomes[1]) and torch.equal(outcomes[0], outcomes[2])


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"model": "nothing.safetensors"}, "'nothing.safetensors' is neither a model (known: "),
        ({"data": "digits"}, "digits has 10 classes, vim_nano has 12"),
        (
            {"data": "imagenet"},
            "unknown data set 'imagenet'; known: real, noise, synthetic, scenes, scenes_seg, scenes_det, digits, cifar10, folder",
        ),
        ({"data": "folder"}, "data set 'folder' lacks its PATH; "),
        ({"limit": 0}, "limit is 0, expected 1 or more"),
        ({"batch": -1}, "batch is -1, expected 1 or more"),
    ],
    ids=["model", "classes", "data", "folder", "limit", "batch"],
)
def test_wrong_use_is_refused(tiny_zoo, change, message):
    with pytest.raises(ValueError, match=f"^{re.escape(message)}"):
        finish(evaluate(EvaluateSpec(**({"model": "vim_nano", "limit": 2} | change))))


def test_another_safetensors_file_is_no_model(tiny_zoo, tmp_path):
    save_file({"images": torch.zeros(1)}, tmp_path / "set.safetensors")
    with pytest.raises(ValueError, match=r"^cannot load .*set\.safetensors: this is no quantized model: its format is"):
        finish(evaluate(EvaluateSpec(str(tmp_path / "set.safetensors"))))


def test_nan_weights_are_a_failure(tiny_zoo):
    model = create_model("vim_nano", pretrained=True)
    save_file({**model.state_dict(), "head.bias": torch.full((12,), torch.nan)}, tiny_zoo)
    # a checkpoint with NaN is refused when loaded, or its logits are when evaluated
    with pytest.raises((RuntimeError, ValueError), match="NaN"):
        finish(evaluate(EvaluateSpec("vim_nano", limit=2)))
