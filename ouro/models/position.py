"""Position embeddings at another resolution; the class token keeps its row."""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn import functional as F


def resize_pos_embed(embed: Tensor, cls_index: int | None, grid: tuple[int, int]) -> Tensor:
    """Interpolates patch rows [1 l c] from their square grid to `grid`; the class token goes to the new middle.

    Official Vim treats the first row as the class token although it sits at `cls_index`; here the real one is kept.

    Raises:
        ValueError: the patch rows do not form a square grid.
    """
    rows = embed if cls_index is None else torch.cat([embed[:, :cls_index], embed[:, cls_index + 1 :]], dim=1)
    side = round(rows.shape[1] ** 0.5)
    if side * side != rows.shape[1]:
        raise ValueError(f"position embedding has {rows.shape[1]} patch rows, expected a square number")
    maps = rows.transpose(1, 2).unflatten(2, (side, side))
    resized = F.interpolate(maps.float(), size=grid, mode="bicubic", align_corners=False).to(embed.dtype)
    out = resized.flatten(2).transpose(1, 2)
    if cls_index is None:
        return out
    middle = out.shape[1] // 2
    return torch.cat([out[:, :middle], embed[:, cls_index : cls_index + 1], out[:, middle:]], dim=1)
