"""Losses on synthetic images, each one number per sample: the contrast of patches, their diversity, smoothness.

Source: OuroMamba (arXiv 2503.10959) section 3 for the contrast; PSAQ-ViT (ECCV 2022) for the other two. Per sample,
so that neither the batch size nor its batch-mates change an image.
"""

from __future__ import annotations

import math

import torch
from torch import Tensor
from torch.nn import functional as F

from ouro.gen import density


def neighborhood(grid: tuple[int, int], size: int) -> Tensor:
    """Which patches lie in the size x size window around each patch, itself left out: bool [p p]."""
    rows, columns = torch.meshgrid(torch.arange(grid[0]), torch.arange(grid[1]), indexing="ij")
    cells = torch.stack([rows.flatten(), columns.flatten()])
    far = (cells[:, :, None] - cells[:, None, :]).abs().amax(0)
    return (far <= size // 2) & (far > 0)


def patch_contrast(
    features: Tensor, grid: tuple[int, int], *, window: int = 5, positives: int = 12, temperature: float = 0.1,
    negatives: str = "all",
) -> Tensor:  # fmt: skip
    """InfoNCE over patches: similar neighbors are pulled together, every other patch is pushed away; [b].

    Args:
        features: one vector per patch, [b p f]; compared by cosine.
        positives: at most this many of a patch's neighbors, the most similar ones; at the border the better half.
        negatives: "all" other patches, or the rest of the "window".

    Source: OuroMamba section 3 with the choices of a 5 x 5 window and 12 positives.

    Raises:
        ValueError: other negatives.
    """
    if negatives not in ("all", "window"):
        raise ValueError(f"unknown negatives {negatives!r}; known: all, window")
    unit = F.normalize(features, dim=-1)
    similarity = unit @ unit.transpose(1, 2)
    inside = neighborhood(grid, window).to(features.device)
    count = inside.sum(1)
    wanted = torch.minimum(torch.full_like(count, positives), (count + 1) // 2)
    # only the window's members are ranked and compared, not whole rows
    members = inside.to(torch.uint8).topk(int(count.max()), dim=1).indices
    chosen = similarity.gather(2, members.expand(len(features), -1, -1))
    with torch.no_grad():
        values = chosen.masked_fill(~inside.gather(1, members), -math.inf)
        rank = values.argsort(dim=-1, descending=True, stable=True).argsort(dim=-1)
        is_positive = rank < wanted[:, None]
        places = members.expand(len(features), -1, -1)
        positive = torch.zeros_like(similarity, dtype=torch.bool).scatter(2, places, is_positive)
        itself = torch.eye(len(inside), dtype=torch.bool, device=features.device)
        left_out = positive | itself if negatives == "all" else positive | ~inside
    against = (similarity / temperature).masked_fill(left_out, -math.inf).logsumexp(-1, keepdim=True)
    # log(e^positive + e^negatives) - positive
    per_pair = F.softplus(against - chosen / temperature)
    return ((per_pair * is_positive).sum(-1) / wanted).mean(-1)


def similarity_entropy(features: Tensor, *, points: int = 64, bandwidth: float = 0.01) -> Tensor:
    """Differential entropy of the similarities between an image's patches, [b]: large where they are diverse.

    The density is a Gaussian kernel estimate over the cosines of all pairs, read at `points` places between the least
    and the greatest; the integral is that of PSAQ-ViT, -(f + 1e-4) log(f + 1e-4) by the trapezoid rule.

    Args:
        features: one vector per patch, [b p f].
    """
    unit = F.normalize(features, dim=-1)
    patches = unit.shape[1]
    first, second = torch.triu_indices(patches, patches, offset=1, device=unit.device)
    pairs = (unit @ unit.transpose(1, 2))[:, first, second]
    low, high = pairs.detach().amin(1), pairs.detach().amax(1)
    places = low[:, None] + (high - low)[:, None] * torch.linspace(0, 1, points, device=pairs.device)
    f = _Density.apply(pairs, places, bandwidth) + 1e-4
    return torch.trapezoid(-f * f.log(), places, dim=1)


class _Density(torch.autograd.Function):
    """f(x_k) = mean over i of N(x_k; s_i, h^2), [b k]; place after place, so that nothing of size [b k i] is held.

    On the CPU the compiled `ouro.gen.density` leaves out what is more than REACH bandwidths away.
    """

    @staticmethod
    def forward(ctx, pairs, places, bandwidth):
        ctx.save_for_backward(pairs, places)
        ctx.bandwidth = bandwidth
        if pairs.device.type == "cpu":
            return density.forward(pairs, places, bandwidth)
        columns = [_kernel(pairs, place, bandwidth).mean(1) for place in places.T]
        return torch.stack(columns, dim=1)

    @staticmethod
    def backward(ctx, upstream):
        pairs, places = ctx.saved_tensors
        if pairs.device.type == "cpu":
            return density.backward(pairs, places, ctx.bandwidth, upstream), None, None
        to_pairs = torch.zeros_like(pairs)
        for place, weight in zip(places.T, upstream.T, strict=True):
            slope = (place[:, None] - pairs) / ctx.bandwidth**2
            to_pairs += weight[:, None] * _kernel(pairs, place, ctx.bandwidth) * slope
        return to_pairs / pairs.shape[1], None, None


def _kernel(pairs: Tensor, place: Tensor, bandwidth: float) -> Tensor:
    """N(place; s_i, h^2) for every pair, [b i]."""
    return torch.exp(-0.5 * ((place[:, None] - pairs) / bandwidth) ** 2) / (bandwidth * math.sqrt(2 * math.pi))


def total_variation(images: Tensor) -> Tensor:
    """Roughness of each image relative to white noise of unit variance (which has 1), [b].

    The sum of the L2 norms of the differences to the right, lower and two diagonal neighbors, as in PSAQ-ViT.
    """
    steps = [
        images[..., :, 1:] - images[..., :, :-1],
        images[..., 1:, :] - images[..., :-1, :],
        images[..., 1:, 1:] - images[..., :-1, :-1],
        images[..., 1:, :-1] - images[..., :-1, 1:],
    ]
    rough = sum(step.flatten(1).norm(dim=1) for step in steps)
    noise = sum(math.sqrt(2 * step[0].numel()) for step in steps)
    return rough / noise
