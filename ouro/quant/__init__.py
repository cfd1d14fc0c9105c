"""Quantization after training: `quantize` calibrates a method, `ouro.quant.apply` puts the result on a model."""

from ouro.quant.calibrate import quantize

__all__ = ["quantize"]
