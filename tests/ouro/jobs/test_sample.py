"""The whole journey of a denoiser through the jobs: quantized over diffusion time, scored, ranked, drawn side by side."""

from __future__ import annotations

import json
from dataclasses import replace

import pytest
import torch
from PIL import Image
from safetensors.torch import save_file
from typer.testing import CliRunner

from ouro.cli import app
from ouro.jobs.bench.compare import CompareSpec, compare
from ouro.jobs.calibration import calibration_set
from ouro.jobs.evaluate import EvaluateSpec, evaluate
from ouro.jobs.quantize import QuantizeSpec, quantize
from ouro.jobs.sample import GAP, SCALE, SampleSpec, sample, sheet
from ouro.jobs.sensitivity import SensitivitySpec, measure_sensitivity
from ouro.jobs.synthesize import SynthesisSpec, synthesize
from ouro.models import create_model, zoo
from tests.ouro.jobs.running import finish

SIDE = (16 + GAP) * SCALE
"""What a picture takes of a sheet, in pixels."""


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """While it lasts, "zigma_nano" is two random blocks of 32 channels."""
    root = tmp_path_factory.mktemp("denoiser")
    with pytest.MonkeyPatch.context() as patch:
        config = replace(zoo.zigma_nano.config, width=32, depth=2)
        path = root / "tiny.safetensors"
        with torch.random.fork_rng():
            torch.manual_seed(0)
            model = zoo.zigma_nano.build(config, "zigma_nano")
            with torch.no_grad():
                for parameter in model.parameters():
                    if parameter.abs().max() < 1e-3:
                        parameter.normal_(std=0.1)
        save_file(model.state_dict(), path)
        patch.setattr(zoo, "zigma_nano", replace(zoo.zigma_nano, config=config, weights=str(path)))
        yield root


@pytest.fixture(scope="module")
def quantized(folder) -> str:
    spec = QuantizeSpec("zigma_nano", "minmax", "w4a4", calib="real:8", out=str(folder / "q.safetensors"))
    _, report = finish(quantize(spec, root=folder))
    assert report.values["audit"]["sealed"] and report.values["n"] == 8
    return spec.out or ""


@pytest.mark.parametrize("calib", ["real:6", "noise:6", "synthetic:6"])
def test_every_calibration_set_has_times_and_classes(folder, calib: str) -> None:
    model = create_model("zigma_nano", pretrained=True)
    made = calibration_set(calib, "zigma_nano", model, 1, root=folder)
    again = calibration_set(calib, "zigma_nano", model, 1, root=folder)
    t, y = made.conditions
    assert made.images.shape == (6, 3, 16, 16) and t.shape == y.shape == (6,) and len(set(t.tolist())) > 3
    assert t.min() >= 0 and t.max() < 1 and y.dtype == torch.int64 and made.provenance["calib"] == calib
    assert torch.equal(made.images, again.images) and torch.equal(t, again.conditions[0])


def test_a_denoiser_is_scored_by_its_pictures(folder, quantized) -> None:
    _, report = finish(evaluate(EvaluateSpec(quantized, limit=9, batch=4)))
    values = report.values
    assert values["n"] == 9 and values["data"] == "digits" and values["method"] == "minmax"
    assert values["frechet"] > 0 and values["floor"] > 0 and values["fp_frechet"] > 0
    assert 0 <= values["recognized"] <= 1 and values["real_recognized"] > 0.8
    json.dumps(values, allow_nan=False)


def test_sites_are_ranked_by_the_error_of_the_velocity(folder) -> None:
    spec = SensitivitySpec("zigma_nano", "minmax", "w4a4", calib="real:8", by="group", limit=6)
    _, report = finish(measure_sensitivity(spec, root=folder))
    assert report.values["whole"]["kl"] > 0 and report.values["fp_frechet"] is None
    assert report.values["whole"]["frechet_drop"] is None
    damages = [row["kl"] for row in report.values["rows"]]
    assert damages == sorted(damages, reverse=True) and damages[0] > 0
    json.dumps(report.values, allow_nan=False)


@pytest.mark.full
def test_methods_and_widths_are_compared(folder) -> None:
    spec = CompareSpec(
        "zigma_nano", ("minmax", "dynamic"), ("w8a8", "w4a4o8"), (("real", "real:8"),), seeds=(0,), limit=8
    )
    _, report = finish(compare(spec, root=folder))
    assert [row["bits"] for row in report.values["rows"]] == ["w8a8", "w8a8", "w4a4o8", "w4a4o8"]
    assert all(row["frechet"] > 0 for row in report.values["rows"])


