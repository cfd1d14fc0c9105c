"""What a set of images is worth for calibration, before anything is quantized with it, measured against real ones.

Everything is read through the model that is to be quantized: how its features spread, how far they are from those of
real images, how much of every tap's range is met, and how much the patches of an image resemble one another.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import torch
from torch import Tensor
from torch.nn import functional as F

from ouro.gen.methods.psaq import PsaqGen
from ouro.taps import record, taps
from ouro.tasks.frechet import distance, moments
from ouro.vision import VisionModel, judging

BATCH = 8
VALUES = 512
"""Values of a tap that are kept of every image, evenly spaced over the tensor."""


@dataclass(frozen=True, slots=True)
class Coverage:
    """How one tap sees a set, compared with real images.

    overlap: length that both ranges share, as a part of what they span together. outside: share of the real values
    beyond the set's range. ks: Kolmogorov-Smirnov distance of the two distributions, 0 to 1.
    """

    path: str
    site: str
    overlap: float
    outside: float
    ks: float


@torch.no_grad()
def features(model: VisionModel, images: Tensor) -> Tensor:
    """What the classifier of `model` looks at, [s c] on the CPU; the images may be anywhere."""
    with judging(model):
        return torch.cat([model.features(chunk.to(model.device)).cpu() for chunk in images.split(BATCH)])


def diversity(vectors: Tensor, labels: Tensor | None = None) -> dict[str, float | None]:
    """{pairwise, within, between}: mean cosine distance of all pairs of features [s c], of pairs of one class, of two.

    None where there is no such pair, or no labels. In float64.
    """
    unit = F.normalize(vectors.double(), dim=-1)
    distances = 1 - unit @ unit.T
    pairs = torch.ones_like(distances, dtype=torch.bool).triu(1)
    means = {"pairwise": _mean(distances[pairs]), "within": None, "between": None}
    if labels is not None:
        same = (labels[:, None] == labels[None, :]).to(distances.device)
        means |= {"within": _mean(distances[pairs & same]), "between": _mean(distances[pairs & ~same])}
    return means


def frechet(first: Tensor, second: Tensor) -> float:
    """Frechet distance of two clouds of features [s c], see `ouro.tasks.frechet`; compare sets of one size.

    Raises:
        ValueError: fewer than two samples, or clouds of different width.
    """
    if min(len(first), len(second)) < 2:
        raise ValueError(f"{min(len(first), len(second))} sample(s) have no covariance; give two or more")
    if first.shape[1] != second.shape[1]:
        raise ValueError(f"features of {first.shape[1]} and of {second.shape[1]} channels cannot be compared")
    return distance(moments(first.cpu()), moments(second.cpu())).item()


def coverage(model: VisionModel, images: Tensor, real: Tensor) -> list[Coverage]:
    """Every tap of activations, in the order of the model."""
    sites = {path: tap.site for path, tap in taps(model) if "b" in tap.axes and not tap.costly}
    seen, wanted = _values(model, images, list(sites)), _values(model, real, list(sites))
    rows = []
    for path, site in sites.items():
        if path not in seen:
            continue
        (low, high, some), (real_low, real_high, real_some) = seen[path], wanted[path]
        span = max(high, real_high) - min(low, real_low)
        shared = max(0.0, min(high, real_high) - max(low, real_low))
        outside = ((real_some < low) | (real_some > high)).double().mean().item()
        # two constants that are equal overlap completely
        rows.append(Coverage(path, site, shared / span if span > 0 else 1.0, outside, _ks(some, real_some)))
    return rows


@torch.no_grad()
def similarity_density(model: VisionModel, images: Tensor, bins: int = 80) -> Tensor:
    """Density of the cosines between patches of one image, over [-1, 1]: [blocks bins], in what PSAQ-ViT reads (y)."""
    objective = PsaqGen(model, blocks=0, channels=0)
    counts = None
    for chunk in images.split(BATCH):
        with judging(model), record(model, *objective.patterns) as trace:
            model(chunk.to(model.device))
        rows = torch.stack([_histogram(block, bins).cpu() for block in objective.per_block(trace).values()])
        counts = rows if counts is None else counts + rows
    assert counts is not None
    return counts / counts.sum(1, keepdim=True) * (bins / 2)


def _mean(values: Tensor) -> float | None:
    return values.mean().item() if values.numel() else None


def _histogram(vectors: Tensor, bins: int) -> Tensor:
    unit = F.normalize(vectors, dim=-1)
    first, second = torch.triu_indices(unit.shape[1], unit.shape[1], offset=1, device=unit.device)
    pairs = (unit @ unit.transpose(1, 2))[:, first, second]
    return torch.histc(pairs.clamp(-1, 1), bins, -1, 1).double()


def _values(model: VisionModel, images: Tensor, paths: list[str]) -> dict[str, tuple[float, float, Tensor]]:
    """Path -> least and greatest value, and some values; paths that never fire are left out."""
    lows: dict[str, float] = {}
    highs: dict[str, float] = {}
    some: dict[str, list[Tensor]] = {}
    for path, tensor in _seen(model, images, paths):
        lows[path] = min(lows.get(path, torch.inf), tensor.min().item())
        highs[path] = max(highs.get(path, -torch.inf), tensor.max().item())
        flat = tensor.flatten(1)
        some.setdefault(path, []).append(flat[:, :: max(1, flat.shape[1] // VALUES)].flatten().cpu())
    return {path: (lows[path], highs[path], torch.cat(values)) for path, values in some.items()}


@torch.no_grad()
def _seen(model: VisionModel, images: Tensor, paths: list[str]) -> Iterator[tuple[str, Tensor]]:
    for chunk in images.split(BATCH):
        with judging(model), record(model, *paths) as trace:
            model(chunk.to(model.device))
        yield from trace.tensors.items()


def _ks(first: Tensor, second: Tensor) -> float:
    """Greatest difference of the two empirical distribution functions."""
    a, b = first.double().sort().values, second.double().sort().values
    places = torch.cat([a, b])
    below = [torch.searchsorted(x, places, right=True).double() / len(x) for x in (a, b)]
    return (below[0] - below[1]).abs().max().item()
