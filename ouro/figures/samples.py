"""Images in rows, each with a word above it: what generators make, side by side."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np
from matplotlib.figure import Figure
from torch import Tensor

Named = Sequence[tuple[str, Tensor]]
"""(word, uint8 [3 h w])."""


def paper(rows: Mapping[str, Named]) -> Figure:
    """Matplotlib: a row per key; images are drawn pixel by pixel.

    Raises:
        ValueError: nothing to draw.
    """
    if not rows or not all(rows.values()):
        raise ValueError("there is nothing to draw: give every row at least one image")
    columns = max(map(len, rows.values()))
    figure = Figure(figsize=(0.8 * columns + 0.8, 1.05 * len(rows)), layout="constrained")
    grid = figure.subplots(len(rows), columns, squeeze=False)
    for line, (name, named) in zip(grid, rows.items(), strict=True):
        for panel in line:
            panel.set_axis_off()
        for panel, (word, image) in zip(line, named, strict=False):
            panel.imshow(np.asarray(image).transpose(1, 2, 0), interpolation="nearest")
            panel.set_title(word, fontsize=7)
        line[0].text(-0.15, 0.5, name, transform=line[0].transAxes, ha="right", va="center", fontsize=8)
    return figure


def alt(rows: Mapping[str, Named]) -> str:
    """What is where, in a sentence."""
    said = [f"{name} ({', '.join(word for word, _ in named)})" for name, named in rows.items()]
    return f"Images row by row: {'; '.join(said)}."
