"""From attention matrices to maps over the image: raster order, directions merged, one number per patch.

Every scan of a mixer is brought to raster order first, so that directions can be averaged; then a named reduction
turns the matrix into a map. `alpha` is signed: by default a map shows its size, |channel mean|, because the sign says
how a patch is read, not whether it is.
Source: rollout follows Abnar & Zuidema 2020 (Quantifying Attention Flow in Transformers).
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from ouro.attention.implicit import alpha, scan_transition
from ouro.attention.patched import alpha_p, raster_columns
from ouro.scan.order import to_raster
from ouro.types import AttentionMap, ScanOrder, ScanRecord


def by_mixer(scans: Iterable[ScanRecord]) -> dict[str, list[ScanRecord]]:
    """Mixer path -> its scans, in the order of the model: "layers.3.mixer" owns "layers.3.mixer.scans.0" and ".1"."""
    mixers: dict[str, list[ScanRecord]] = {}
    for scan in scans:
        mixers.setdefault(scan.path.rsplit(".", 2)[0], []).append(scan)
    return mixers


def in_raster(weights: Tensor, order: ScanOrder, class_token: bool = False) -> Tensor:
    """Rows and columns [.. l l] in scan order -> [.. p p] in raster order; the class token's appended if asked for."""
    rows = raster_columns(weights.transpose(-1, -2), order, class_token).transpose(-1, -2)
    return raster_columns(rows, order, class_token)


def merge(matrices: Sequence[Tensor]) -> Tensor:
    """Mean over the scans of one mixer, all in raster order.

    Raises:
        ValueError: nothing to merge, or matrices of different shapes.
    """
    shapes = {tuple(matrix.shape) for matrix in matrices}
    if len(shapes) != 1:
        raise ValueError(f"cannot merge matrices of shapes {sorted(shapes)}; bring all to one raster first")
    return torch.stack(list(matrices)).mean(0)


def raster_matrices(record: ScanRecord, window: int, weights: str = "delta") -> dict[str, Tensor]:
    """{"h": alpha, "h_p": alpha_p} of one scan, channel means in raster order; both from one transition.

    "h" has the class token as its last row and column, where there is one: [b p+1 p+1]; "h_p" is [b p p].

    Raises:
        ValueError: see `patch_window`.
    """
    T = scan_transition(record)
    return {
        "h": in_raster(alpha(record, T=T), record.order, class_token=True),
        "h_p": alpha_p(record, window, weights, T=T),
    }


def delta_map(record: ScanRecord) -> Tensor:
    """Channel mean of delta at every patch, [b h w]: the input gate, the simplest map a scan offers."""
    return to_raster(record.inputs.delta.mean(1), record.order).unflatten(-1, record.order.grid)


def rollout(matrices: Sequence[Tensor], before: Tensor | None = None) -> Tensor:
    """Attention through several layers, first to last: product of (I + |alpha| with rows of sum 1) / 2, [b p p].

    The residual stream gets half of the weight, as the source chose for transformers; it is a convention, not a
    property of the model.

    Args:
        before: the rollout of the layers before these, to go on from.

    Raises:
        ValueError: no matrix.
    """
    if not matrices:
        raise ValueError("rollout needs the matrix of at least one layer")
    through = before
    for matrix in matrices:
        rows = matrix.abs()
        rows = rows / rows.sum(-1, keepdim=True).clamp(min=torch.finfo(rows.dtype).tiny)
        step = (rows + torch.eye(rows.shape[-1], dtype=rows.dtype, device=rows.device)) / 2
        through = step if through is None else step @ through
    assert through is not None
    return through


@dataclass(frozen=True, slots=True)
class Reduction:
    """How a matrix becomes a map: `of` takes matrices [b r c] first layer to last and a query patch, gives [b c].

    sources: where it is defined; the class token's row exists for "h" only.
    """

    meaning: str
    of: Callable[[Sequence[Tensor], int], Tensor]
    sources: tuple[str, ...] = ("h", "h_p")
    needs_class: bool = False
    needs_query: bool = False


