"""A linear layer for either of Vim's two directions, in one pass; see README.md."""

from __future__ import annotations

from ouro.kernels.launch import Kernel
from ouro.kernels.paired_linear.cases import BUILDS, CASES, floor
from ouro.kernels.paired_linear.op import NAME, Pair, paired_linear, reference

__all__ = ["KERNEL", "Pair", "paired_linear", "reference"]

KERNEL = Kernel(NAME, paired_linear, reference, CASES, floor, BUILDS, strided=True)
