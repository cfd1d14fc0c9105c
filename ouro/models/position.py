"""Position embeddings at another resolution; the class token keeps its row."""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn import functional as F

from ouro.models.shapes import grid_of


def resize_pos_embed(
    embed: Tensor, cls_index: int | None, grid: tuple[int, int], source: tuple[int, int] | None = None
) -> Tensor:
    """Interpolates patch rows [1 l c] from their grid to `grid`; the class token goes to the new middle.

    Official Vim treats the first row as the class token although it sits at `cls_index`; here the real one is kept.

    Args:
        source: the grid that the rows are of, a square one if None.

    Raises:
        ValueError: the patch rows do not form that grid.
    """
    rows = embed if cls_index is None else torch.cat([embed[:, :cls_index], embed[:, cls_index + 1 :]], dim=1)
    maps = rows.transpose(1, 2).unflatten(2, grid_of(rows.shape[1], source))
    resized = F.interpolate(maps.float(), size=grid, mode="bicubic", align_corners=False).to(embed.dtype)
    out = resized.flatten(2).transpose(1, 2)
    if cls_index is None:
        return out
    middle = out.shape[1] // 2
    return torch.cat([out[:, :middle], embed[:, cls_index : cls_index + 1], out[:, middle:]], dim=1)
