"""The causal convolutions and SiLU of both directions in one pass; see README.md."""

from __future__ import annotations

from ouro.kernels.causal_conv.cases import BUILDS, CASES, floor
from ouro.kernels.causal_conv.op import NAME, Convolved, bounds, causal_conv, reference
from ouro.kernels.launch import Kernel

__all__ = ["KERNEL", "Convolved", "causal_conv", "reference"]

KERNEL = Kernel(NAME, causal_conv, reference, CASES, floor, BUILDS, bounds=bounds, strided=True)
