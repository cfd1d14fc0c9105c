"""CLAMP-ViT carried over: the contrast of patches on plain attention, without the patched hidden state.

Source: Ramachandran et al. 2024 (arXiv 2407.05266); its generation code is not public, so this is OuroMamba-Gen minus
h_p, with CLAMP-ViT's 3 x 3 neighborhood. That makes it the ablation of what h_p is worth.
"""

from __future__ import annotations

from typing import Annotated, Any, Literal

from torch import Tensor

from ouro.gen.losses import patch_contrast
from ouro.gen.methods.ouro import check_window
from ouro.gen.objective import PatchObjective, plain_feature
from ouro.settings import Least
from ouro.types import ScanRecord
from ouro.vision import VisionModel


class ClampGen(PatchObjective):
    """Loss terms: patch contrast, class and smoothness.

    Args:
        features: "y", what a patch reads (C h), or "alpha", its row of the implicit attention.
        window, positives: the neighborhood and the positives in it; 5 and 12 match OuroMamba-Gen.
        common: blocks, channels, class_weight, smooth_weight, class_loss; see `ouro.gen.objective`.

    Raises:
        ValueError: an option outside its range.
    """

    title = "CLAMP: contrast of plain attention"
    choices = ("y", "alpha")

    def __init__(
        self, model: VisionModel, *, features: Literal["y", "alpha"] = "y",
        window: Annotated[int, Least(3)] = 3, positives: Annotated[int, Least(1)] = 4,
        temperature: Annotated[float, Least(1e-3)] = 0.1, **common: Any,
    ) -> None:  # fmt: skip
        super().__init__(model, features=features, **common)
        check_window(model, window, positives)
        self.window, self.positives, self.temperature = window, positives, temperature

    def feature(self, scan: ScanRecord, number: int) -> Tensor:
        return plain_feature(self, scan, number)

    def of_features(self, features: Tensor, grid: tuple[int, int]) -> dict[str, Tensor]:
        contrast = patch_contrast(
            features, grid, window=self.window, positives=self.positives, temperature=self.temperature
        )
        return {"contrast": contrast}
