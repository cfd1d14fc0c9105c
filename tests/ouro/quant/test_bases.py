"""Rounding in another basis changes nothing until something is rounded."""

from __future__ import annotations

import pytest
import torch
from torch.nn import functional as F

from ouro.models.layers import Linear
from ouro.quant.method import Block
from ouro.quant.methods.smooth import factors, smoothing
from ouro.quant.quantizer import Quantizer
from ouro.quant.rotation import rotation
from ouro.types import QuantSpec
from tests.testing import assert_close


@pytest.mark.parametrize("size", [1, 2, 3, 12, 64, 96, 192, 197, 384])
def test_rotation_is_orthogonal(size):
    matrix = rotation(size)
    assert_close(matrix @ matrix.T, torch.eye(size), rtol=0, atol=2e-6, name="R R^T")


def test_rotation_spreads_one_large_channel_evenly():
    x = torch.zeros(64)
    x[5] = 8.0
    assert_close((x @ rotation(64)).abs(), torch.ones(64), rtol=1e-6, atol=1e-6, name="size")


@pytest.mark.parametrize("rotate", [False, True], ids=["plain", "rotated"])
@pytest.mark.parametrize("smooth", [False, True], ids=["even", "smoothed"])
def test_a_linear_layer_is_the_same_in_every_basis(rotate, smooth):
    draw = torch.Generator().manual_seed(0)
    layer = Linear(24, 7, bias=False)
    x = torch.randn(2, 5, 24, generator=draw)
    state = {"smooth": torch.rand(24, generator=draw) + 0.1} if smooth else {}
    spec = QuantSpec(8, rotate=rotate)
    inner, weight = Quantizer(layer.tap_in, spec, state), Quantizer(layer.tap_w, spec, state)
    with torch.no_grad():
        expected = layer(x)
        inside = F.linear(inner.inside(x), weight.inside(layer.weight))
        assert_close(inside, expected, rtol=1e-5, atol=1e-5, name="multiplied inside")
        for quantizer, tensor in ((inner, x), (weight, layer.weight)):
            back = quantizer.outside(quantizer.inside(tensor), tensor)
            assert_close(back, tensor, rtol=1e-5, atol=1e-6, name="there and back")


def test_smoothing_makes_channels_equally_large_where_it_takes_everything_over():
    draw = torch.Generator().manual_seed(1)
    x, weight = torch.randn(4, 9, 6, generator=draw), torch.randn(5, 6, generator=draw)
    x[..., 2] *= 100
    x[..., 4] = 0
    taken = factors([x[:2], x[2:]], weight, 1.0)
    largest = (x / taken).abs().amax((0, 1))
    assert_close(largest[[0, 1, 2, 3, 5]], torch.ones(5), name="largest activation")
    assert taken[4] == 1
    # and with nothing to take over the weight is what becomes even
    even = factors([x], weight, 0.0)
    assert_close((weight * even).abs().amax(0)[[0, 1, 2]], torch.ones(3), name="largest weight")


def test_smoothing_gives_an_input_and_its_weight_the_same_factor():
    x, weight = torch.randn(2, 3, 4), torch.randn(5, 4)
    factors = smoothing(Block({"a.tap_in": "a.tap_w"}, (), lambda _: [x], lambda _: weight, lambda _: []), 0.5)
    assert factors.keys() == {"a.tap_in", "a.tap_w"} and torch.equal(factors["a.tap_in"], factors["a.tap_w"])
