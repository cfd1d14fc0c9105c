"""Colors of the figures that draw several series: Okabe and Ito's, distinct without color vision too."""

from __future__ import annotations

COLORS = ("#0072b2", "#e69f00", "#009e73", "#d55e00", "#cc79a7", "#56b4e9", "#f0e442", "#000000")


def cycle(count: int) -> list[str]:
    """So many colors, from the first on again where there are more series than colors."""
    return [COLORS[place % len(COLORS)] for place in range(count)]
