"""Data-free generation: calibration images from noise, for a frozen model."""

from ouro.gen.synthesize import synthesize

__all__ = ["synthesize"]
