"""Calibration, quantizers and packed codes on another device: the same bits, and a calibration that is on the CPU."""

import copy

import pytest
import torch

from ouro.models import create_model
from ouro.quant import attach_calibration, quantize
from ouro.quant.apply import add_counts, counting, counts, effective_bits, weights_digest
from ouro.quant.audit import audit
from ouro.quant.packed.files import packed_tensors, restore
from ouro.quant.packed.lower import is_packed, lower
from ouro.registry import QUANTIZERS
from ouro.types import Calibration
from tests.devices import assert_same, both, elsewhere
from tests.zoo import inputs, small

SMALL = {"depth": 1, "image": 16, "patch": 4, "stride": 4, "width": 32, "num_classes": 5}
FEW = {"candidates": 3}
OPTIONS = {
    "clipped": [{"steps_per_block": 1, **FEW}],
    "dynamic": [FEW],
    "qmamba": [FEW],
    "brecq": [{"iterations": 2, "activation_steps": 1, **FEW}],
    "ptq4vm": [{"steps_per_block": 1, **FEW}],
    "kscale": [{}, {"h_scale": "shared", "per_channel": False, "reparam": False}],
    "ouro": [
        {"steps_per_block": 1, **FEW},
        {"steps_per_block": 0, "outlier_steps": "channel", "theta": "calibrated", "reparam": True, **FEW},
    ],
}
# what keeps ranges, columns, outliers and codes; the others are made of the same parts
SPREAD = ("minmax", "kscale", "ouro", "ptq4vm")
CASES = [
    pytest.param(
        method, options, id=f"{method}-{number}", marks=[pytest.mark.full] * (number > 0 or method not in SPREAD)
    )
    for method in QUANTIZERS
    for number, options in enumerate(OPTIONS.get(method, [{}]))
]


@pytest.fixture(scope="module")
def model():
    with torch.random.fork_rng():
        torch.manual_seed(0)
        made = create_model("vim_nano", **SMALL)
        with torch.no_grad():
            made.layers[0].norm.weight[:2] *= 12
    return made


@pytest.fixture(scope="module")
def images(model):
    return inputs(model)


def journey(model, images, device, **settings):
    """What comes of a model on a device: its calibration, the logits of it attached and packed, counts, the audit."""
    there = copy.deepcopy(model).to(device)
    calibration = quantize(there, images, scope="full", **settings)
    digest = weights_digest(there)
    attach_calibration(there, calibration)
    with torch.no_grad(), counting(there):
        logits = there(images.to(device))
    counted = counts(there)
    add_counts(there, counted)
    packed = lower(there)
    with torch.no_grad():
        from_codes = packed(images.to(device))
    return {
        "calibration": calibration, "digest": digest, "logits": logits.cpu(), "counts": counted,
        "bits": effective_bits(there), "audit": audit(there, images, calibration.plan), "packed": from_codes.cpu(),
        "file": packed_tensors(packed, calibration) if is_packed(packed) else None,
    }  # fmt: skip


@pytest.mark.parametrize(("method", "options"), CASES)
def test_a_method_calibrates_and_rounds_elsewhere_as_on_the_cpu(model, images, method, options):
    here, there = both(
        lambda device: journey(model, images, device, method=method, bits="w4a4o8h8", **options),
    )
    assert_same(here, there)
    assert there["audit"]["sealed"], there["audit"]["failures"]


@pytest.mark.full
def test_grouped_scans_and_dense_convolutions_do_as_well():
    model = small("vmamba_nano")
    assert_same(*both(lambda device: journey(model, inputs(model, 1), device, method="minmax", bits="w4a4h8")))


def test_a_calibration_of_the_cpu_serves_a_model_elsewhere_and_back(model, images):
    calibration = quantize(model, images, method="minmax", scope="full", bits="w8a8")
    with torch.no_grad():
        wanted = attach_calibration(copy.deepcopy(model), calibration)(images)
    with elsewhere() as device, torch.no_grad():
        there = attach_calibration(copy.deepcopy(model).to(device), calibration)
        assert torch.allclose(there(images.to(device)).cpu(), wanted, atol=1e-4)
        assert torch.equal(there.cpu()(images), wanted)


def test_a_packed_file_opens_on_a_model_elsewhere(model, images):
    simulated = copy.deepcopy(model)
    calibration = quantize(simulated, images, method="smoothquant", scope="full", bits="w4a8")
    packed = lower(attach_calibration(simulated, calibration))
    tensors, metadata = packed_tensors(packed, calibration)
    with torch.no_grad():
        wanted = packed(images)
    with elsewhere() as device, torch.no_grad():
        there, again = restore(create_model("vim_nano", **SMALL).to(device), tensors, metadata)
        assert {x.device for x in there.state_dict().values()} == {device}
        assert torch.allclose(there(images.to(device)).cpu(), wanted, atol=1e-4)
    assert isinstance(again, Calibration) and again.plan == calibration.plan
