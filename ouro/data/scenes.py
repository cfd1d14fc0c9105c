"""Procedural labelled scenes with ground truth: one textured shape on a cluttered background, its mask and its box.

Every scene is a pure function of (seed, index): no files, no download, as many images as wanted. What separates the
classes is the outline alone: position, size, rotation, colors and textures are drawn without regard to the
class, so a model has to separate the object from the clutter before it can name it. All lengths are fractions of the
image side; the same (seed, index) is therefore the same scene at every size (the pixel noise excepted).
"""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import lru_cache
from math import cos, pi, sin, sqrt
from typing import Any, ClassVar

import numpy as np
import torch
from torch import Tensor

from ouro.data import Dataset, check_range, check_split
from ouro.settings import check_count
from ouro.streams import check_seed

MEAN = (0.496, 0.496, 0.496)
STD = (0.271, 0.271, 0.271)

SPLIT_START = {"train": 0, "calib": 2**40, "test": 2**41}
SPLIT_LENGTH = {"train": 2**40, "calib": 10_000, "test": 10_000}
SPLIT_ROOM = 2**40
SMALLEST = 16

# the random words of one scene: [scalars | low-frequency light | object grain | ground grain | pixel noise]
_SCALARS, LIGHT, GRAIN = 112, 5, 9


@dataclass(frozen=True, slots=True)
class Scene:
    """One labelled image: image uint8 [3 h w], mask bool [h w], box (x0, y0, x1, y1) in pixels, x1 and y1 excluded."""

    image: np.ndarray
    label: int
    mask: np.ndarray
    box: tuple[int, int, int, int]


def _disk(x: np.ndarray, y: np.ndarray) -> np.ndarray:
    return np.sqrt(x * x + y * y) - 0.9


def _square(x: np.ndarray, y: np.ndarray) -> np.ndarray:
    return np.maximum(np.abs(x), np.abs(y)) - 0.8


def _triangle(x: np.ndarray, y: np.ndarray) -> np.ndarray:
    return np.maximum(np.abs(x) * (sqrt(3) / 2) + y * 0.5, -y) - 0.5


def _star(x: np.ndarray, y: np.ndarray) -> np.ndarray:
    # folded into half of one of the five points: the edge runs from the tip (1, 0) to the notch
    angle = np.arctan2(y, x)
    angle -= (2 * pi / 5) * np.rint(angle * (5 / (2 * pi)))
    radius = np.sqrt(x * x + y * y)
    notch_x, notch_y = 0.42 * cos(pi / 5), 0.42 * sin(pi / 5)
    length = sqrt((1 - notch_x) ** 2 + notch_y**2)
    along, across = radius * np.cos(angle), radius * np.abs(np.sin(angle))
    return ((along - 1) * notch_y + across * (1 - notch_x)) / length


def _plus(x: np.ndarray, y: np.ndarray) -> np.ndarray:
    x, y = np.abs(x), np.abs(y)
    return np.maximum(np.maximum(x, y) - 1, np.minimum(x, y) - 0.3)


def _ring(x: np.ndarray, y: np.ndarray) -> np.ndarray:
    return np.abs(np.sqrt(x * x + y * y) - 0.75) - 0.25


def _crescent(x: np.ndarray, y: np.ndarray) -> np.ndarray:
    yy = y * y
    return np.maximum(np.sqrt(x * x + yy) - 1, 0.8 - np.sqrt((x - 0.5) ** 2 + yy))


def _heart(x: np.ndarray, y: np.ndarray) -> np.ndarray:
    # a disk for each lobe, and below them the wedge of their outer tangents down to the tip (0, 1)
    x = np.abs(x)
    lobe = np.sqrt((x - 0.47) ** 2 + (y + 0.3) ** 2) - 0.5
    wedge = np.maximum(0.7535 * x + 0.6575 * (y - 1), 0.492 * x - 0.87 * y - 0.3915)
    return np.minimum(lobe, wedge)


def _bowtie(x: np.ndarray, y: np.ndarray) -> np.ndarray:
    x = np.abs(x)
    return np.maximum(x - 1, (np.abs(y) - 0.75 * x - 0.06) * 0.8)


def _half_disk(x: np.ndarray, y: np.ndarray) -> np.ndarray:
    return np.maximum(np.sqrt(x * x + y * y) - 1, -y)


def _bar(x: np.ndarray, y: np.ndarray) -> np.ndarray:
    return np.maximum(np.abs(x) - 1, np.abs(y) - 0.3)


