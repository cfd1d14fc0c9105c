"""What a model answers to one image, of every task, beside the truth and beside a quantized file."""

from __future__ import annotations

import json
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from PIL import Image
from safetensors.torch import save_file
from typer.testing import CliRunner

from ouro.cli import app
from ouro.data import load, normalize
from ouro.jobs.answers import PICTURES, AnswersSpec, answers
from ouro.jobs.evaluate import opened_beside
from ouro.jobs.quantize import QuantizeSpec, quantize
from ouro.models import zoo
from ouro.tasks import task_of
from ouro.types import ModelSource, Report
from tests.ouro.jobs.running import finish

TASKS = {
    "vim_nano": "classification", "vmamba_nano_seg": "segmentation", "vmamba_nano_det": "detection", "zigma_nano": "diffusion",
}  # fmt: skip
runner = CliRunner()


def shrunk(name: str) -> Any:
    """The config of an embedded model, in miniature."""
    config: Any = getattr(zoo, name).config
    if hasattr(config, "body"):
        body = replace(config.body, width=16, depths=(1, 1))
        return replace(config, body=body, image=32, channels=32)
    return replace(config, width=32, depth=2, **({"image": 28} if name == "vim_nano" else {}))


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    """While it lasts, the four models are random ones in miniature; q_NAME.safetensors is each in four bits."""
    root = tmp_path_factory.mktemp("answers")
    with pytest.MonkeyPatch.context() as patch:
        for name in TASKS:
            config, path = shrunk(name), root / f"{name}.safetensors"
            with torch.random.fork_rng():
                torch.manual_seed(0)
                model = getattr(zoo, name).build(config, name)
                with torch.no_grad():
                    for parameter in model.parameters():
                        if parameter.abs().max() < 1e-3:
                            parameter.normal_(std=0.1)
                    if TASKS[name] == "detection":
                        # so that a few of its boxes are sure enough
                        model.head.classification_head.cls_logits.weight.normal_(std=0.5)
            save_file(model.state_dict(), path)
            patch.setattr(zoo, name, replace(getattr(zoo, name), config=config, weights=str(path)))
            out = str(root / f"q_{name}.safetensors")
            finish(quantize(QuantizeSpec(name, "minmax", "w4a4", calib="real:4", out=out), root=root))
        yield root


def asked(name: str, **changes: Any) -> Report:
    return finish(answers(AnswersSpec(**({"model": name, "sample": 2, "steps": 3} | changes))))[1]


def quantized(folder: Path, name: str) -> str:
    return str(folder / f"q_{name}.safetensors")


@pytest.mark.parametrize("name", TASKS)
def test_every_task_is_answered_by_both(folder: Path, name: str) -> None:
    updates, report = finish(answers(AnswersSpec(name, quantized(folder, name), sample=2, steps=3)))
    values, arrays = report.values, report.arrays
    assert (values["model"], values["task"], values["sample"]) == (name, TASKS[name], 2)
    assert values["beside"] == {"method": "minmax", "bits": "w4a4", "scope": "lin", "calib": "real:4"}
    assert values["truth"] and set(values["answers"]) == {"float", "quantized"} and all(values["answers"].values())
    assert {"image", "truth", "exact", "rounded"} <= set(arrays) and arrays["image"].dtype == torch.uint8
    assert updates[-1].step == updates[-1].total and values["divergence"] > 0
    json.dumps(values, allow_nan=False)
    # a quantized file alone knows its model
    alone = asked(quantized(folder, name))
    assert alone.values["answers"] == values["answers"]
    assert all(torch.equal(alone.arrays[key], arrays[key]) for key in arrays)


@pytest.mark.parametrize("name", TASKS)
def test_a_model_alone_is_compared_with_nothing(folder: Path, name: str) -> None:
    report, both = asked(name), asked(name, beside=quantized(folder, name))
    values = report.values
    assert values["beside"] is values["agreement"] is values["divergence"] is values["answers"]["quantized"] is None
    assert "rounded" not in report.arrays and torch.equal(report.arrays["exact"], both.arrays["exact"])
    assert values["answers"]["float"] == both.values["answers"]["float"]


@pytest.mark.parametrize("name", [name for name in TASKS if name != "zigma_nano"])
def test_answers_are_those_of_the_task(folder: Path, name: str) -> None:
    report = asked(name, beside=quantized(folder, name))
    source, exact, rounded, calibration = opened_beside(ModelSource(name), quantized(folder, name), "cpu")
    task, info = task_of(exact), exact.info
    dataset = load(info.data, size=info.input_size[-1])
    pixels, targets = dataset.images(2, 1)
    with torch.no_grad():
        outputs = [model(normalize(pixels, info.mean, info.std)) for model in (exact, rounded)]
    assert torch.equal(report.arrays["image"], pixels[0]) and calibration is not None and source.name == name
    for key, output in zip(("exact", "rounded"), outputs, strict=True):
        torch.testing.assert_close(report.arrays[key], task.shown(output)[0])
    assert report.values["agreement"] == pytest.approx(task.agreement(*outputs).item())
    assert report.values["truth"] == task.told(targets[0], info)