def test_packed_and_budgeted_files_come_from_the_same_states(folder) -> None:
    spec = QuantizeSpec("zigma_nano", "minmax", "w8a8", calib="synthetic:4", packed=True)
    values = finish(quantize(spec, root=folder))[1].values
    assert values["packed"]["agreement"] > 0.99
    spec = QuantizeSpec("zigma_nano", "minmax", "w8a8", calib="real:4", budget=6.0, by="group")
    values = finish(quantize(spec, root=folder))[1].values
    assert values["measured_kl"] >= 0 and values["mean_bits"]["weights"] <= 6


def test_pictures_of_both_models_begin_with_the_same_noise(folder, quantized) -> None:
    updates, report = finish(sample(SampleSpec(quantized, num=10, steps=3, sampler="euler", classes=(1, 4))))
    arrays, values = report.arrays, report.values
    assert arrays["samples"].shape == arrays["quantized"].shape == (10, 3, 16, 16)
    assert arrays["strip"].shape == (4, 3, 16, 16) and arrays["times"].tolist() == pytest.approx([0, 1 / 3, 2 / 3, 1])
    assert torch.equal(arrays["strip"][0], arrays["quantized_strip"][0])
    assert torch.equal(arrays["strip"][-1], arrays["samples"][0]) and values["classes"] == [1, 4] * 5
    assert values["method"] == "minmax" and values["difference"] > 0 and values["judge"] == "vim_nano_digits"
    assert set(values["recognized"]) == {"float", "quantized"} and updates[-1].step == updates[-1].total
    beside = finish(sample(SampleSpec("zigma_nano", quantized, num=10, steps=3, sampler="euler", classes=(1, 4))))[1]
    assert torch.equal(beside.arrays["quantized"], arrays["quantized"])
    fewer = finish(sample(SampleSpec("zigma_nano", num=3, steps=3, sampler="euler", classes=(1, 4))))[1]
    gap = fewer.arrays["samples"].int() - arrays["samples"][:3].int()
    assert gap.abs().max() <= 1 and "quantized" not in fewer.arrays and fewer.values["difference"] is None
    # two rows of eight, float above quantized
    picture = sheet(arrays)
    assert picture.size == (8 * SIDE, 4 * SIDE)
    assert picture.getpixel((SCALE // 2, SCALE // 2)) == tuple(arrays["samples"][0, :, 0, 0].tolist())
    assert picture.getpixel((SCALE // 2, SIDE + 1)) == tuple(arrays["quantized"][0, :, 0, 0].tolist())
    assert picture.getpixel((8 * SIDE - 1, 4 * SIDE - 1)) == (255, 255, 255)


def test_the_command_writes_a_picture(folder, quantized) -> None:
    out = folder / "pictures.png"
    arguments = ["sample", "zigma_nano", "--num", "3", "--steps", "2", "--guidance", "1.5", "--out", str(out)]
    result = CliRunner().invoke(app, [*arguments, "--beside", quantized, "--json"])
    assert result.exit_code == 0, result.output
    values = json.loads(result.stdout)
    assert values["guidance"] == 1.5 and values["path"] == str(out) and values["classes"] == [0, 1, 2]
    with Image.open(out) as picture:
        assert picture.size == (3 * SIDE, 2 * SIDE)
    drawn = CliRunner().invoke(app, arguments)
    assert drawn.exit_code == 0 and "3 pictures of zigma_nano (heun, 2 steps, guidance 1.5)" in drawn.stdout


def test_errors_say_what_is_allowed(folder, quantized) -> None:
    def refused(**changes):
        return finish(sample(SampleSpec(**{"model": "zigma_nano", "num": 1, "steps": 1} | changes)))

    with pytest.raises(
        ValueError, match="^vim_nano_digits is for classification and makes no pictures; take a denoiser"
    ):
        refused(model="vim_nano_digits")
    with pytest.raises(ValueError, match="^zigma_nano has no class 10; allowed: 0 to 9$"):
        refused(classes=(3, 10))
    with pytest.raises(ValueError, match="is a quantized file already; give its model's name, or leave beside out$"):
        refused(model=quantized, beside=quantized)
    with pytest.raises(ValueError, match="^unknown sampler 'dopri5'; known: euler, heun$"):
        SampleSpec("zigma_nano", sampler="dopri5")
    with pytest.raises(ValueError, match="^steps is 0, expected 1 or more$"):
        SampleSpec("zigma_nano", steps=0)
    with pytest.raises(ValueError, match="^zigma_nano makes images itself, none are optimized for it; to calibrate on"):
        finish(synthesize(SynthesisSpec("zigma_nano", num=1), root=folder))
    result = CliRunner().invoke(app, ["sample", "zigma_nano", "--out", "pictures.svg"])
    assert result.exit_code == 2 and "cannot write pictures as 'pictures.svg'; use .png" in result.output
