"""What is evaluated on another device is what the CPU evaluates, and `comparing` says so part by part."""

import copy

import pytest
import torch

from ouro.evaluate import devices
from ouro.evaluate.accuracy import outcomes
from ouro.evaluate.devices import comparing
from ouro.evaluate.fidelity import fidelity
from ouro.evaluate.quality import coverage, diversity, features, frechet, similarity_density
from ouro.evaluate.sensitivity import MODES, sensitivity
from ouro.evaluate.widths import damages_by_width
from ouro.models import create_model
from ouro.progress import finish
from ouro.quant import attach_calibration, quantize
from ouro.registry import GENERATORS, QUANTIZERS
from tests.devices import assert_same, both, elsewhere
from tests.zoo import inputs

SMALL = {"depth": 1, "image": 16, "patch": 4, "stride": 4, "width": 32, "num_classes": 5}


@pytest.fixture(scope="module")
def model():
    with torch.random.fork_rng():
        torch.manual_seed(0)
        made = create_model("vim_nano", **SMALL)
        with torch.no_grad():
            made.head.weight.normal_(std=0.5)
    return made


@pytest.fixture(scope="module")
def images(model):
    return inputs(model, 4)


LABELS = torch.tensor([0, 1, 2, 0])


def test_accuracy_fidelity_and_quality(model, images):
    calibration = quantize(model, images, method="minmax", bits="w4a4")

    def run(device):
        there = copy.deepcopy(model).to(device)
        rounded = attach_calibration(copy.deepcopy(there), calibration)
        seen = features(there, images)
        return {
            "outcomes": list(outcomes(there, [(images, LABELS)])), "fidelity": fidelity(there, rounded, images),
            "features": seen, "diversity": diversity(seen.to(device), LABELS),
            "coverage": coverage(there, images, images.to(device) + 0.1),
            "density": similarity_density(there, images, bins=8),
        }  # fmt: skip

    assert_same(*both(run))


def test_frechet_distance(model, images):
    """Of few samples it hangs on eigenvalues that are zero but for rounding."""

    def run(device):
        there = copy.deepcopy(model).to(device)
        return frechet(features(there, images).to(device), features(there, images.to(device) * 2))

    here, there = both(run)
    assert there == pytest.approx(here, rel=1e-4)


@pytest.mark.parametrize("mode", MODES)
def test_sensitivity(model, images, mode):
    calibration = quantize(model, images, method="minmax", bits="w4a4")

    def run(device):
        there = copy.deepcopy(model).to(device)
        return finish(sensitivity(there, calibration, images, LABELS, mode=mode, by="group"))

    assert_same(*both(run))


def test_damages_by_width(model, images):
    settings = {"by": "group", "method": "minmax", "bits": "w4a4", "scope": "lin", "seed": 0}
    assert_same(
        *both(lambda device: finish(damages_by_width(copy.deepcopy(model).to(device), images, [3, 8], **settings)))
    )


FEW = ("noise", "ouro"), ("minmax", "ouro")
"""Generators and quantizers of each kind; that all of them are the same elsewhere is tested beside each."""


@pytest.fixture
def few_methods(monkeypatch):
    generators, quantizers = FEW
    monkeypatch.setattr(devices, "GENERATORS", generators)
    monkeypatch.setattr(devices, "QUANTIZERS", quantizers)


def test_every_method_is_a_part():
    assert [part.name for part in devices.parts()] == [
        "forward", "states", "alpha", "alpha_p", *(f"generate {name}" for name in GENERATORS),
        *(f"calibrate {name}" for name in QUANTIZERS), "attached", "packed", "sensitivity",
    ]  # fmt: skip


@pytest.mark.slow
def test_a_device_agrees_with_itself_in_every_part(model, images, few_methods):
    rows = list(comparing(model, "cpu", images, LABELS))
    assert [row["part"] for row in rows] == [part.name for part in devices.parts()]
    assert all(row["max_error"] == 0 and row["passed"] for row in rows), rows
    notes = {row["part"]: row["note"] for row in rows}
    assert notes["attached"].startswith("top1 ") and notes["calibrate minmax"].startswith("KL ")


@pytest.mark.slow
def test_a_device_that_goes_by_the_definitions_agrees_with_the_cpu(model, images, few_methods):
    with elsewhere() as device:
        rows = list(comparing(model, device, images, LABELS))
    assert all(row["passed"] for row in rows), [row for row in rows if not row["passed"]]
    # it did run there: last bits are others
    assert 0 < rows[0]["max_error"] < 1e-5


def test_a_part_that_fails_or_is_off_is_reported_and_the_others_go_on(model, images, monkeypatch):
    def broken(model, case):
        raise RuntimeError("no kernel image\nfor this device")

    def off(model, case):
        return [torch.rand(3)]

    parts = [
        devices._Part("broken", 1.0, broken, devices._largest), devices._Part("off", 1e-3, off, devices._largest),
        devices._Part("forward", 1e-4, devices._forward, devices._largest),
    ]  # fmt: skip
    monkeypatch.setattr(devices, "parts", lambda: iter(parts))
    failed, wrong, fine = comparing(model, "cpu", images)
    message = "RuntimeError: no kernel image"
    assert failed == {"part": "broken", "max_error": None, "tolerance": 1.0, "passed": False, "note": message}
    assert wrong["max_error"] > 1e-3 and not wrong["passed"] and fine["passed"]
