"""Packed files are written, opened and evaluated like any quantized one."""

import copy
import re

import pytest
import torch

from ouro.data import batches
from ouro.data.source import open_data
from ouro.jobs.evaluate import EvaluateSpec, evaluate
from ouro.jobs.inputs import load_quantized
from ouro.jobs.quantize import QuantizeSpec, quantize
from ouro.models import create_model
from ouro.quant.apply import attach_calibration
from ouro.quant.calibrate import quantize as calibrate
from ouro.quant.packed.lower import is_packed, lower
from tests.ouro.jobs.running import finish


@pytest.fixture(scope="module")
def trained():
    """(float model, 16 images for calibration, 48 held-out ones, their labels) of the embedded model."""
    model = create_model("vim_nano", pretrained=True)
    parts = {}
    for split, count in (("calib", 16), ("test", 48)):
        dataset = open_data("scenes", split, model.info)
        parts[split] = next(batches(dataset, count, limit=count, mean=model.info.mean, std=model.info.std))
    return model, parts["calib"][0], *parts["test"]


@pytest.fixture
def written(tiny_zoo, tmp_path):
    """(report's values, path) of a packed miniature."""
    out = tmp_path / "packed.safetensors"
    spec = QuantizeSpec("vim_nano", "minmax", "w4a8", calib="real:6", out=str(out), packed=True)
    return finish(quantize(spec, root=tmp_path))[1].values, out


def test_a_packed_file_is_written_audited_and_opened(written):
    values, out = written
    assert values["audit"] == {"sites": 24, "sealed": True} and values["bytes"] == out.stat().st_size
    assert values["effective_bits"] == {"weights": 4, "activations": 8, "outlier_share": 0, "states": 32}
    packed = values["packed"]
    assert set(packed) == {"ratio", "parts", "load_seconds", "agreement", "max_error"}
    assert sum(packed["parts"].values()) < values["bytes"] and packed["load_seconds"] < 1
    assert packed["agreement"] >= 5 / 6 and packed["max_error"] < 0.2
    model, calibration = load_quantized(out)
    assert is_packed(model) and calibration.plan.bits == "w4a8" and calibration.provenance["calib"] == "real:6"


def test_evaluate_takes_a_packed_file(written):
    values, out = written
    report = finish(evaluate(EvaluateSpec(str(out), limit=16)))[1].values
    assert report["n"] == 16 and (report["method"], report["bits"]) == ("minmax", "w4a8")
    assert report["effective_bits"] == values["effective_bits"]


def test_a_truncated_file_is_refused(written, tmp_path):
    _, out = written
    cut = tmp_path / "cut.safetensors"
    for part in (0.01, 0.5, 0.99):
        cut.write_bytes(out.read_bytes()[: int(part * out.stat().st_size)])
        message = f"cannot load {cut}: {cut} is no readable safetensors file ("
        with pytest.raises(ValueError, match=f"^{re.escape(message)}.*was it cut off[?]$"):
            load_quantized(cut)


def test_unknown_floats_are_refused(tiny_zoo):
    with pytest.raises(ValueError, match="^floats is 'bf16'; known: fp32, fp16$"):
        finish(quantize(QuantizeSpec("vim_nano", packed=True, floats="bf16")))


@pytest.mark.slow
@pytest.mark.parametrize(
    ("method", "bits"),
    [*(pytest.param("minmax", bits, marks=pytest.mark.full) for bits in ("w8a8", "w4a8")), ("ouro", "w4a4o8")],
)
@torch.no_grad()
def test_packed_accuracy_is_that_of_the_simulation(trained, method, bits):
    exact, seen, images, labels = trained
    options = {"steps_per_block": 0} if method == "ouro" else {}
    with torch.enable_grad():
        calibration = calibrate(exact, seen, method=method, bits=bits, **options)
    simulated = attach_calibration(copy.deepcopy(exact), calibration)
    ours, wanted = lower(simulated)(images).argmax(1), simulated(images).argmax(1)
    assert (ours == wanted).float().mean() >= 46 / 48 and (ours == labels).float().mean() > 0.85
