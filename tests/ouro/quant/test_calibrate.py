"""Calibration learns, is repeatable, reports its progress, and refuses what it cannot use."""

import re

import pytest
import torch

from ouro.quant import quantize
from ouro.quant.apply import attach_calibration, detach
from ouro.quant.calibrate import images_digest


def test_learning_brings_blocks_closer_to_the_float_model(model, images):
    errors = {}
    for steps in (0, 10):
        calibration = quantize(model, images, method="ouro", bits="w4a4o8", steps_per_block=steps)
        blocks = calibration.provenance["blocks"]
        # one loss before learning and one after each step
        assert all(len(block["losses"]) == (steps + 1 if steps else 0) for block in blocks)
        assert all(abs(block["error"] - min(block["losses"])) < 1e-6 for block in blocks if steps)
        errors[steps] = [block["error"] for block in blocks]
    assert all(after < before for before, after in zip(errors[0], errors[10], strict=True))


@pytest.mark.parametrize("bits", ["w8a8", "w4a8o16"])
def test_learning_never_makes_a_block_worse(model, images, bits):
    calibration = quantize(model, images, method="ouro", bits=bits, steps_per_block=3, lr_weights=1.0)
    for block in calibration.provenance["blocks"]:
        assert block["error"] <= block["losses"][0] * 1.0001


def test_every_step_size_moves_and_stays_positive(model, images):
    before = quantize(model, images, method="ouro", scope="ssm", steps_per_block=0).state
    after = quantize(model, images, method="ouro", scope="ssm", steps_per_block=2).state
    # later blocks start from other inputs, so only the first one is compared
    for path in (path for path in before if path.startswith("layers.0.")):
        assert not torch.equal(before[path]["scale"], after[path]["scale"]), path
    assert all((state["scale"] > 0).all() for state in after.values())


def test_same_images_same_calibration(model, images):
    first, second = (quantize(model, images, method="ouro", steps_per_block=1) for _ in range(2))
    assert first.set_digest == second.set_digest == images_digest(images)
    for path, state in first.state.items():
        assert all(torch.equal(value, second.state[path][name]) for name, value in state.items()), path


def test_progress_reports_every_block(model, images):
    updates = []
    quantize(model, images, method="minmax", progress=updates.append)
    assert [(update.step, update.total) for update in updates] == [(1, 2), (2, 2)]
    assert updates[0].message.startswith("layers.0: cosine distance ")


def test_plan_leaves_out_an_idle_outlier_width(model, images):
    calibration = quantize(model, images, method="clipped", bits="w4a4o8")
    assert calibration.plan.bits == "w4a4" and calibration.provenance["requested_bits"] == "w4a4o8"
    assert calibration.plan.options == {"norm": 2.4, "candidates": 100, "steps_per_block": 0}
    assert all(spec.outlier_bits is None for spec in calibration.plan.sites.values())
    assert quantize(model, images, method="ouro", bits="w4a4o8", steps_per_block=0).plan.bits == "w4a4o8"


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"method": "mimax"}, "unknown quantization method 'mimax' (did you mean 'minmax'?); known: "),
        ({"bits": "w4"}, "bits 'w4' cannot be read; "),
        ({"scope": "all"}, "unknown scope 'all'; known: lin, ssm, rec, full"),
        ({"method": "minmax", "kappa": 3}, "method 'minmax' has no option 'kappa'; known: none"),
        ({"method": "clipped", "kappa": 3}, "method 'clipped' has no option 'kappa'; known: norm, candidates, "),
        ({"method": "ouro", "theta": "offline"}, "theta is 'offline'; known: online, calibrated"),
        ({"method": "ouro", "refresh": 0}, "refresh is 0, expected 1 or more"),
    ],
)
def test_wrong_names_are_refused(model, images, options, message):
    with pytest.raises(ValueError, match=f"^{re.escape(message)}"):
        quantize(model, images, **options)


def broken(images):
    return torch.where(torch.arange(28) == 3, torch.nan, images)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda x: x[:, :, :14], "calibration images are (8, 3, 14, 28), expected (s, 3, 28, 28) with s of 1 or more"),
        (lambda x: x[:0], "calibration images are (0, 3, 28, 28), expected (s, 3, 28, 28) with s of 1 or more"),
        (lambda x: x.to(torch.uint8), "calibration images are torch.uint8, expected normalized floats; see "),
        (broken, "calibration images hold NaN or infinity; was their synthesis stopped early?"),
    ],
    ids=["shape", "none", "integers", "nan"],
)
def test_unusable_images_are_refused(model, images, change, message):
    with pytest.raises(ValueError, match=f"^{re.escape(message)}"):
        quantize(model, change(images), method="minmax")


def test_a_quantized_model_is_refused(model, images):
    calibration = quantize(model, images, method="minmax")
    attach_calibration(model, calibration)
    with pytest.raises(ValueError, match=r"already has a quantizer; detach\(model\) first$"):
        quantize(model, images, method="minmax")
    detach(model)
