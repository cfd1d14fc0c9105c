"""Exact products of int8 codes on CPUs: by torch's integer kernel where the processor does not saturate, else by floats."""

from __future__ import annotations

from functools import cache

import torch
from torch import Tensor

_FLOAT_K = 2**24 // (128 * 128)


def accumulate(a: Tensor, b: Tensor) -> Tensor:
    """Exact int32 a b^T of int8 codes [r c] and [o c], on a CPU."""
    if a.shape[1] == 1:
        # torch 2.13's _int_mm reads beyond a matrix of one column
        a, b = (torch.nn.functional.pad(x, (0, 1)) for x in (a, b))
    return torch._int_mm(a, b.T) if _int_mm_is_exact() else accumulate_by_floats(a, b)


def accumulate_by_floats(a: Tensor, b: Tensor) -> Tensor:
    """`accumulate` by float32 products of at most 1024 channels, whose sums stay below 2^24 and therefore exact."""
    parts = zip(a.split(_FLOAT_K, 1), b.split(_FLOAT_K, 1), strict=True)
    return sum((x.float() @ y.float().T).int() for x, y in parts)


@cache
def _int_mm_is_exact() -> bool:
    """False where the processor adds pairs of products in 16 bits: AVX2 and AVX-512 without VNNI saturate there."""
    large = torch.full((64, 64), 127, dtype=torch.int8)
    for a, b in ((large, large), (large, -large), (-large - 1, large)):
        if not (torch._int_mm(a, b.T) == 64 * int(a[0, 0]) * int(b[0, 0])).all():
            return False
    return True
