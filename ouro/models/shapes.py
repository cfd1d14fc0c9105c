"""What the shapes of a checkpoint's tensors say of the model that it belongs to."""

from __future__ import annotations

import math
import re
from collections.abc import Callable, Iterable, Mapping

_NUMBER = re.compile(r"(?<=\.)\d+(?=\.)")


def template(key: str) -> str:
    """A tensor's name without the numbers of its blocks: "layers.#.norm.weight"."""
    return _NUMBER.sub("#", key)


class Shapes:
    """Sizes of tensors, asked for by the keys of a family's own state dict, whichever names the file has.

    grid: patches (down, across) of the position embedding, where somebody says so.
    """

    def __init__(
        self,
        shapes: Mapping[str, tuple[int, ...]],
        official_name: Callable[[str], str] = str,
        grid: tuple[int, int] | None = None,
    ) -> None:
        self._official_name = official_name
        self._shapes = {official_name(key): shape for key, shape in shapes.items()}
        self._templates = {template(key) for key in self._shapes}
        self.grid = grid

    def inside(self, prefix: str, official_name: Callable[[str], str]) -> Shapes:
        """Those of a part whose names begin with `prefix`, as the part calls them."""
        part = {key.removeprefix(prefix): shape for key, shape in self._shapes.items() if key.startswith(prefix)}
        return Shapes(part, official_name, self.grid)

    @property
    def templates(self) -> set[str]:
        """Official names without the numbers of blocks."""
        return self._templates

    def __contains__(self, key: str) -> bool:
        return self._official_name(key) in self._shapes

    def anywhere(self, key: str) -> bool:
        """Whether some block has this tensor."""
        return template(self._official_name(key)) in self._templates

    def size(self, key: str, axis: int, otherwise: int) -> int:
        """Length of one axis; `otherwise` where there is no such tensor, or none with this axis."""
        shape = self._shapes.get(self._official_name(key), ())
        return shape[axis] if -len(shape) <= axis < len(shape) else otherwise

    def count(self, prefix: str) -> int:
        """How many numbered modules there are behind a prefix such as "layers."."""
        start = self._official_name(prefix)
        parts = (key.removeprefix(start).partition(".")[0] for key in self._shapes if key.startswith(start))
        return len({part for part in parts if part.isdigit()})

    def depths(self) -> tuple[int, ...]:
        """Blocks in each stage."""
        return tuple(self.count(f"stages.{stage}.blocks.") for stage in range(self.count("stages.")))


def is_square(count: int) -> bool:
    """Whether so many patches can form a square."""
    return math.isqrt(count) ** 2 == count


def ratio(part: int, width: int, known: float) -> float:
    """The factor that makes `part` of `width` as `int(factor * width)`; the known one if it does."""
    if int(known * width) == part or width < 1:
        return known
    factor = part / width
    return factor if int(factor * width) == part else math.nextafter(factor, math.inf)


def read_image(
    patches: int, image: int | tuple[int, int], patch: int, stride: int, grid: tuple[int, int] | None
) -> int | tuple[int, int]:
    """The image size that a position embedding of so many patches is for; `image` where that makes as many.

    Raises:
        ValueError: they form no square, and no grid is known, or the known one has another number of patches; or patches
            without a side.
    """
    if patch < 1 or stride < 1:
        raise ValueError(f"patches are {patch} pixels wide and {stride} apart, expected 1 or more")
    size = (image, image) if isinstance(image, int) else image
    own = [(side - patch) // stride + 1 for side in size]
    if grid is None and math.prod(own) == patches:
        return image
    rows, columns = grid_of(patches, grid)
    height, width = (
        side if there == wanted else (wanted - 1) * stride + patch
        for side, there, wanted in zip(size, own, (rows, columns), strict=True)
    )
    return height if height == width else (height, width)


def grid_of(patches: int, grid: Iterable[int] | None) -> tuple[int, int]:
    """The grid that so many patches form: a square, unless another one is known.

    Raises:
        ValueError: no such grid.
    """
    rows, columns = (math.isqrt(patches),) * 2 if grid is None else tuple(grid)
    if rows * columns == patches:
        return rows, columns
    if grid is not None:
        raise ValueError(f"grid is {rows} x {columns}, the position embedding has {patches} patches")
    raise ValueError(
        f"the position embedding has {patches} patches, which form no square; say what grid they are of, as "
        "read_checkpoint(..., grid=(down, across))"
    )
