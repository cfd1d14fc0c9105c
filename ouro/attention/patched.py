"""The patched hidden state h_p and the attention alpha_p that it implies: y_p = C h_p = alpha_p u.

    h_p(tau) = sum over k in the window of tau of w_k h_k
    alpha_p[tau, j] = sum over k in the window, k >= j, of w_k sum_n C_tau[n] exp(A[n] (S_k - S_j)) delta_j B_j[n]

A window lies on the image: rows are in raster order, border windows simply lack the cells outside, and the class token
is in no window. It takes part in the scan all the same, and its column is dropped at the very end. A row is not causal:
patch tau sees whatever its last neighbor in scan order has seen.
Source: OuroMamba (arXiv 2503.10959), section 3.
"""

from __future__ import annotations

import torch
from torch import Tensor

from ouro.attention.implicit import CHUNK, channels_of, held_inputs, mean_attention
from ouro.scan import selective_scan
from ouro.scan.order import class_step, from_raster, to_raster
from ouro.scan.window import box_sum, patched_states
from ouro.types import PatchWindow, ScanOrder, ScanRecord


def delta_weights(delta: Tensor, order: ScanOrder) -> Tensor:
    """w [b l]: channel mean of delta, scaled to [0, 1] over the patches of the same image; 0 for other tokens.

    Source: OuroMamba, section 3; its code takes the extremes over the batch, which fails for one image.
    """
    size = to_raster(delta.mean(1), order)
    low, high = size.amin(-1, keepdim=True), size.amax(-1, keepdim=True)
    return from_raster((size - low) / (high - low + 1e-6), order)


def uniform_weights(delta: Tensor, order: ScanOrder) -> Tensor:
    """w [b l]: 1 for every patch, 0 for other tokens."""
    return from_raster(delta.new_ones(len(delta), order.grid[0] * order.grid[1]), order)


WEIGHTS = {"delta": delta_weights, "uniform": uniform_weights}
"""Rules for the weights w_k of a window."""


def patch_window(record: ScanRecord, window: int, weights: str = "delta") -> PatchWindow:
    """The neighborhood that a scan's h_p sums over; one wider than the grid takes in what there is.

    Raises:
        ValueError: an even window, one below 1, or an unknown rule for the weights.
    """
    if window < 1 or window % 2 == 0:
        raise ValueError(f"window is {window}, expected an odd number from 1 up")
    if weights not in WEIGHTS:
        raise ValueError(f"unknown weights {weights!r}; known: {', '.join(WEIGHTS)}")
    return PatchWindow(window, WEIGHTS[weights](record.inputs.delta, record.order), record.order)


def alpha_p(
    record: ScanRecord,
    window: int,
    weights: str = "delta",
    reduce: str | Tensor | None = "mean",
    *,
    class_token: bool = False,
    T: Tensor | None = None,
) -> Tensor:
    """Patched implicit attention [b p p], rows and columns in raster order; differentiable.

    With window 1 and uniform weights it is alpha itself.

    Args:
        reduce: as in `alpha`: "mean" [b p p], None [b e p p] or channel indices [b k p p], with the same costs.
        class_token: append the class token's column as the last one; with it alpha_p @ u == y_p. There is no such
            row: the class token has no neighbors.
        T: `scan_transition(record)`, if it is at hand.

    Raises:
        ValueError: see `patch_window` and `alpha`.
    """
    place = patch_window(record, window, weights)
    channels = channels_of(record.inputs, reduce)
    if channels is None:
        rows = mean_attention(record.inputs, place, T)
    else:
        rows = torch.cat([_patched_rows(record, place, chunk) for chunk in channels.split(CHUNK)], dim=1)
    return raster_columns(rows, record.order, class_token)


def _patched_rows(record: ScanRecord, place: PatchWindow, channels: Tensor) -> Tensor:
    """alpha_p [b k p l] of some channels, columns in scan order."""
    parts = []
    for held, C in held_inputs(record.inputs, channels):
        weighted = to_raster(held * place.weights[:, None, :, None], place.order, dim=2)
        summed = box_sum(weighted.transpose(-1, -2).unflatten(-1, place.order.grid), place.size)
        parts.append(to_raster(C, place.order).unsqueeze(-1) * summed.flatten(-2).transpose(-1, -2))
    return torch.stack(parts).sum(0)


def raster_columns(weights: Tensor, order: ScanOrder, class_token: bool) -> Tensor:
    """Columns [.. l] in scan order -> [.. p] in raster order, the class token's appended if asked for and there."""
    patches = to_raster(weights, order)
    step = class_step(order)
    if not class_token or step is None:
        return patches
    return torch.cat([patches, weights[..., step : step + 1]], dim=-1)


def h_p(record: ScanRecord, window: int, weights: str = "delta") -> Tensor:
    """The patched hidden state [b e p n] in raster order; costs b e p n floats, and b e l n for h.

    Raises:
        ValueError: see `patch_window`.
    """
    place = patch_window(record, window, weights)
    h = record.h
    if h is None:
        h = selective_scan(record.inputs, keep_states=True).h
    assert h is not None
    return patched_states(h, place)
