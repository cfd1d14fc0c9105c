"""Calibration learns, is repeatable, reports its progress, and refuses what it cannot use."""

import copy
import re

import pytest
import torch

from ouro.quant import quantize
from ouro.quant.apply import attach_calibration, detach, from_tensors, to_tensors
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


SITE = "layers.0.mixer.in_proj.tap_in"


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
        ({"bits": 8}, "bits 8 cannot be read; "),
        ({"seed": -1}, "seed is -1, expected a whole number from 0 to 2^53 - 1"),
        ({"site_bits": {SITE: 1}}, f"{SITE!r} is to be kept at 1 bits, expected 2 to 8, or 32 for float"),
        ({"site_bits": {SITE: 16}}, f"{SITE!r} is to be kept at 16 bits, expected 2 to 8, or 32 for float"),
        (
            {"channels": {SITE: {3: 1}}},
            f"channel 3 of {SITE!r} is to be kept at 1 bits, expected 2 to 8, or 32 for float",
        ),
        ({"channels": {SITE: {-1: 8}}}, f"a channel of {SITE!r} is -1, expected 0 or more"),
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
        (
            lambda x: (255 * x).clamp(0, 255),
            "calibration images reach from 0 to 255 and look like pixels, white is ",
        ),
        (
            list,
            "calibration images are a list, expected a tensor (s, 3, 28, 28); of a set give its .images, of batches ",
        ),
    ],
    ids=["shape", "none", "integers", "nan", "pixels", "list"],
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


@pytest.mark.parametrize("context", [torch.no_grad, torch.inference_mode])
def test_learning_does_not_mind_whether_its_caller_has_gradients(model, images, context):
    wanted = quantize(model, images, method="ouro", bits="w4a4o8", steps_per_block=2)
    with context():
        calibration = quantize(model, images.clone(), method="ouro", bits="w4a4o8", steps_per_block=2)
    assert all(
        torch.equal(x, wanted.state[path][name]) for path, at in calibration.state.items() for name, x in at.items()
    )


def test_a_calibration_of_a_model_in_float64_can_be_stored_and_read(model, images):
    double = copy.deepcopy(model).double()
    calibration = quantize(double, images, method="ouro", bits="w4a4o8", steps_per_block=1)
    read = from_tensors(*to_tensors(calibration))
    logits = attach_calibration(double, read)(images.double())
    assert logits.dtype == torch.float64 and logits.isfinite().all()