def _corner(x: np.ndarray, y: np.ndarray) -> np.ndarray:
    return np.maximum(np.maximum(np.abs(x), np.abs(y)) - 0.85, np.minimum(x, y) + 0.3)


_SHAPES: dict[str, Callable[[np.ndarray, np.ndarray], np.ndarray]] = {
    "disk": _disk,
    "square": _square,
    "triangle": _triangle,
    "star": _star,
    "plus": _plus,
    "ring": _ring,
    "crescent": _crescent,
    "heart": _heart,
    "bowtie": _bowtie,
    "half_disk": _half_disk,
    "bar": _bar,
    "corner": _corner,
}
"""Class -> signed distance to its outline (negative inside) in the shape's own frame, which reaches to about 1."""

CLASSES: tuple[str, ...] = tuple(_SHAPES)
"""Twelve outlines that no rotation, mirror image or stretch by 15 % turns into one another."""


@lru_cache(maxsize=8)
def _pixel_centers(size: int) -> np.ndarray:
    return ((np.arange(size) + 0.5) / size).astype(np.float32)


@lru_cache(maxsize=32)
def _upsampler(cells: int, size: int) -> np.ndarray:
    """Linear interpolation [size cells] from `cells` values that lie evenly on [0, 1]."""
    distance = np.abs(_pixel_centers(size)[:, None] * (cells - 1) - np.arange(cells))
    return np.maximum(0, 1 - distance).astype(np.float32)


@lru_cache(maxsize=16)
def _extreme_points(label: int) -> tuple[np.ndarray, np.ndarray]:
    """Points of the shape farthest in 96 directions: their bounding box is the shape's, however it is turned."""
    axis = np.linspace(-1.1, 1.1, 221, dtype=np.float32)
    inside = _SHAPES[CLASSES[label]](axis[None, :], axis[:, None]) <= 0
    rows, columns = np.nonzero(inside)
    points = np.stack([axis[columns], axis[rows]])
    angles = np.linspace(0, 2 * pi, 96, endpoint=False, dtype=np.float32)
    extreme = np.unique((np.cos(angles)[:, None] * points[0] + np.sin(angles)[:, None] * points[1]).argmax(axis=1))
    return points[0, extreme], points[1, extreme]


def smooth_field(values: np.ndarray, size: int) -> np.ndarray:
    cells = values.shape[0]
    weights = _upsampler(cells, size)
    return weights @ values @ weights.T


def texture(draws: Iterator[float], grain: np.ndarray, size: int) -> np.ndarray:
    """How much of the second color each pixel takes, 0..1: flat with grain, stripes, checker, dots or a gradient."""
    kind, angle = int(next(draws) * 5), 2 * pi * next(draws)
    frequency, phase, phase_across = 4 + 5 * next(draws), next(draws), next(draws)
    if kind == 0:
        return smooth_field(grain, size)
    axis = _pixel_centers(size)
    along = (cos(angle) * axis)[None, :] + (sin(angle) * axis)[:, None]
    if kind == 1:
        return np.clip(0.5 + 0.75 * (along - cos(angle) / 2 - sin(angle) / 2), 0, 1)
    wave = np.sin(2 * pi * (frequency * along + phase))
    if kind == 2:
        return np.clip(0.5 + 1.5 * wave, 0, 1)
    across = (-sin(angle) * axis)[None, :] + (cos(angle) * axis)[:, None]
    wave_across = np.sin(2 * pi * (frequency * across + phase_across))
    if kind == 3:
        return np.clip(0.5 + 2.5 * wave * wave_across, 0, 1)
    return np.clip(2 * (wave + wave_across) - 1, 0, 1)


def ground_color(draws: Iterator[float]) -> list[float]:
    """A color that is neither black nor white."""
    return [0.05 + 0.9 * next(draws) for _ in range(3)]


def object_color(draws: Iterator[float], ground: list[float]) -> list[float]:
    """The first of six colors that is far enough from the ground's, or the farthest."""
    colors = [[next(draws) for _ in range(3)] for _ in range(6)]
    gaps = [sum((a - b) ** 2 for a, b in zip(ground, color, strict=True)) for color in colors]
    return colors[next((i for i, gap in enumerate(gaps) if gap > 0.36), gaps.index(max(gaps)))]


