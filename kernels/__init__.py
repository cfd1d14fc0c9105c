"""Triton kernels, each beside its reference, its test and its benchmark; installed as `ouro.kernels`."""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from ouro.kernels.launch import Kernel

NAMES: tuple[str, ...] = (
    "bidirectional_scan",
    "causal_conv",
    "implicit_attention",
    "norm_quantize",
    "outlier_quantizer",
    "paired_linear",
    "patched_scan",
    "quantized_linear",
    "selective_scan",
)
"""One folder each, which offers `KERNEL`."""


def kernel(name: str) -> Kernel:
    """The record of one kernel; imports its folder, not yet Triton.

    Raises:
        ValueError: no such kernel; the message lists the known ones.
    """
    if name not in NAMES:
        raise ValueError(f"unknown kernel {name!r}; known: {', '.join(NAMES)}")
    return import_module(f"ouro.kernels.{name}").KERNEL
