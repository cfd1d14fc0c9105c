"""How well a map finds the object, where its mask is known: AUROC, pointing game, leakage; one number per sample."""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn import functional as F

from ouro.settings import check_count
from ouro.streams import generator


def mask_to_grid(mask: Tensor, grid: tuple[int, int], share: float = 0.5) -> Tensor:
    """Masks [b H W] at image resolution -> bool [b h w]: patches of which more than `share` of the area is object."""
    return F.adaptive_avg_pool2d(mask.float().unsqueeze(1), grid).squeeze(1) > share


def auroc(values: Tensor, mask: Tensor) -> Tensor:
    """Chance that an object patch ranks above a background patch, ties counting half; [b] in float64.

    Exact (Mann-Whitney U over mean ranks); 0.5 is chance, and any increasing rescaling of the map leaves it as it is.

    Args:
        values, mask: [b h w], the mask at the map's resolution.

    Raises:
        ValueError: NaN in a map, or a mask without object or without background, for which it is undefined.
    """
    values, mask = _flat(values, mask)
    inside = mask.sum(1)
    one_sided = ((inside == 0) | (inside == mask.shape[1])).nonzero()
    if len(one_sided):
        raise ValueError(
            f"mask {one_sided[0].item()} is all {'background' if inside[one_sided[0]] == 0 else 'object'}: "
            "AUROC needs both; leave the sample out"
        )
    ordered = values.sort(dim=1).values
    below = torch.searchsorted(ordered, values, right=False)
    ranks = (below + torch.searchsorted(ordered, values, right=True) + 1).double() / 2
    outside = mask.shape[1] - inside
    return ((ranks * mask).sum(1) - inside * (inside + 1) / 2) / (inside * outside)


def pointing(values: Tensor, mask: Tensor) -> Tensor:
    """Pointing game: 1 where the map's maximum lies inside the mask, else 0; tied maxima share the point; [b]."""
    values, mask = _flat(values, mask)
    top = values == values.amax(1, keepdim=True)
    return (top & mask).sum(1).double() / top.sum(1)


def leakage(values: Tensor, mask: Tensor) -> Tensor:
    """Background's share of the map's total size |map|; [b]. A map of zeros counts as even."""
    values, mask = _flat(values, mask)
    mass = values.abs().double()
    mass = torch.where(mass.sum(1, keepdim=True) > 0, mass, 1.0)
    return (mass * ~mask).sum(1) / mass.sum(1)


SCORES = {"auroc": auroc, "pointing": pointing, "leakage": leakage}
"""Score -> function of (map, mask); of leakage less is better."""


def bootstrap(values: Tensor, *, seed: int = 0, resamples: int = 2000) -> tuple[Tensor, Tensor]:
    """95 % percentile bootstrap interval of the mean over samples: values [s r] -> (low [r], high [r]).

    All columns share their resamples, so the difference of two columns is a paired comparison.

    Raises:
        ValueError: no sample, no resample, or values that are no table.
    """
    check_count("resamples", resamples)
    if values.dim() != 2 or not len(values):
        raise ValueError(f"values are {tuple(values.shape)}, expected (samples, scores) with one sample or more")
    count = len(values)
    drawn = torch.randint(count, (resamples, count), generator=generator(seed))
    weights = torch.zeros(resamples, count, dtype=torch.float64).scatter_add_(1, drawn, torch.ones_like(drawn).double())
    means = weights @ values.double().cpu() / count
    low, high = torch.quantile(means, torch.tensor([0.025, 0.975], dtype=torch.float64), dim=0)
    return low, high


def _flat(values: Tensor, mask: Tensor) -> tuple[Tensor, Tensor]:
    """Both as [b p], checked."""
    if values.shape != mask.shape or values.dim() != 3:
        shapes = f"map {tuple(values.shape)} and mask {tuple(mask.shape)}"
        raise ValueError(f"{shapes} differ, expected (b, h, w) for both; bring the mask over by mask_to_grid")
    if values.isnan().any():
        raise ValueError("the map holds NaN, which has no rank")
    # searchsorted warns about other layouts
    return values.detach().flatten(1).contiguous(), mask.to(values.device).bool().flatten(1)
