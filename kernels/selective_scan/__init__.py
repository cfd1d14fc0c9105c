"""The selective scan, forward and backward: any L, N and number of channels, grouped or not; see README.md."""

from __future__ import annotations

from ouro.kernels.launch import Kernel
from ouro.kernels.selective_scan.cases import BUILDS, CASES, floor
from ouro.kernels.selective_scan.op import NAME, bounds, reference, scan_with_states, selective_scan, unsupported

__all__ = ["KERNEL", "reference", "scan_with_states", "selective_scan", "unsupported"]

KERNEL = Kernel(NAME, selective_scan, reference, CASES, floor, BUILDS, bounds=bounds, strided=True)
