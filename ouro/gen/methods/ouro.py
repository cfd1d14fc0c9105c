"""OuroMamba-Gen: contrast patches by the implicit attention of the patched hidden state, under a class prior.

Source: OuroMamba (arXiv 2503.10959) section 3, methods G3-G12. The feature of a patch is either its row of the
patched attention alpha_p, as in the paper, or y_p = C h_p, which needs no [p p] matrix per channel and is the default
on CPUs; `features` says which one made a set.
"""

from __future__ import annotations

from typing import Annotated, Any, Literal

from torch import Tensor

from ouro.attention.patched import WEIGHTS, alpha_p, patch_window
from ouro.gen.losses import patch_contrast, similarity_entropy
from ouro.gen.objective import PatchObjective, patched_feature
from ouro.settings import Least
from ouro.types import ScanRecord
from ouro.vision import VisionModel


class OuroMambaGen(PatchObjective):
    """Loss terms L_C (patch contrast), L_O (class) and L_TV (smoothness).

    Args:
        features: "y_p" or "alpha_p".
        window: side of the neighborhood of h_p and of the candidates for positives.
        positives: positives per patch.
        weights: "delta" or "uniform" weights inside the window.
        negatives: "all" other patches, or the rest of the "window".
        entropy_weight: of PSAQ-ViT's entropy of patch similarities, for the ablation that adds it; 0 leaves it out.
        common: blocks, channels, class_weight, smooth_weight, class_loss; see `ouro.gen.objective`.

    Raises:
        ValueError: an option outside its range.
    """

    title = "OuroMamba-Gen: contrast of patched implicit attention"
    choices = ("y_p", "alpha_p")

    def __init__(
        self, model: VisionModel, *, features: Literal["y_p", "alpha_p"] = "y_p", window: Annotated[int, Least(3)] = 5,
        positives: Annotated[int, Least(1)] = 12,
        weights: Literal["delta", "uniform"] = "delta", temperature: Annotated[float, Least(1e-3)] = 0.1,
        negatives: Literal["all", "window"] = "all",
        entropy_weight: Annotated[float, Least(0)] = 0.0, **common: Any,
    ) -> None:  # fmt: skip
        super().__init__(model, features=features, **common)
        check_window(model, window, positives)
        if weights not in WEIGHTS:
            raise ValueError(f"unknown weights {weights!r}; known: {', '.join(WEIGHTS)}")
        self.window, self.positives, self.weights = window, positives, weights
        self.temperature, self.negatives, self.entropy_weight = temperature, negatives, entropy_weight

    def feature(self, scan: ScanRecord, number: int) -> Tensor:
        place = patch_window(scan, self.window, self.weights)
        return patched_feature(self, scan, number, place, lambda one: alpha_p(one, self.window, self.weights))

    def of_features(self, features: Tensor, grid: tuple[int, int]) -> dict[str, Tensor]:
        contrast = patch_contrast(
            features, grid, window=self.window, positives=self.positives, temperature=self.temperature,
            negatives=self.negatives,
        )  # fmt: skip
        if not self.entropy_weight:
            return {"contrast": contrast}
        return {"contrast": contrast, "entropy": -self.entropy_weight * similarity_entropy(features)}


def check_window(model: VisionModel, window: int, positives: int) -> None:
    """Refuses a neighborhood wider than the model's largest grid, and more positives than it holds.

    Later stages may have smaller grids: there a window takes in what there is.

    Raises:
        ValueError: the message has what is allowed.
    """
    side = max(min(orders[0].grid) for orders in model.mixers().values())
    if window % 2 == 0 or not 3 <= window <= side:
        raise ValueError(f"window is {window}, expected an odd number from 3 to {side} (the model's largest grid)")
    if not 1 <= positives < window**2:
        raise ValueError(f"positives is {positives}, expected 1 to {window**2 - 1} (the window without its center)")
