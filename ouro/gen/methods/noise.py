"""Gaussian noise as calibration images: the control every synthesis has to beat."""

from __future__ import annotations

from ouro.vision import VisionModel


class GaussianNoise:
    """Nothing to optimise: the initial images are the set."""

    patterns: tuple[str, ...] = ()

    def __init__(self, model: VisionModel, *, seed: int = 0) -> None:
        del model
        self.seed = seed
