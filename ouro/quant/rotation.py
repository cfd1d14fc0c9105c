"""The orthogonal matrix in whose basis outlier channels spread out: Hadamard where the size allows.

Source: QuaRot and Quamba rotate the input of a linear layer and its weight by the same matrix.
"""

from __future__ import annotations

from functools import lru_cache

import torch
from torch import Tensor


@lru_cache(maxsize=32)
def rotation(size: int, device: str | torch.device = "cpu", dtype: torch.dtype = torch.float32) -> Tensor:
    """Orthogonal [size size]: the Hadamard matrix of the largest power of two in `size`, Kronecker a cosine basis.

    The cosine basis (DCT-II) serves the odd rest, so that every size has a matrix without randomness. Made on the CPU and
    kept on every device that asks for it.
    """
    power = size & -size
    hadamard = torch.ones(1, 1, dtype=torch.float64)
    while len(hadamard) < power:
        hadamard = torch.cat([torch.cat([hadamard, hadamard], 1), torch.cat([hadamard, -hadamard], 1)]) / 2**0.5
    rest = size // power
    places = torch.arange(rest, dtype=torch.float64)
    cosines = torch.cos(torch.pi * (places[None] + 0.5) * places[:, None] / rest) * (2 / rest) ** 0.5
    cosines[0] /= 2**0.5
    return torch.kron(hadamard, cosines).float().to(device, dtype)
