"""Bit widths as the papers write them: "w4a4o8" is 4-bit weights, 4-bit activations, 8-bit outliers.

"h" is for what lives inside the recurrence (h, A_bar, B_bar): "w4a4h4". Left out it means 8 bits, since an error there
is carried on from step to step.
"""

from __future__ import annotations

import re
from dataclasses import dataclass

FLOAT = 32
"""As a width of weights or activations: left in floating point."""
FLOAT_OUTLIERS = 16
"""As a width of outliers: left in floating point (OuroMamba's W4A8O16)."""
WIDE = 8
"""Bits of the recurrence where nothing else is said, and of what only scope "full" adds."""

_PATTERN = re.compile(r"w(\d+)a(\d+)(?:o(\d+))?(?:h(\d+))?")


@dataclass(frozen=True, slots=True)
class Bits:
    """Width of weights, of activations, of their outliers (None: no outlier rule) and of the recurrence (None: 8)."""

    weights: int
    activations: int
    outliers: int | None = None
    states: int | None = None

    def __str__(self) -> str:
        parts = ("w", self.weights), ("a", self.activations), ("o", self.outliers), ("h", self.states)
        return "".join(f"{letter}{width}" for letter, width in parts if width is not None)

    @property
    def recurrence(self) -> int:
        """Width of h, A_bar and B_bar: float where activations are, unless it is given."""
        if self.states is not None:
            return self.states
        return FLOAT if self.activations == FLOAT else WIDE

    @property
    def wide(self) -> Bits:
        """At least 8 bits for everything that is rounded at all, and no outlier rule."""
        weights, activations = (FLOAT if width == FLOAT else WIDE for width in (self.weights, self.activations))
        return Bits(weights, activations)


def check_width(width: int, what: str) -> None:
    """Refuses a width that a single tensor or channel cannot have; `what` says whose it is.

    Raises:
        ValueError: it is neither 2 to 8 nor `FLOAT`.
    """
    if not isinstance(width, int) or not (2 <= width <= 8 or width == FLOAT):
        raise ValueError(f"{what} is to be kept at {width!r} bits, expected 2 to 8, or {FLOAT} for float")


def parse_bits(text: str) -> Bits:
    """Reads "w4a4o8h8" and the like: 2 to 8 bits or 32 (float); outliers 2 to 8 or 16 (float), no fewer than inliers.

    Raises:
        ValueError: anything else.
    """
    match = _PATTERN.fullmatch(text) if isinstance(text, str) else None
    if match is None:
        raise ValueError(
            f"bits {text!r} cannot be read; write weights, activations and maybe outliers, as in 'w4a4o8', and the "
            "recurrence, as in 'w8a8h6'"
        )
    weights, activations = int(match[1]), int(match[2])
    states = None if match[4] is None else int(match[4])
    for name, bits in (("weights", weights), ("activations", activations), ("the recurrence", states)):
        if bits is not None and not 2 <= bits <= 8 and bits != FLOAT:
            raise ValueError(f"bits {text!r} give {bits} bits to {name}; give 2 to 8, or {FLOAT} for floating point")
    if match[3] is None:
        return Bits(weights, activations, states=states)
    outliers = int(match[3])
    if not 2 <= outliers <= 8 and outliers != FLOAT_OUTLIERS:
        known = f"2 to 8, or {FLOAT_OUTLIERS} for floating point"
        raise ValueError(f"bits {text!r} give {outliers} bits to outliers; give {known}")
    if activations == FLOAT and outliers != FLOAT_OUTLIERS:
        raise ValueError(f"bits {text!r} round the outliers of float activations; leave out 'o{outliers}'")
    if outliers < activations != FLOAT:
        raise ValueError(f"bits {text!r} give outliers fewer bits than inliers; give at least {activations}")
    return Bits(weights, activations, outliers, states)
