"""Rows as integer codes: how they are encoded, and what comes of it."""

from __future__ import annotations

from dataclasses import dataclass

from torch import Tensor

from ouro.quant.grid import Grid
from ouro.quant.rules import OutlierRule


@dataclass(frozen=True, slots=True)
class Encoding:
    """How rows [b l c] become codes.

    grid: codes of inliers. scale, zero: float32 [1] or per time step [l]; None for the range of each row (dynamic,
    `grid` is asymmetric then). rule, theta: which channels are outliers, see `ouro.quant.outliers`.
    """

    grid: Grid
    scale: Tensor | None = None
    zero: Tensor | None = None
    rule: OutlierRule | None = None
    theta: Tensor | None = None


@dataclass(frozen=True, slots=True)
class Codes:
    """Rows as integers: element (r, c) stands for scale[r] (codes[r, c] - zero[r]). int8 [r c], float32 and int32 [r].

    A row that held NaN has the scale NaN.
    """

    codes: Tensor
    scale: Tensor
    zero: Tensor


@dataclass(frozen=True, slots=True)
class Encoded:
    """Inliers, and where there is an outlier rule, who is listed (bool [r c]) and outliers as codes or floats [r c].

    The code of a listed element is the zero point among inliers, that of any other the one among outliers. `floats` are
    the rows as they came; of them only listed elements count.
    """

    inliers: Codes
    listed: Tensor | None = None
    outliers: Codes | None = None
    floats: Tensor | None = None


def shift_of(grid: Grid) -> int:
    """What is taken off the codes, and the zero point, of an asymmetric grid, so that they fit int8."""
    return 0 if grid.low < 0 else (grid.high + 1) // 2
