"""Colors of the figures that draw several series: Okabe and Ito's, distinct without color vision too; and of classes."""

from __future__ import annotations

from colorsys import hls_to_rgb

COLORS = ("#0072b2", "#e69f00", "#009e73", "#d55e00", "#cc79a7", "#56b4e9", "#f0e442", "#000000")
_CLASSES = (
    "#e69f00", "#56b4e9", "#009e73", "#d55e00", "#cc79a7", "#0072b2", "#f0e442", "#8f5fd1", "#a6761d", "#1fc7bb",
    "#e8384f", "#9ccc3c",
)  # fmt: skip
_GROUND = "#9a958c"


def cycle(count: int) -> list[str]:
    """So many colors, from the first on again where there are more series than colors."""
    return [COLORS[place % len(COLORS)] for place in range(count)]


def of_classes(names: list[str], count: int = 0) -> list[str]:
    """A color for each class, or for `count` of them without names: seen on light and on dark, the ground gray.

    Twelve are chosen by hand; further ones go around the circle of hues by the golden angle, so that neighbors differ.
    """
    ground = 1 if names and names[0] == "background" else 0
    number = max(len(names), count) - ground
    more = [_around(place) for place in range(number - len(_CLASSES))]
    return [_GROUND] * ground + [*_CLASSES[:number], *more]


def _around(place: int) -> str:
    red, green, blue = hls_to_rgb((place * 0.381966) % 1, (0.45, 0.6, 0.52)[place % 3], 0.65)
    return f"#{round(255 * red):02x}{round(255 * green):02x}{round(255 * blue):02x}"
