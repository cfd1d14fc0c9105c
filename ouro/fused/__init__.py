"""Whole models on the Triton kernels of `ouro.kernels`, in floating point or on integer codes; see `fuse`.

A layer of its own above models and quantization, because it has to see both: the modules of a Vim block, and how a
calibration encodes what they read.
"""

from __future__ import annotations

from ouro.fused.graph import Graphed, graphed
from ouro.fused.model import FusedModel, fuse
from ouro.kernels.launch import KernelError

__all__ = ["FusedModel", "Graphed", "KernelError", "fuse", "graphed"]
