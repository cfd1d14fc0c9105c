"""Activations to integer codes with dynamic outlier channels, in one pass."""

from ouro.kernels.launch import Kernel
from ouro.kernels.outlier_quantizer.cases import BUILDS, CASES, floor
from ouro.kernels.outlier_quantizer.op import OutlierCodes, listed_of, quantize_outliers, reference

KERNEL = Kernel("outlier_quantizer", quantize_outliers, reference, CASES, floor, BUILDS, {"": (0.0, 0.0)}, widen=False)

__all__ = ["KERNEL", "OutlierCodes", "listed_of", "quantize_outliers", "reference"]
