"""Every map of a traced model: all layers, directions, sources and reductions, and their scores against masks."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional as F

from ouro.attention.implicit import alpha, scan_transition
from ouro.attention.maps import REDUCTIONS, delta_map, in_raster, merge, raster_matrices, reduce_matrix, rollout
from ouro.attention.patched import alpha_p
from ouro.attention.scores import SCORES, mask_to_grid
from ouro.scan.order import scan_names
from ouro.types import ScanRecord

Key = tuple[int, str, str, str]
"""(layer, direction, source, reduction) of a map."""

MERGED = "both"
"""The mean over all scans of a mixer, in raster order; other directions are single scans."""


def survey(layers: Sequence[Sequence[ScanRecord]], window: int, weights: str) -> Iterator[tuple[Key, Tensor]]:
    """Yields every map [b h w] of the scans of all mixers, first layer to last.

    Sources are "h" and "h_p", with every reduction that needs no query patch, and "delta", whose only reduction is
    "mean". "rollout" starts anew where the grid changes.
    """
    so_far: dict[tuple[str, str], Tensor] = {}
    for layer, scans in enumerate(layers):
        grid = scans[0].order.grid
        if layer and layers[layer - 1][0].order.grid != grid:
            so_far.clear()
        views = [raster_matrices(scan, window, weights) for scan in scans]
        gates = [delta_map(scan) for scan in scans]
        chosen_by = {
            MERGED: range(len(scans)),
            **{name: [index] for index, name in enumerate(scan_names([scan.order for scan in scans]))},
        }
        for direction, chosen in chosen_by.items():
            for source in ("h", "h_p"):
                matrix = merge([views[i][source] for i in chosen])
                place = (direction, source)
                so_far[place] = rollout([_patches(matrix, grid)], so_far.get(place))
                for reduction in _offered(source, matrix, grid):
                    # the rollout is kept from layer to layer, its map is what it gives on average
                    seen, rule = (so_far[place], "received") if reduction == "rollout" else (matrix, reduction)
                    yield (layer, direction, source, reduction), reduce_matrix(seen, rule, grid)
            yield (layer, direction, "delta", "mean"), merge([gates[i] for i in chosen])


def neighborhoods(
    layers: Sequence[Sequence[ScanRecord]], places: Sequence[tuple[int, str]]
) -> Iterator[tuple[tuple[int, str, str], Tensor]]:
    """Yields ((layer, source, reduction), map [b h w]) of h and of h_p for every (window, weights), scans merged.

    Sources are "h" and "h_p WINDOW WEIGHTS", as in "h_p 5 delta"; reductions are those of one layer. All places share
    the transition of a scan, which is most of the work.

    Raises:
        ValueError: see `patch_window`.
    """
    for layer, scans in enumerate(layers):
        grid = scans[0].order.grid
        by_source: dict[str, list[Tensor]] = {}
        for scan in scans:
            T = scan_transition(scan)
            by_source.setdefault("h", []).append(in_raster(alpha(scan, T=T), scan.order, class_token=True))
            for window, weights in places:
                by_source.setdefault(f"h_p {window} {weights}", []).append(alpha_p(scan, window, weights, T=T))
        for source, matrices in by_source.items():
            matrix = merge(matrices)
            for reduction in _offered(source.partition(" ")[0], matrix, grid):
                if reduction != "rollout":
                    yield (layer, source, reduction), reduce_matrix(matrix, reduction, grid)


def score(maps: Mapping[Any, Tensor], masks: Tensor) -> dict[str, Tensor]:
    """{score: [s k]}, one column per map, of maps [b h w] against masks [b H W]; on the CPU, wherever these are.

    All maps are scored on the finest grid among them, so that layers can be compared. A sample whose object fills no
    patch there, or all of them, is left out.
    """
    height, width = max((values.shape[1:] for values in maps.values()), key=lambda grid: grid.numel())
    finest = height, width
    inside = mask_to_grid(masks.to(next(iter(maps.values())).device), finest)
    usable = inside.flatten(1).any(1) & ~inside.flatten(1).all(1)
    stacked = torch.stack([_enlarged(values[usable], finest) for values in maps.values()], dim=1)  # [s k h w]
    repeated = inside[usable].unsqueeze(1).expand_as(stacked)
    rows = {name: rule(stacked.flatten(0, 1), repeated.flatten(0, 1)) for name, rule in SCORES.items()}
    return {name: row.unflatten(0, stacked.shape[:2]).cpu() for name, row in rows.items()}


def _offered(source: str, matrix: Tensor, grid: tuple[int, int]) -> Iterator[str]:
    """Reductions that this matrix has a map for; those of h and h_p alike come first."""
    has_class = matrix.shape[1] > grid[0] * grid[1]
    for name, rule in REDUCTIONS.items():
        if source in rule.sources and not rule.needs_query and (has_class or not rule.needs_class):
            yield name


def _patches(matrix: Tensor, grid: tuple[int, int]) -> Tensor:
    cells = grid[0] * grid[1]
    return matrix[:, :cells, :cells]


def _enlarged(values: Tensor, grid: tuple[int, int]) -> Tensor:
    if tuple(values.shape[1:]) == grid:
        return values
    return F.interpolate(values.unsqueeze(1), size=grid, mode="nearest").squeeze(1)
