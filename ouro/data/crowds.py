"""Scenes of one to four objects that overlap, for segmentation and detection: masks, boxes, and the same clutter.

Every scene is a pure function of (seed, index), as in `ouro.data.scenes`, whose shapes, textures and light these are; none
of them is a scene of that series. Objects are painted one after the other. A place that would hide more than
two fifths of an earlier object is not taken, so everything that has a label can be seen.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from ouro.data.boxes import padded
from ouro.data.scenes import (
    CLASSES,
    GRAIN,
    LIGHT,
    SMALLEST,
    SceneSeries,
    box_of,
    cluttered,
    ground_color,
    object_color,
    photographed,
    place,
    texture,
)

SMALLEST_CROWD = 2 * SMALLEST
"""Pixels a side below which small shapes dissolve."""
MOST = 4
"""Objects in a scene, at most."""
SEGMENTS = ("background", *CLASSES)
"""Classes of pixels; an object of class k has the number k + 1."""

# extent of an object's box as part of the side: at 96 pixels the objects are as large as those of `scenes` at 56
_LEAST, _SPREAD = 0.22, 0.22
_TRIES, _HIDDEN, _RASTER = 4, 0.4, 48
_SCALARS = 320
# behind the words of the series of single objects
_COUNTER = 2**40


@dataclass(frozen=True, slots=True)
class Crowd:
    """image uint8 [3 h w]; labels and boxes (x0, y0, x1, y1 of what is seen, x1 and y1 excluded) of its objects; owner
    int8 [h w]: which object a pixel shows, -1 for the ground.
    """

    image: np.ndarray
    labels: tuple[int, ...]
    boxes: tuple[tuple[int, int, int, int], ...]
    owner: np.ndarray

    def rows(self) -> list[tuple[int, ...]]:
        """Box and class of every object."""
        return [(*box, label) for box, label in zip(self.boxes, self.labels, strict=True)]

    def segments(self) -> np.ndarray:
        """Class of every pixel, int64 [h w], 0 for the ground."""
        return np.array([0, *(label + 1 for label in self.labels)])[self.owner + 1]


def draw(seed: int, index: int, size: int = 96) -> Crowd:
    """Draws scene `index` of the endless series `seed`; the same scene at every `size`, the pixel noise excepted.

    Raises:
        ValueError: a negative seed or index, or fewer than 32 pixels a side, where small shapes dissolve.
    """
    if min(seed, index) < 0 or max(seed, index) >= 2**63 or size < SMALLEST_CROWD:
        limits = f"seed and index 0 or more, below 2**63, and size at least {SMALLEST_CROWD}"
        raise ValueError(f"scene (seed {seed}, index {index}, size {size}) cannot be drawn; give {limits}")
    grains = (MOST + 1) * GRAIN**2
    fixed = _SCALARS + LIGHT**2 + grains
    words = np.random.Philox(key=[seed, index], counter=_COUNTER).random_raw(fixed + (3 * size * size + 3) // 4)
    units = (words[:fixed] >> np.uint64(40)).astype(np.float32) * np.float32(2**-24)
    draws = iter(units[:_SCALARS].tolist())
    light = units[_SCALARS : fixed - grains].reshape(LIGHT, LIGHT)
    grain = units[fixed - grains :].reshape(MOST + 1, GRAIN, GRAIN)

    color = ground_color(draws)
    image = cluttered(draws, _painted(draws, color, grain[MOST], size))
    owner = np.full((size, size), -1, dtype=np.int8)
    small = np.full((_RASTER, _RASTER), -1, dtype=np.int8)
    labels: list[int] = []
    for number in range(1 + int(MOST * next(draws))):
        label = int(next(draws) * len(CLASSES))
        # all numbers are drawn, whichever place is taken: the rest of the scene does not hang on it
        places = [[next(draws) for _ in range(5)] for _ in range(_TRIES)]
        figure = _painted(draws, object_color(draws, color), grain[number], size)
        for where in places:
            shadow = place(iter(where), label, _RASTER, _LEAST, _SPREAD) >= 0.5
            if not _hides(shadow, small, len(labels)):
                break
        else:
            continue
        opacity = place(iter(where), label, size, _LEAST, _SPREAD)
        image = image + (figure - image) * opacity
        owner[opacity >= 0.5] = small[shadow] = len(labels)
        labels.append(label)
    pixels = photographed(draws, image, light, words[fixed:])
    return Crowd(pixels, tuple(labels), tuple(box_of(owner == one) for one in range(len(labels))), owner)


def _painted(draws: Iterator[float], color: list[float], grain: np.ndarray, size: int) -> np.ndarray:
    """A surface [3 h w] of two colors near one another."""
    other = [c + 0.4 * next(draws) - 0.2 for c in color]
    first, second = (np.array(each, dtype=np.float32)[:, None, None] for each in (color, other))
    return first + (second - first) * texture(draws, grain, size)


def _hides(shadow: np.ndarray, owner: np.ndarray, count: int) -> bool:
    """Whether an object there leaves too little of any that is there already, counting what others hide of it."""
    for one in range(count):
        seen = owner == one
        if (seen & shadow).sum() > _HIDDEN * seen.sum():
            return True
    return False


class _Crowds(SceneSeries):
    """Scenes of several objects as a data set."""

    usual = 96
    smallest = SMALLEST_CROWD

    def drawn(self, index: int) -> Crowd:
        return draw(self.seed, index, self.size)


class ScenesSeg(_Crowds):
    """Images with the class of every pixel."""

    targets = "segments"
    classes = SEGMENTS

    def images(self, start: int, n: int) -> tuple[Tensor, Tensor]:
        """Scenes start..start+n: images uint8 [n 3 h w] and classes int64 [n h w]."""
        scenes, pixels = self.scenes(start, n)
        return pixels, torch.from_numpy(np.stack([scene.segments() for scene in scenes]))


class ScenesDet(_Crowds):
    """Images with the boxes of their objects."""

    targets = "boxes"
    classes = CLASSES

    def images(self, start: int, n: int) -> tuple[Tensor, Tensor]:
        """Scenes start..start+n: images uint8 [n 3 h w] and boxes float32 [n 4 6], see `ouro.data.boxes`."""
        scenes, pixels = self.scenes(start, n)
        return pixels, padded([scene.rows() for scene in scenes], MOST)
