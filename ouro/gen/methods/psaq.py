"""PSAQ-ViT carried over: patches that differ from one another, by the entropy of their similarities.

Source: Li et al. 2022 (PSAQ-ViT: generate_data.py, utils/kde.py). What attention puts out there is what a scan reads
here (y), or the rows of the implicit attention. Unlike there, the density of an image is its own (not the batch's),
and it is read at enough points to see its mass.
"""

from __future__ import annotations

from typing import Annotated, Any, Literal

from torch import Tensor

from ouro.gen.losses import similarity_entropy
from ouro.gen.objective import PatchObjective, plain_feature
from ouro.settings import Least
from ouro.types import ScanRecord
from ouro.vision import VisionModel


class PsaqGen(PatchObjective):
    """Loss terms: minus the entropy of patch similarities, class and smoothness.

    Args:
        features: "y", what a patch reads (C h), or "alpha", its row of the implicit attention.
        points: where the density is read, evenly spaced between the least and the greatest similarity.
        bandwidth: of the density, in units of the cosine.
        common: blocks, channels, class_weight, smooth_weight, class_loss; see `ouro.gen.objective`.

    Raises:
        ValueError: fewer than 2 points, or a bandwidth that is not positive.
    """

    title = "PSAQ: entropy of patch similarity"
    choices = ("y", "alpha")

    def __init__(
        self,
        model: VisionModel,
        *,
        features: Literal["y", "alpha"] = "y",
        points: Annotated[int, Least(2)] = 64,
        bandwidth: Annotated[float, Least(1e-4)] = 0.01,
        **common: Any,
    ) -> None:
        super().__init__(model, features=features, **common)
        if points < 2:
            raise ValueError(f"points is {points}, expected 2 or more")
        if not bandwidth > 0:
            raise ValueError(f"bandwidth is {bandwidth}, expected a positive number")
        self.points, self.bandwidth = points, bandwidth

    def feature(self, scan: ScanRecord, number: int) -> Tensor:
        return plain_feature(self, scan, number)

    def of_features(self, features: Tensor, grid: tuple[int, int]) -> dict[str, Tensor]:
        return {"entropy": -similarity_entropy(features, points=self.points, bandwidth=self.bandwidth)}
