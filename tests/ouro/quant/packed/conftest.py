"""Calibrated models to be packed, each made once."""

import copy

import pytest

from ouro.quant import attach_calibration, quantize
from ouro.taps import detach

CASES = {
    "minmax w8a8": {"method": "minmax", "bits": "w8a8"},
    "dynamic w4a8": {"method": "dynamic", "bits": "w4a8"},
    "ouro w4a8": {"method": "ouro", "bits": "w4a8", "steps_per_block": 1},
    "ouro w4a4o8": {"method": "ouro", "bits": "w4a4o8", "steps_per_block": 1},
    "ouro w3a5o16": {"method": "ouro", "bits": "w3a5o16", "theta": "calibrated", "steps_per_block": 0},
    "smoothquant w6a8": {"method": "smoothquant", "bits": "w6a8"},
    "ouro w4a4o8, ssm": {"method": "ouro", "bits": "w4a4o8", "scope": "ssm", "steps_per_block": 0},
    "minmax w4a8, full": {"method": "minmax", "bits": "w4a8", "scope": "full"},
}


@pytest.fixture(scope="session", params=CASES, ids=str)
def quantized(request, tiny_model, images):
    """(simulated model, calibration) of each case."""
    float_model = copy.deepcopy(detach(tiny_model))
    calibration = quantize(float_model, images, **CASES[request.param])
    return attach_calibration(float_model, calibration).eval(), calibration


@pytest.fixture(scope="session")
def small(tiny_model, images):
    """(simulated model, calibration), the quickest case."""
    float_model = copy.deepcopy(detach(tiny_model))
    calibration = quantize(float_model, images, method="minmax", bits="w4a8")
    return attach_calibration(float_model, calibration).eval(), calibration
