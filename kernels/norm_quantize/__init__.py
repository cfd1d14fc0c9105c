"""Residual sum, norm and integer codes in one pass."""

from ouro.kernels.launch import Kernel
from ouro.kernels.norm_quantize.cases import BUILDS, CASES, floor
from ouro.kernels.norm_quantize.op import Normed, norm_quantize, reference

# the norm is rounded to float32 before it is rounded to a code, so that a code may come out one beside
_TOLERANCES = {"codes": (0.0, 1.0), "zero": (0.0, 1.0)}
KERNEL = Kernel("norm_quantize", norm_quantize, reference, CASES, floor, BUILDS, _TOLERANCES)

__all__ = ["KERNEL", "Normed", "norm_quantize", "reference"]
