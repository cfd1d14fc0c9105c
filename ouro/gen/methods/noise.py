"""Gaussian noise as calibration images: the control that every synthesis has to outperform."""

from __future__ import annotations

from ouro.gen.objective import Objective
from ouro.vision import VisionModel


class GaussianNoise(Objective):
    """Nothing to optimize: the initial images are the set."""

    title = "Gaussian noise"
    optimizes = False

    def __init__(self, model: VisionModel, *, seed: int = 0) -> None:
        super().__init__(model, seed=seed)
