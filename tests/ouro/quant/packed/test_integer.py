"""Integer linear layers compute what their definition says."""

import re
from dataclasses import replace

import pytest
import torch

from ouro.quant.grid import asymmetric, dequantize, quantize, range_of, symmetric
from ouro.quant.outliers import outlier_list_reference, round_two_ways
from ouro.quant.packed import integer
from ouro.quant.packed.codes import Encoding
from ouro.quant.packed.integer import decode, encode, encode_reference
from ouro.quant.rules import OutlierRule

SIZES = [(1, 1, 1, 1), (2, 3, 1, 5), (2, 11, 6, 63), (3, 63, 38, 7), (1, 197, 63, 12), (2, 197, 192, 38)]
"""Of a layer: b, l, c, o."""


def rows_of(b, l, c):  # noqa: E741
    generator = torch.Generator().manual_seed(b + l + c)
    loud = 1 + 6 * (torch.rand(b, l, c, generator=generator) > 0.97)
    return torch.randn(b, l, c, generator=generator) * loud


def encodings(steps):
    """Name -> encoding; every granularity, and outliers in all widths, with and without a threshold from before."""
    generator = torch.Generator().manual_seed(steps)
    scale = torch.rand(steps, generator=generator) * 0.05 + 0.01
    theta = torch.rand(steps, generator=generator) * 2 + 1
    encodings = {
        "tensor, unsigned": Encoding(asymmetric(8), torch.tensor([0.03]), torch.tensor([120.0])),
        "tensor, signed": Encoding(symmetric(8, narrow=False), torch.tensor([0.03])),
        "step, signed": Encoding(symmetric(4), scale * 8),
        "step, unsigned": Encoding(
            asymmetric(5), scale * 4, torch.randint(0, 32, (steps,), generator=generator).float()
        ),
        "token": Encoding(asymmetric(8)),
        "token, 3 bits": Encoding(asymmetric(3)),
    }
    for signed in (True, False):
        grid = symmetric(4) if signed else asymmetric(4)
        zero = None if signed else torch.randint(0, 16, (steps,), generator=generator).float()
        for bits in (4, 8, 16):
            plain = Encoding(grid, scale * 8, zero, OutlierRule(4, bits, signed, 2.0, 10))
            encodings[f"o{bits}, {'signed' if signed else 'unsigned'}"] = plain
            encodings[f"o{bits}, {'signed' if signed else 'unsigned'}, theta"] = replace(plain, theta=theta)
    return encodings


NAMES = list(encodings(1))


def layer_of(c, o):
    generator = torch.Generator().manual_seed(c * o)
    weight = torch.randint(-127, 128, (o, c), dtype=torch.int8, generator=generator)
    return weight, torch.rand(o, generator=generator) + 0.1, torch.randn(o, generator=generator)


@pytest.mark.parametrize("size", SIZES, ids=str)
@pytest.mark.parametrize("name", NAMES)
def test_compiled_codes_equal_their_definition(size, name):
    rows, encoding = rows_of(*size[:3]), encodings(size[1])[name]
    ours, wanted = encode(rows, encoding), encode_reference(rows, encoding)
    for part, other in ((ours.inliers, wanted.inliers), (ours.outliers, wanted.outliers)):
        assert (part is None) == (other is None)
        if part is not None and other is not None:
            assert torch.equal(part.codes, other.codes) and part.codes.dtype == torch.int8
            assert torch.equal(part.scale, other.scale) and torch.equal(part.zero, other.zero)
    assert (ours.listed is None) == (wanted.listed is None)
    assert ours.listed is None or torch.equal(ours.listed, wanted.listed)
    assert torch.equal(decode(ours), decode(wanted))


@pytest.mark.parametrize("size", SIZES, ids=str)
@pytest.mark.parametrize("name", NAMES)
def test_linear_agrees_with_its_definition(size, name):
    rows, encoding = rows_of(*size[:3]), encodings(size[1])[name]
    weight, scale, bias = layer_of(*size[2:])
    for maybe in (bias, None):
        y = integer.linear(encode(rows, encoding), weight, scale, maybe)
        wanted = integer.linear_reference(encode_reference(rows, encoding), weight, scale, maybe)
        assert y.dtype == torch.float32 and (y - wanted).abs().max() <= 1e-6 * wanted.abs().max()


@pytest.mark.parametrize("name", NAMES)
def test_codes_stand_for_what_the_grid_rounds_to(name):
    rows, encoding = rows_of(2, 21, 38), encodings(21)[name]
    if encoding.scale is None:
        bits = (encoding.grid.high + 1).bit_length() - 1
        column, zero = range_of(rows.amin(-1, keepdim=True), rows.amax(-1, keepdim=True), bits)
    else:
        column, zero = encoding.scale[:, None], None if encoding.zero is None else encoding.zero[:, None]
    if encoding.rule is None:
        wanted = dequantize(quantize(rows, column, encoding.grid, zero), column, zero)
    else:
        assert encoding.scale is not None
        listed = outlier_list_reference(rows, encoding.rule, scale=encoding.scale, theta=encoding.theta)
        assert listed.any()
        wanted = round_two_ways(rows, listed, encoding.rule, encoding.scale, encoding.zero)
    torch.testing.assert_close(decode(encode(rows, encoding)).view_as(rows), wanted, rtol=1e-6, atol=1e-6)


def test_more_channels_than_int32_holds_are_refused():
    channels = integer.LARGEST_K + 1
    encoded = encode(torch.zeros(1, 1, channels), encodings(1)["token"])
    message = f"{channels} input channels, integer sums are exact up to {integer.LARGEST_K}; leave it in float"
    with pytest.raises(ValueError, match=f"^{message}$"):
        integer.linear(encoded, torch.zeros(1, channels, dtype=torch.int8), torch.ones(1), None)
    assert 255 * 128 * integer.LARGEST_K < 2**31


@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize("run", [encode, encode_reference])
def test_nan_stays_in_its_row(name, run):
    rows = rows_of(2, 21, 38)
    rows[1, 4, 7] = torch.nan
    weight, scale, bias = layer_of(38, 5)
    y = integer.linear(run(rows, encodings(21)[name]), weight, scale, bias).view(2, 21, 5)
    lost = y.isnan()
    assert lost[1, 4].all() and lost.sum() == 5


def test_another_length_is_refused():
    message = (
        "the input has 7 time steps, its quantizer was calibrated for 21; "
        "calibrate at the size of the images that are to be seen"
    )
    for run in (encode, encode_reference):
        with pytest.raises(ValueError, match=f"^{re.escape(message)}$"):
            run(rows_of(2, 7, 38), encodings(21)["step, signed"])


def test_a_sample_does_not_depend_on_its_batch():
    rows, weight, scale, bias = rows_of(3, 63, 38), *layer_of(38, 12)
    for encoding in encodings(63).values():
        together = integer.linear(encode(rows, encoding), weight, scale, bias).view(3, 63, 12)
        alone = integer.linear(encode(rows[1:2].contiguous(), encoding), weight, scale, bias)
        assert torch.equal(together[1], alone)
