"""The scales that a search tries, and the tie of scales by powers of two.

Source: arXiv 2501.16738; agrees with Access-IC-Lab/PTQ_for_ViM on the candidates and the tie.
"""

from __future__ import annotations

import torch
from torch import Tensor

from ouro.quant.grid import positive


def initial(peak: Tensor, bits: int) -> Tensor:
    """The scale to search around, peak / (2^(bits-1) - 0.5): the peak gets the greatest code; 1 where the peak is 0.

    Raises:
        ValueError: a peak is not finite.
    """
    if not peak.isfinite().all():
        raise ValueError("the greatest |x| is not finite; look for NaN or infinity in what was recorded")
    return positive(peak / (2 ** (bits - 1) - 0.5))


def candidates(scale0: Tensor, count: int = 100, *, least: float = 0.0) -> Tensor:
    """Scales [... i] to try: scale0 (0.01 + i (1.2 - 0.01) / count) for i = 0 .. count - 1, from `least` scale0 up."""
    factors = 0.01 + torch.arange(count, dtype=torch.float64, device=scale0.device) * ((1.2 - 0.01) / count)
    return scale0.unsqueeze(-1) * factors[factors >= least].to(scale0.dtype)


def with_initial(scale0: Tensor, count: int = 100, *, least: float = 0.0) -> Tensor:
    """Scales [... 1 + i] that a search tries: scale0 itself, then its `candidates`."""
    return torch.cat([scale0.unsqueeze(-1), candidates(scale0, count, least=least)], -1)


def power_of_two(scales: Tensor) -> Tensor:
    """Scales [k] tied to the first one: s_0 2^round(log2(s_k / s_0)), so that the others are shifts of it."""
    return scales[0] * torch.exp2((scales / scales[0]).log2().round())
