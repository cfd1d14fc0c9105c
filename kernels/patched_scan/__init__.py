"""The selective scan with the patched output y_p = C h_p; see README.md."""

from __future__ import annotations

from ouro.kernels.launch import Kernel
from ouro.kernels.patched_scan.cases import BUILDS, CASES, floor
from ouro.kernels.patched_scan.op import NAME, WIDEST, Patched, bounds, patched_scan, reference

__all__ = ["KERNEL", "WIDEST", "Patched", "patched_scan", "reference"]

KERNEL = Kernel(NAME, patched_scan, reference, CASES, floor, BUILDS, bounds=bounds, strided=True)
