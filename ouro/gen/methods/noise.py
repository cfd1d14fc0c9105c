"""Gaussian noise as calibration images: the control every synthesis has to beat."""

from __future__ import annotations

from ouro.gen.objective import Objective
from ouro.vision import VisionModel


class GaussianNoise(Objective):
    """Nothing to optimise: the initial images are the set."""

    title = "Gaussian noise"
    optimises = False

    def __init__(self, model: VisionModel, *, seed: int = 0) -> None:
        super().__init__(model, seed=seed)
