"""Codes come back as they were stored, whatever the width and the size."""

import re

import pytest
import torch

from ouro.quant.packed import integer
from ouro.quant.packed.storage import pack_codes, stored_bits, unpack_codes


def codes_of(bits, outputs, columns):
    low, high = -(2 ** (bits - 1)), 2 ** (bits - 1) - 1
    generator = torch.Generator().manual_seed(bits * 1000 + columns)
    codes = torch.randint(low, high + 1, (outputs, columns), generator=generator)
    # the ends of the grid are always there
    codes.view(-1)[0], codes.view(-1)[-1] = low, high
    return codes.to(torch.int8)


@pytest.mark.parametrize("columns", [1, 2, 3, 38, 63, 197])
@pytest.mark.parametrize("bits", [2, 3, 4, 5, 6, 7, 8])
def test_codes_come_back(bits, columns):
    codes = codes_of(bits, 5, columns)
    packed = pack_codes(codes, bits)
    bytes_per_row = columns if bits > 4 else (columns + 1) // 2
    assert packed.shape == (5, bytes_per_row) and packed.element_size() == 1
    assert stored_bits(bits) == (8 if bits > 4 else 4)
    assert torch.equal(unpack_codes(packed, columns), codes)


@pytest.mark.parametrize("columns", [1, 2, 3, 38, 63, 197])
def test_the_compiled_unpacking_is_the_same(columns):
    codes = codes_of(4, 33, columns)
    assert torch.equal(integer.unpack(pack_codes(codes, 4), columns), codes)


def test_codes_that_do_not_fit_are_refused():
    message = "codes lie outside -8..7, or are not whole; 4 bits cannot hold them"
    for wrong in (8.0, -9.0, 0.5, float("nan")):
        with pytest.raises(ValueError, match=f"^{re.escape(message)}$"):
            pack_codes(torch.tensor([[wrong, 0.0]]), 4)
    with pytest.raises(ValueError, match="^codes of 9 bits cannot be packed; give 2 to 8$"):
        pack_codes(torch.zeros(1, 1), 9)


def test_codes_of_another_layer_are_refused():
    message = "packed codes are uint8 (2, 3), expected int8 (2, 9) or uint8 (2, 5); were they packed for another layer?"
    with pytest.raises(ValueError, match=f"^{re.escape(message)}$"):
        unpack_codes(pack_codes(torch.zeros(2, 6), 4), 9)
