"""How far an image is from those that a model was trained on, as the model's own blocks see it.

Every patch of every block is compared with a memory of patches of images that the model knows. What the classifier
looks at says less: the features of a small model lie where its classes do, whatever the image.

Source: Roth et al. 2022, "Towards total recall in industrial anomaly detection" (a memory of patch features, distance to
the nearest one), for all blocks together and with a random part of the patches in place of a coreset.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass

import torch
from torch import Tensor
from torch.nn import functional as F

from ouro.taps import record, taps
from ouro.vision import VisionModel

BATCH = 8
PATCHES = 2048
"""Patches of a block that are remembered."""
QUANTILE = 0.99
"""Of held-out images that are not called strange."""


@dataclass(frozen=True, slots=True)
class Familiarity:
    """What a model knows: patches of each block as unit vectors [k c], and how far from them held-out images are.

    usual: block -> median distance of held-out images, so that all blocks count alike. limit: `QUANTILE` of their
    strangeness, which is 1 for the middle one of them.
    """

    memory: Mapping[str, Tensor]
    usual: Mapping[str, float]
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
        seen[path].append(patches.flatten(0, 1))
    memory = {}
    for path, parts in seen.items():
        every = torch.cat(parts)
        chosen = torch.randperm(len(every), generator=torch.Generator().manual_seed(seed))[:PATCHES]
        memory[path] = every[chosen.to(every.device)]
    distances = _distances(model, held_out, memory)
    # a block that has never seen anything else is no measure, but no reason to divide by zero either
    usual = {path: max(distance.median().item(), 1e-9) for path, distance in distances.items()}
    limit = _together(distances, usual).quantile(QUANTILE).item()
    return Familiarity(memory, usual, limit)


def strangeness(model: VisionModel, images: Tensor, known: Familiarity) -> Tensor:
    """How strange images [s 3 h w] are, [s]: 1 is usual, above `known.limit` they are far from what the model knows."""
    return _together(_distances(model, images, known.memory), known.usual)


def blocks(model: VisionModel) -> list[str]:
    """The taps that are looked at: what all blocks give, [b l c]."""
    return [path for path, tap in taps(model) if tap.site == "block.out"]


def _distances(model: VisionModel, images: Tensor, memory: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Block -> mean over its patches of the cosine distance to the nearest patch in memory, [s]."""
    found: dict[str, list[Tensor]] = {path: [] for path in memory}
    for path, patches in _patches(model, images, list(memory)):
        known = memory[path].to(patches.device)
        # image by image, because all pairs of patches of many would not fit
        nearest = torch.stack([(1 - (one @ known.T).amax(1)).mean() for one in patches])
        found[path].append(nearest.cpu())
    return {path: torch.cat(parts) for path, parts in found.items()}


def _together(distances: Mapping[str, Tensor], usual: Mapping[str, float]) -> Tensor:
    return torch.stack([distance / usual[path] for path, distance in distances.items()]).mean(0)


@torch.no_grad()
def _patches(model: VisionModel, images: Tensor, paths: list[str]) -> Iterator[tuple[str, Tensor]]:
    """(block, unit vectors of its patches [b l c]) of one batch after the other."""
    for chunk in images.split(BATCH):
        with record(model, *paths) as trace:
            model(chunk.to(model.device))
        for path, tensor in trace.tensors.items():
            yield path, F.normalize(tensor, dim=-1)
