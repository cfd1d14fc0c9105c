"""How far an image is from those that a model was trained on, as the model's own blocks see it.

In every block, the patches of an image are compared with a memory of patches of images that the model knows, and the mean
and spread of its patches with those of whole images. What the classifier looks at says less: the features of a small
model lie where its classes do, whatever the image.

Source: Roth et al. 2022, "Towards total recall in industrial anomaly detection" (a memory of patch features, distance to
the nearest one), here for all blocks, with a random part of the patches in place of a coreset; and Sun et al. 2022,
"Out-of-distribution detection with deep nearest neighbors", for whole images.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, replace

import torch
from torch import Tensor
from torch.nn import functional as F

from ouro.streams import generator
from ouro.taps import record, taps
from ouro.vision import VisionModel, judging

BATCH = 8
PATCHES = 2048
"""Patches of a block that are remembered."""
NEIGHBORS = 5
"""Whole images that the distance to the nearest ones is the mean of."""
QUANTILE = 0.99
"""Of held-out images that are not called strange."""


@dataclass(frozen=True, slots=True)
class Familiarity:
    """What a model knows, and how far from it held-out images are.

    patches: block -> unit vectors [k c]. images: block -> mean and spread over patches, as unit vectors [n 2c].
    usual: block -> (mean, deviation) of the distances of held-out images, of patches and of whole images, so that all
    of them count alike. limit: `QUANTILE` of the strangeness of held-out images, which is 0 on average.
    """

    patches: Mapping[str, Tensor]
    images: Mapping[str, Tensor]
    usual: Mapping[str, tuple[tuple[float, float], tuple[float, float]]]
    limit: float


def familiarity(model: VisionModel, known: Tensor, held_out: Tensor, *, seed: int = 0) -> Familiarity:
    """Remembers known images [k 3 h w], and takes the measure of what is usual by held-out ones, in model space.

    Raises:
        ValueError: no known or no held-out image, or a model without blocks to look at.
    """
    if not len(known) or not len(held_out):
        raise ValueError(
            f"{len(known)} known and {len(held_out)} held-out images were given, expected 1 or more of both"
        )
    paths = blocks(model)
    if not paths:
        raise ValueError(f"{model.info.name} has no blocks to look at")
    seen: dict[str, list[Tensor]] = {path: [] for path in paths}
    for path, patches in _patches(model, known, paths):
        seen[path].append(patches)
    every = {path: torch.cat(parts) for path, parts in seen.items()}
    around = Familiarity({}, {path: _summary(patches) for path, patches in every.items()}, {}, 0.0)
    for path, patches in every.items():
        loose = F.normalize(patches.flatten(0, 1), dim=-1)
        chosen = torch.randperm(len(loose), generator=generator(seed))[:PATCHES]
        around = replace(around, patches={**around.patches, path: loose[chosen.to(loose.device)]})
    distances = _distances(model, held_out, around)
    usual = {path: (_spread(one), _spread(other)) for path, (one, other) in distances.items()}
    limit = _together(distances, usual).quantile(QUANTILE).item()
    return replace(around, usual=usual, limit=limit)


def strangeness(model: VisionModel, images: Tensor, known: Familiarity) -> Tensor:
    """How strange images [s 3 h w] are, [s]: 0 is usual, above `known.limit` they are far from what the model knows."""
    return _together(_distances(model, images, known), known.usual)


def blocks(model: VisionModel) -> list[str]:
    """The taps that are looked at: what all blocks give, [b l c]."""
    return [path for path, tap in taps(model) if tap.site == "block.out"]


def _distances(model: VisionModel, images: Tensor, known: Familiarity) -> dict[str, tuple[Tensor, Tensor]]:
    """Block -> cosine distances to what is nearest in memory, of patches (their mean) and of the whole image, [s] each."""
    near_each: dict[str, list[tuple[Tensor, Tensor]]] = {path: [] for path in known.patches}
    for path, patches in _patches(model, images, list(known.patches)):
        memory, whole = known.patches[path].to(patches.device), known.images[path].to(patches.device)
        # image by image, because all pairs of patches of many would not fit
        near = torch.stack([(1 - (F.normalize(one, dim=-1) @ memory.T).amax(1)).mean() for one in patches])
        alike = (_summary(patches) @ whole.T).topk(min(NEIGHBORS, len(whole)), dim=1).values
        near_each[path].append((near.cpu(), (1 - alike.mean(1)).cpu()))
    distances = {}
    for path, parts in near_each.items():
        patches_of, images_of = zip(*parts, strict=True)
        distances[path] = (torch.cat(patches_of), torch.cat(images_of))
    return distances


def _summary(patches: Tensor) -> Tensor:
    """Mean and deviation over the patches of each image [b l c], as unit vectors [b 2c]."""
    spread = patches.std(1, correction=0)
    return F.normalize(torch.cat([patches.mean(1), spread], dim=-1), dim=-1)


def _spread(distances: Tensor) -> tuple[float, float]:
    # a block whose distances are all the same is no measure, but no reason to divide by zero either
    return distances.mean().item(), max(distances.std(correction=0).item(), 1e-9)


def _together(
    distances: Mapping[str, tuple[Tensor, Tensor]], usual: Mapping[str, tuple[tuple[float, float], tuple[float, float]]]
) -> Tensor:
    """The mean over blocks, and over both distances, of how many deviations each is beyond its mean."""
    beyond = [
        (one - mean) / deviation
        for path, both in distances.items()
        for one, (mean, deviation) in zip(both, usual[path], strict=True)
    ]
    return torch.stack(beyond).mean(0)


@torch.no_grad()
def _patches(model: VisionModel, images: Tensor, paths: list[str]) -> Iterator[tuple[str, Tensor]]:
    """(block, its patches [b l c]) of one batch after the other."""
    for chunk in images.split(BATCH):
        with judging(model), record(model, *paths) as trace:
            model(chunk.to(model.device))
        yield from trace.tensors.items()
