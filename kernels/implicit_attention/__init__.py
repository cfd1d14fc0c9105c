"""Rows of implicit attention in closed form; see README.md."""

from __future__ import annotations

from ouro.kernels.implicit_attention.cases import BUILDS, CASES, floor
from ouro.kernels.implicit_attention.op import NAME, bounds, implicit_attention, reference
from ouro.kernels.launch import Kernel

__all__ = ["KERNEL", "implicit_attention", "reference"]

KERNEL = Kernel(NAME, implicit_attention, reference, CASES, floor, BUILDS, bounds=bounds, strided=True)
