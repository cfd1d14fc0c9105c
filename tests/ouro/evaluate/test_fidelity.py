"""SQNR and cosine are what their names say, tap by tap."""

import copy
import math

import pytest
import torch

from ouro.evaluate.fidelity import Fidelity, compare, fidelity
from ouro.models import create_model
from ouro.quant import quantize
from ouro.quant.apply import attach_calibration


def test_equal_tensors_have_infinite_sqnr():
    x = torch.randn(3, 4)
    assert compare(x, x).sqnr_db == math.inf
    assert compare(x, x).cosine == pytest.approx(1)


def test_ten_percent_noise_is_twenty_decibels():
    x = torch.ones(2, 8)
    assert compare(x, 1.1 * x).sqnr_db == pytest.approx(20, abs=1e-4)
    assert compare(x, 1.1 * x).cosine == pytest.approx(1)
    assert compare(x, -x).cosine == pytest.approx(-1)
    assert compare(torch.zeros(2, 2), torch.ones(2, 2)) == Fidelity(-math.inf, 0)


def test_shapes_must_agree():
    with pytest.raises(ValueError, match=r"^cannot compare a tensor of \(2,\) with one of \(1,\)$"):
        compare(torch.ones(1), torch.ones(2))


def test_more_bits_are_more_faithful_at_every_block():
    torch.manual_seed(0)
    model = create_model("vim_nano", width=32, depth=2, image=28)
    images = torch.randn(4, 3, 28, 28, generator=torch.Generator().manual_seed(1))
    result = {}
    for bits in ("w4a4", "w8a8"):
        rounded = attach_calibration(copy.deepcopy(model), quantize(model, images, method="clipped", bits=bits))
        result[bits] = fidelity(model, rounded, images)
    assert list(result["w4a4"]) == ["layers.0.tap_out", "layers.1.tap_out", "logits"]
    for path, coarse in result["w4a4"].items():
        assert result["w8a8"][path].sqnr_db > coarse.sqnr_db + 12
        assert result["w8a8"][path].cosine > coarse.cosine
    assert list(fidelity(model, rounded, images, "layers.1.*.tap_u")) == [
        "layers.1.mixer.scans.0.tap_u", "layers.1.mixer.scans.1.tap_u", "logits",
    ]  # fmt: skip


def test_steps_between_stages_are_no_blocks():
    model = create_model("vmamba_tiny", width=16, depths=(1, 1), image=32, num_classes=3)
    images = torch.randn(1, 3, 32, 32, generator=torch.Generator().manual_seed(1))
    result = fidelity(model, copy.deepcopy(model), images)
    assert list(result) == ["stages.0.blocks.0.tap_out", "stages.1.blocks.0.tap_out", "logits"]


def test_zeros_that_stand_for_zeros_are_no_loss():
    exact = torch.tensor([[0.0, 0.0], [3.0, 4.0]])
    assert compare(exact, exact) == Fidelity(float("inf"), 1.0)
    assert compare(exact, 2 * exact).cosine == pytest.approx(1.0)
    assert compare(exact, exact + torch.tensor([[1.0, 0.0], [0.0, 0.0]])).cosine == pytest.approx(0.5)
