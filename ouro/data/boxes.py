"""Boxes of objects as rows [n m 6]: x0, y0, x1, y1 in pixels (x1, y1 excluded), class, crowd.

Images have different numbers of objects; rows that stand for nothing have the class -1. crowd 1 is COCO's mark of a group
that counts neither way.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

COLUMNS = 6


def padded(objects: Sequence[Sequence[Sequence[float]]], most: int) -> Tensor:
    """Rows (x0, y0, x1, y1, class) or (..., class, crowd) of each image -> float32 [n most 6].

    Raises:
        ValueError: an image with more objects.
    """
    rows = torch.zeros(len(objects), most, COLUMNS)
    rows[:, :, 4] = -1
    for image, listed in enumerate(objects):
        if len(listed) > most:
            raise ValueError(f"image {image} has {len(listed)} objects, room is for {most}")
        for place, values in enumerate(listed):
            rows[image, place, : len(values)] = torch.tensor(values, dtype=torch.float32)
    return rows


def present(rows: Tensor) -> Tensor:
    """The rows of one image [m 6] that stand for an object."""
    return rows[rows[:, 4] >= 0]
