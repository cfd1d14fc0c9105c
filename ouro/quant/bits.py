"""Bit widths as the papers write them: "w4a4o8" is 4-bit weights, 4-bit activations, 8-bit outliers."""

from __future__ import annotations

import re
from dataclasses import dataclass

FLOAT = 32
"""As a width of weights or activations: left in floating point."""
FLOAT_OUTLIERS = 16
"""As a width of outliers: left in floating point (OuroMamba's W4A8O16)."""

_PATTERN = re.compile(r"w(\d+)a(\d+)(?:o(\d+))?")


@dataclass(frozen=True, slots=True)
class Bits:
    """Width of weights, of activations and of their outliers (None: no outlier rule)."""

    weights: int
    activations: int
    outliers: int | None = None

    def __str__(self) -> str:
        return f"w{self.weights}a{self.activations}" + ("" if self.outliers is None else f"o{self.outliers}")


def parse_bits(text: str) -> Bits:
    """Reads "w4a4o8" and the like: 2 to 8 bits or 32 (float); outliers 2 to 8 or 16 (float), no fewer than inliers.

    Raises:
        ValueError: anything else.
    """
    match = _PATTERN.fullmatch(text)
    if match is None:
        raise ValueError(f"bits {text!r} cannot be read; write weights, activations and maybe outliers, as in 'w4a4o8'")
    weights, activations = int(match[1]), int(match[2])
    for name, bits in (("weights", weights), ("activations", activations)):
        if not 2 <= bits <= 8 and bits != FLOAT:
            raise ValueError(f"bits {text!r} give {bits} bits to {name}; give 2 to 8, or {FLOAT} for floating point")
    if match[3] is None:
        return Bits(weights, activations)
    outliers = int(match[3])
    if not 2 <= outliers <= 8 and outliers != FLOAT_OUTLIERS:
        known = f"2 to 8, or {FLOAT_OUTLIERS} for floating point"
        raise ValueError(f"bits {text!r} give {outliers} bits to outliers; give {known}")
    if activations == FLOAT and outliers != FLOAT_OUTLIERS:
        raise ValueError(f"bits {text!r} round the outliers of float activations; leave out 'o{outliers}'")
    if outliers < activations != FLOAT:
        raise ValueError(f"bits {text!r} give outliers fewer bits than inliers; give at least {activations}")
    return Bits(weights, activations, outliers)