def _colors(draws: Iterator[float]) -> np.ndarray:
    """Two ground colors and two object colors [4 3]: the pairs stay apart, on no fixed side of one another."""
    ground = ground_color(draws)
    chosen = object_color(draws, ground)
    shifts = [[0.4 * next(draws) - 0.2 for _ in range(3)] for _ in range(2)]
    pairs = [ground, [g + s for g, s in zip(ground, shifts[0], strict=True)]]
    pairs += [chosen, [c + s for c, s in zip(chosen, shifts[1], strict=True)]]
    return np.array(pairs, dtype=np.float32)


def clutter(draws: Iterator[float], size: int) -> np.ndarray:
    """Opacity [h w] of one distractor: a soft blob, a thin line or a thin arc. None has a class's outline."""
    axis = _pixel_centers(size)
    kind, x0, y0, angle = int(next(draws) * 3), next(draws), next(draws), 2 * pi * next(draws)
    extent, width = next(draws), next(draws)
    dx, dy = axis[None, :] - np.float32(x0), axis[:, None] - np.float32(y0)
    along, across = cos(angle) * dx + sin(angle) * dy, cos(angle) * dy - sin(angle) * dx
    if kind == 0:
        return np.exp(along**2 * (-0.5 / (0.06 + 0.1 * extent) ** 2) + across**2 * (-0.5 / (0.03 + 0.05 * width) ** 2))
    thickness = 0.008 + 0.01 * width
    if kind == 1:
        distance = np.maximum(np.abs(along) - (0.1 + 0.35 * extent), np.abs(across) - thickness)
    else:
        radius = np.sqrt(along**2 + across**2)
        distance = np.maximum(np.abs(radius - (0.12 + 0.3 * extent)) - thickness, across)
    return np.clip(0.5 - distance * size, 0, 1)


def place(draws: Iterator[float], label: int, size: int, least: float = 0.38, spread: float = 0.37) -> np.ndarray:
    """Opacity [h w] of the shape at a random place, size and rotation, inside the image.

    Its box is least .. least + spread of the side; five numbers are drawn.
    """
    angle, extent = 2 * pi * next(draws), least + spread * next(draws)
    stretch = 0.87 + 0.13 * next(draws)
    c, s = cos(angle), sin(angle)
    x, y = _extreme_points(label)
    image_x, image_y = c * x - (s * stretch) * y, s * x + (c * stretch) * y
    left, right, top, bottom = image_x.min(), image_x.max(), image_y.min(), image_y.max()
    scale = extent / float(max(right - left, bottom - top))
    margin = 0.02
    room_x, room_y = (1 - 2 * margin - scale * float(span) for span in (right - left, bottom - top))
    x0 = margin + room_x * next(draws) - scale * float(left)
    y0 = margin + room_y * next(draws) - scale * float(top)
    axis = _pixel_centers(size)
    dx, dy = (axis[None, :] - np.float32(x0)) / scale, (axis[:, None] - np.float32(y0)) / scale
    distance = _SHAPES[CLASSES[label]](c * dx + s * dy, (c * dy - s * dx) / stretch)
    return np.clip(0.5 - distance * (scale * size), 0, 1)


