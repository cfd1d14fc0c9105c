"""Quantization after training: `quantize` calibrates a method, `attach_calibration` puts the result on a model."""

from ouro.quant.apply import attach_calibration
from ouro.quant.calibrate import quantize

__all__ = ["attach_calibration", "quantize"]
