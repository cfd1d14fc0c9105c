"""Bit strings are read as written, and nonsense is answered with what is allowed."""

import re

import pytest

from ouro.quant.bits import Bits, parse_bits

AND = ", and the recurrence, as in 'w8a8h6'"


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("w8a8", Bits(8, 8)),
        ("w6a6", Bits(6, 6)),
        ("w4a8", Bits(4, 8)),
        ("w4a4o8", Bits(4, 4, 8)),
        ("w4a8o16", Bits(4, 8, 16)),
        ("w4a3o8", Bits(4, 3, 8)),
        ("w32a32", Bits(32, 32)),
        ("w32a4o8", Bits(32, 4, 8)),
        ("w8a8h6", Bits(8, 8, states=6)),
        ("w4a4o8h4", Bits(4, 4, 8, 4)),
    ],
)
def test_bits_are_read_and_written_back(text, expected):
    assert parse_bits(text) == expected
    assert str(expected) == text


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("4/4", "bits '4/4' cannot be read; write weights, activations and maybe outliers, as in 'w4a4o8'" + AND),
        ("W4A4", "bits 'W4A4' cannot be read; write weights, activations and maybe outliers, as in 'w4a4o8'" + AND),
        (
            "w4a4o8x",
            "bits 'w4a4o8x' cannot be read; write weights, activations and maybe outliers, as in 'w4a4o8'" + AND,
        ),
        ("w1a4", "bits 'w1a4' give 1 bits to weights; give 2 to 8, or 32 for floating point"),
        ("w4a16", "bits 'w4a16' give 16 bits to activations; give 2 to 8, or 32 for floating point"),
        ("w4a4o12", "bits 'w4a4o12' give 12 bits to outliers; give 2 to 8, or 16 for floating point"),
        ("w4a6o4", "bits 'w4a6o4' give outliers fewer bits than inliers; give at least 6"),
        ("w4a4h9", "bits 'w4a4h9' give 9 bits to the recurrence; give 2 to 8, or 32 for floating point"),
        ("w4a32o8", "bits 'w4a32o8' round the outliers of float activations; leave out 'o8'"),
    ],
)
def test_nonsense_is_refused(text, message):
    with pytest.raises(ValueError, match=f"^{re.escape(message)}$"):
        parse_bits(text)


def test_the_recurrence_has_eight_bits_unless_said_otherwise():
    assert [parse_bits(text).recurrence for text in ("w4a4", "w8a8h6", "w32a32", "w4a32")] == [8, 6, 32, 32]
