"""The patched hidden state h_p: a weighted sum of states over a spatial neighbourhood (OuroMamba, section 3)."""

from __future__ import annotations

from torch import Tensor
from torch.nn import functional as F

from ouro.scan.order import to_raster
from ouro.types import PatchWindow


def box_sum(x: Tensor, size: int) -> Tensor:
    """Sum over the size x size window around each cell of x [... h w]; cells outside the grid count as nothing."""
    flat = x.reshape(-1, 1, *x.shape[-2:])
    return (F.avg_pool2d(flat, size, stride=1, padding=size // 2) * size**2).reshape(x.shape)


def patched_states(h: Tensor, window: PatchWindow) -> Tensor:
    """h_p(tau) = sum over k in the window of w_k h_k: h [b e l n] in scan order -> [b e p n] in raster order."""
    weighted = to_raster(h * window.weights[:, None, :, None], window.order, dim=2)
    height, width = window.order.grid
    grid = weighted.movedim(-1, 2).unflatten(-1, (height, width))
    return box_sum(grid, window.size).flatten(-2).movedim(2, -1)
