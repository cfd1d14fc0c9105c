"""The discretised system of one scan, derived on demand: A_bar by zero-order hold, B_bar by Euler's rule.

Source: Gu & Dao 2023, eq. 4, with the simplification of B_bar that every Mamba implementation uses.
"""

from __future__ import annotations

from torch import Tensor

from ouro.types import ScanInputs


def per_channel(matrix: Tensor, channels: int) -> Tensor:
    """B or C [b n l] or grouped [b g n l] -> [b e l n], without a copy when ungrouped."""
    if matrix.dim() == 3:
        return matrix.transpose(1, 2).unsqueeze(1).expand(-1, channels, -1, -1)
    return matrix.transpose(2, 3).repeat_interleave(channels // matrix.shape[1], dim=1)


def discretize(inputs: ScanInputs) -> tuple[Tensor, Tensor]:
    """(A_bar, B_bar), both [b e l n]: exp(delta A) and delta B."""
    delta = inputs.delta.unsqueeze(-1)
    return (delta * inputs.A.unsqueeze(1)).exp(), delta * per_channel(inputs.B, inputs.u.shape[1])
