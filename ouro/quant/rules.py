"""The outlier rule as a record: when a channel becomes an outlier, for how long, and what it is rounded to."""

from __future__ import annotations

from dataclasses import dataclass

from ouro.quant.bits import FLOAT_OUTLIERS
from ouro.quant.grid import Grid, asymmetric, symmetric


@dataclass(frozen=True, slots=True)
class OutlierRule:
    """When a channel joins the list (`kappa`), how long it stays (`refresh` steps at most), and what listed ones get.

    signed: symmetric grids around 0, for inliers and outliers; otherwise asymmetric ones.
    per_channel: outliers share a step per sample, window and channel, instead of per sample and time step.
    """

    bits: int
    outlier_bits: int
    signed: bool = True
    kappa: float = 3.0
    refresh: int = 10
    per_channel: bool = False

    @property
    def grid(self) -> Grid:
        """Codes of inliers."""
        return symmetric(self.bits) if self.signed else asymmetric(self.bits)

    @property
    def outlier_grid(self) -> Grid | None:
        """Codes of outliers; None where they stay in floating point."""
        if self.outlier_bits == FLOAT_OUTLIERS:
            return None
        return symmetric(self.outlier_bits) if self.signed else asymmetric(self.outlier_bits)

    @property
    def reach(self) -> int:
        """How many inlier steps a span (see `span`) may be long."""
        return self.grid.high - max(self.grid.low, 0)
