"""Vim's two scans, their mean and the gate in one pass; see README.md."""

from __future__ import annotations

from ouro.kernels.bidirectional_scan.cases import BUILDS, CASES, floor
from ouro.kernels.bidirectional_scan.op import NAME, bidirectional_scan, bounds, reference
from ouro.kernels.launch import Kernel

__all__ = ["KERNEL", "bidirectional_scan", "reference"]

KERNEL = Kernel(NAME, bidirectional_scan, reference, CASES, floor, BUILDS, bounds=bounds, strided=True)