def draw(seed: int, index: int, size: int = 56) -> Scene:
    """Draws scene `index` of the endless series `seed`; the same scene at every `size`, the pixel noise excepted.

    Raises:
        ValueError: a negative seed or index, or fewer than 16 pixels a side, where shapes dissolve.
    """
    if min(seed, index) < 0 or max(seed, index) >= 2**63 or size < SMALLEST:
        limits = f"seed and index 0 or more, below 2**63, and size at least {SMALLEST}"
        raise ValueError(f"scene (seed {seed}, index {index}, size {size}) cannot be drawn; give {limits}")
    grains = 2 * GRAIN**2
    fixed = _SCALARS + LIGHT**2 + grains
    # raw words, not Generator methods: only the bit stream of a BitGenerator is promised never to change
    words = np.random.Philox(key=[seed, index]).random_raw(fixed + (3 * size * size + 3) // 4)
    units = (words[:fixed] >> np.uint64(40)).astype(np.float32) * np.float32(2**-24)
    draws = iter(units[:_SCALARS].tolist())
    light = units[_SCALARS : fixed - grains].reshape(LIGHT, LIGHT)
    object_grain, ground_grain = units[fixed - grains :].reshape(2, GRAIN, GRAIN)

    label = int(next(draws) * len(CLASSES))
    opacity = place(draws, label, size)
    colors = _colors(draws)[:, :, None, None]
    ground = colors[0] + (colors[1] - colors[0]) * texture(draws, ground_grain, size)
    figure = colors[2] + (colors[3] - colors[2]) * texture(draws, object_grain, size)
    ground = cluttered(draws, ground)
    image = ground + (figure - ground) * opacity

    pixels = photographed(draws, image, light, words[fixed:])
    mask = opacity >= 0.5
    return Scene(pixels, label, mask, box_of(mask))


def cluttered(draws: Iterator[float], ground: np.ndarray) -> np.ndarray:
    """The ground [3 h w] with two to four distractors on it."""
    size = ground.shape[-1]
    for _ in range(2 + int(3 * next(draws))):
        strength = 0.4 + 0.4 * next(draws)
        color = np.array([next(draws), next(draws), next(draws)], dtype=np.float32)[:, None, None]
        ground = ground + (color - ground) * (strength * clutter(draws, size))
    return ground


def photographed(draws: Iterator[float], image: np.ndarray, light: np.ndarray, words: np.ndarray) -> np.ndarray:
    """Colors [3 h w] under uneven light and with pixel noise made of the words: uint8 [3 h w]."""
    size = image.shape[-1]
    axis = _pixel_centers(size) - np.float32(0.5)
    slope_x, slope_y = 0.5 * next(draws) - 0.25, 0.5 * next(draws) - 0.25
    image = image * ((0.9 + slope_x * axis)[None, :] + (slope_y * axis)[:, None] + 0.2 * smooth_field(light, size))
    noise = words.view(np.int16)[: 3 * size * size].reshape(3, size, size)
    image = image + noise * np.float32((0.01 + 0.06 * next(draws)) / 2**15)
    return np.clip(image * 255 + 0.5, 0, 255).astype(np.uint8)


def box_of(mask: np.ndarray) -> tuple[int, int, int, int]:
    """(x0, y0, x1, y1) of a mask [h w], x1 and y1 excluded."""
    columns, rows = np.flatnonzero(mask.any(axis=0)), np.flatnonzero(mask.any(axis=1))
    return int(columns[0]), int(rows[0]), int(columns[-1]) + 1, int(rows[-1]) + 1


class SceneSeries(Dataset):
    """The scenes of one split. Splits never share an index; `len` is nominal, scenes go on beyond it.

    usual: the size of the images where none is given. smallest: one that can be drawn.

    Args:
        split: "train", "calib" or "test".
        size: side of the images in pixels.
        seed: which endless series; the embedded checkpoints are trained and tested on series 0.

    Raises:
        ValueError: unknown split, or a size or seed that no scene has.
    """

    usual: ClassVar[int]
    smallest: ClassVar[int]
    provides = frozenset({"series"})
    square = True
    mean = MEAN
    std = STD

    def __init__(self, split: str = "test", size: int | None = None, seed: int = 0) -> None:
        check_split(split, self.splits)
        self.split, self.size, self.seed = split, self.usual if size is None else size, seed
        self.start = SPLIT_START[split]
        check_seed(seed)
        check_count("size", self.size, self.smallest)

    def __len__(self) -> int:
        return SPLIT_LENGTH[self.split]

    def scene(self, index: int) -> Any:
        """Scene `index` of this split, counted from 0."""
        check_range(index, 1, SPLIT_ROOM)
        return self.drawn(self.start + index)

    @abstractmethod
    def drawn(self, index: int) -> Any:
        """Scene `index` of the whole series."""

    def scenes(self, start: int, n: int) -> tuple[list[Any], Tensor]:
        """Scenes start..start+n, and their images uint8 [n 3 h w]."""
        check_range(start, n, SPLIT_ROOM)
        scenes = [self.scene(index) for index in range(start, start + n)]
        return scenes, torch.from_numpy(np.stack([scene.image for scene in scenes]))


class Scenes(SceneSeries):
    """The scenes of one object as a data set, with its mask."""

    usual = 56
    smallest = SMALLEST
    provides = frozenset({"masks", "series"})
    classes = CLASSES

    def drawn(self, index: int) -> Scene:
        return draw(self.seed, index, self.size)

    def images(self, start: int, n: int) -> tuple[Tensor, Tensor]:
        """Scenes start..start+n: images uint8 [n 3 h w] and labels int64 [n]."""
        scenes, pixels = self.scenes(start, n)
        return pixels, torch.tensor([scene.label for scene in scenes])

    def masks(self, start: int, n: int) -> Tensor:
        """Where the object is, in scenes start..start+n: bool [n h w]."""
        check_range(start, n, SPLIT_ROOM)
        return torch.from_numpy(np.stack([self.scene(index).mask for index in range(start, start + n)]))