def test_what_is_drawn_of_each_task(folder: Path) -> None:
    rows = asked("vim_nano").arrays["exact"]
    assert rows.shape == (5, 2) and (rows[:-1, 1] >= rows[1:, 1]).all()
    classes = asked("vmamba_nano_seg").arrays
    assert classes["exact"].shape == classes["truth"].shape == (32, 32) and classes["exact"].dtype == torch.int64
    boxes = asked("vmamba_nano_det").arrays
    assert boxes["exact"].shape[1] == boxes["truth"].shape[1] == 6 and (boxes["truth"][:, 4] >= 0).all()
    assert len(boxes["exact"]) and (boxes["exact"][:, 5] >= 0.3).all()
    pictures = asked("zigma_nano", beside=quantized(folder, "zigma_nano")).arrays
    assert pictures["exact"].shape == pictures["rounded"].shape == (PICTURES, 3, 16, 16)
    assert pictures["exact_strip"].shape == (4, 3, 16, 16) and pictures["times"].tolist() == pytest.approx(
        [0, 1 / 3, 2 / 3, 1]
    )
    assert torch.equal(pictures["exact_strip"][0], pictures["rounded_strip"][0]), "both begin with the same noise"


def test_a_picture_of_ones_own_has_no_truth(folder: Path, tmp_path: Path) -> None:
    path = tmp_path / "own.png"
    Image.new("RGB", (40, 50), (200, 30, 30)).save(path)
    for name in ("vim_nano", "vmamba_nano_seg", "vmamba_nano_det"):
        values = asked(name, sample=None, image=str(path)).values
        assert (
            values["truth"] is None
            and values["image"] == str(path)
            and values["sample"] is None
            and values["data"] == ""
        )
    with pytest.raises(
        ValueError, match="^zigma_nano makes pictures and looks at none; give a sample, it draws one of"
    ):
        asked("zigma_nano", sample=None, image=str(path))


def test_images_of_another_task_have_no_truth(folder: Path) -> None:
    values = asked("vmamba_nano_seg", data="scenes").values
    assert values["truth"] is None and values["data"] == "scenes"


def test_errors_say_what_is_allowed(folder: Path) -> None:
    file = quantized(folder, "vim_nano")
    with pytest.raises(ValueError, match=r"is a quantized file already; give its model's name, or leave beside out$"):
        asked(file, beside=file)
    with pytest.raises(ValueError, match=r"is a quantized vim_nano, not zigma_nano; give a file of zigma_nano$"):
        asked("zigma_nano", beside=file)
    with pytest.raises(ValueError, match="^sample is 9999999, the test split of scenes has 0 to "):
        asked("vim_nano", sample=9999999)
    with pytest.raises(ValueError, match="^there is nothing to look at: give a sample or an image file$"):
        AnswersSpec("vim_nano", sample=None)
    with pytest.raises(ValueError, match="^steps is 0, expected 1 or more$"):
        AnswersSpec("zigma_nano", steps=0)


@pytest.mark.parametrize("name", TASKS)
def test_the_command_prints_and_draws(folder: Path, name: str, tmp_path: Path) -> None:
    out = tmp_path / "answers.png"
    arguments = ["show", name, "--sample", "2", "--steps", "2", "--beside", quantized(folder, name)]
    result = runner.invoke(app, [*arguments, "--out", str(out), "--json"])
    assert result.exit_code == 0, result.stderr
    values = json.loads(result.stdout)
    assert values["path"] == str(out) and values["task"] == TASKS[name] and out.stat().st_size > 5_000
    drawn = runner.invoke(app, arguments)
    lines = drawn.stdout.splitlines()
    assert (
        drawn.exit_code == 0 and lines[0].startswith(f"{name} ({TASKS[name]}) on ") and lines[1].startswith("truth: ")
    )
    assert any(line.startswith("minmax w4a4: ") for line in lines)


def test_the_command_refuses_another_format(folder: Path) -> None:
    result = runner.invoke(app, ["show", "vim_nano", "--out", "answers.txt"])
    assert result.exit_code == 2
    assert result.stderr.strip() == "error: cannot write a picture as 'answers.txt'; use .png, .svg or .pdf"
