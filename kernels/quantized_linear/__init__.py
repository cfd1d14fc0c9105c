"""Linear layers on integer codes, weights of 8 or 4 bits, with what follows them fused in."""

from ouro.kernels.launch import Kernel
from ouro.kernels.quantized_linear.cases import BUILDS, CASES, floor
from ouro.kernels.quantized_linear.op import packed, quantized_linear, reference, unpacked

KERNEL = Kernel("quantized_linear", quantized_linear, reference, CASES, floor, BUILDS)

__all__ = ["KERNEL", "packed", "quantized_linear", "reference", "unpacked"]