REDUCTIONS = {
    "query": Reduction(
        "what one query patch reads from each patch", lambda layers, query: layers[-1][:, query], needs_query=True
    ),
    "received": Reduction("what all patches read from each patch, mean", lambda layers, _: layers[-1].mean(1)),
    "given": Reduction("what each patch reads altogether, sum", lambda layers, _: layers[-1].sum(-1)),
    "rollout": Reduction(
        "what all patches read from each patch through all layers so far, mean",
        lambda layers, _: rollout(layers).mean(1),
    ),
    "class": Reduction(
        "what the class token reads from each patch", lambda layers, _: layers[-1][:, -1], ("h",), needs_class=True
    ),
}
"""All but "class" exist for h and h_p alike, and see patches only, no class token."""


def reduce_matrix(
    matrices: Tensor | Sequence[Tensor],
    reduction: str,
    grid: tuple[int, int],
    *,
    query: int | None = None,
    signed: bool = False,
) -> Tensor:
    """Reduces raster attention to a map [b h w].

    Args:
        matrices: [b p p], or [b p+1 p+1] with the class token last; for "rollout" a sequence, first layer to last.
        reduction: a key of `REDUCTIONS`.
        query: raster index of the query patch, for "query".
        signed: keep the sign of the channel mean instead of its size.

    Raises:
        ValueError: unknown reduction, no class token or query where one is needed, or a matrix of another grid.
    """
    if reduction not in REDUCTIONS:
        raise ValueError(f"unknown reduction {reduction!r}; known: {', '.join(REDUCTIONS)}")
    rule, cells = REDUCTIONS[reduction], grid[0] * grid[1]
    layers = [matrices] if isinstance(matrices, Tensor) else list(matrices)
    for matrix in layers:
        if matrix.dim() != 3 or matrix.shape[1] != matrix.shape[2] or matrix.shape[1] not in (cells, cells + 1):
            wanted = f"(b, p, p) with p = {cells} patches, or one more for a class token"
            raise ValueError(f"attention is {tuple(matrix.shape)}, expected {wanted}")
    if rule.needs_class and layers[-1].shape[1] == cells:
        raise ValueError(f"reduction {reduction!r} needs the class token's row, this matrix has patches only")
    if rule.needs_query and (query is None or not 0 <= query < cells):
        raise ValueError(f"reduction {reduction!r} needs a query patch from 0 to {cells - 1}, got {query}")
    if not signed:
        layers = [matrix.abs() for matrix in layers]
    if not rule.needs_class:
        layers = [matrix[:, :cells, :cells] for matrix in layers]
    return rule.of(layers, query or 0)[:, :cells].unflatten(-1, grid)


def attention_map(
    scans: Sequence[ScanRecord],
    source: str = "h_p",
    reduction: str = "received",
    *,
    window: int = 5,
    weights: str = "delta",
    query: int | None = None,
    signed: bool = False,
) -> AttentionMap:
    """One map from the scans of one mixer, directions merged; `source` is "h" or "h_p". For a notebook's first look.

    Raises:
        ValueError: unknown source, scans of several mixers or of none, or see `reduce_matrix` and `patch_window`.
    """
    if source not in ("h", "h_p"):
        raise ValueError(f"unknown source {source!r}; known: h, h_p")
    mixers = by_mixer(scans)
    if len(mixers) != 1:
        raise ValueError(
            f"scans of {len(mixers)} mixers were given, a map is of one; take one of by_mixer(trace.scans).values()"
        )
    merged = merge([raster_matrices(scan, window, weights)[source] for scan in scans])
    order = scans[0].order
    values = reduce_matrix(merged, reduction, order.grid, query=query, signed=signed)
    return AttentionMap(values, order.grid, reduction, scans[0].path, window if source == "h_p" else None)
