"""Whole models on the definitions of the kernels run on any device, and so does their gate."""

import copy
from dataclasses import asdict

import pytest
import torch

from ouro.fused.gate import FORMATS, calibrated, check, fused_of, noise_images, tiny
from tests.devices import assert_same, both


@pytest.fixture(scope="module")
def model():
    return tiny("vim_tiny_patch16_224")


@pytest.mark.parametrize("format", FORMATS.values(), ids=FORMATS)
def test_a_fused_model_elsewhere_is_its_definition(model, format):
    images = noise_images(model, 3)

    def run(device):
        there = copy.deepcopy(model).to(device)
        simulated = calibrated(there, format, noise_images(there, 4, seed=1))
        fused = fused_of(simulated, format, "reference")
        with torch.no_grad():
            logits = fused(images.to(device)).cpu()
        return [logits, asdict(check(there, simulated, fused, format, images))]

    here, there = both(run)
    assert_same(here, there)
    assert there[1]["passed"], there[1]["complaint"]
