"""What calibration sees of a tensor: its rows, their ranges and histograms, and the step sizes that fit them.

Source: the grid search over clipped ranges with an L^2.4 error is OuroMamba's (and PTQ4VM's) initialisation. It is
run here on histograms, so that its cost does not depend on how many images were seen.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from ouro.quant.grid import Grid, asymmetric, dequantize, positive, quantize, range_of, symmetric
from ouro.types import QuantSpec

_CHANNEL_AXES = frozenset("cegn")


@dataclass(frozen=True, slots=True)
class Rows:
    """How a tapped tensor reads as rows [b l c]: samples, time steps, channels; an axis that is missing has size 1."""

    axes: tuple[str, ...]

    def __call__(self, x: Tensor) -> Tensor:
        """x as [b l c]; a view where its memory allows."""
        batch, steps, channels = self._sizes(x.shape)
        return x.permute(self._order()).reshape(batch, steps, channels)

    def back(self, rows: Tensor, like: Tensor) -> Tensor:
        """Rows [b l c] in the shape of the tensor they came from."""
        order = self._order()
        shape = [like.shape[axis] for axis in order]
        return rows.reshape(shape).permute([order.index(axis) for axis in range(len(order))])

    def _order(self) -> list[int]:
        rank = [0 if axis == "b" else 2 if axis in _CHANNEL_AXES else 1 for axis in self.axes]
        return sorted(range(len(rank)), key=rank.__getitem__)

    def _sizes(self, shape: torch.Size) -> list[int]:
        sizes = [1, 1, 1]
        for axis, size in zip(self.axes, shape, strict=True):
            sizes[0 if axis == "b" else 2 if axis in _CHANNEL_AXES else 1] *= size
        return sizes


@dataclass(frozen=True, slots=True)
class Histogram:
    """Counts [g bins] of values in evenly spaced bins over [low, high], per group."""

    counts: Tensor
    low: Tensor
    high: Tensor

    def centers(self) -> Tensor:
        """The value each bin stands for [g bins]."""
        bins = self.counts.shape[1]
        places = (torch.arange(bins, device=self.low.device) + 0.5) / bins
        return self.low[:, None] + (self.high - self.low)[:, None] * places


def ranges(chunks: Sequence[Tensor], *, per_step: bool, keep: Sequence[Tensor] | None = None) -> tuple[Tensor, Tensor]:
    """Least and greatest value of rows [b l c], and of 0, as [1] or per time step [l].

    Args:
        keep: a mask per chunk; what it leaves out counts as 0.
    """
    low, high = [], []
    for chunk, mask in _masked(chunks, keep):
        chunk = chunk if mask is None else chunk.masked_fill(~mask, 0)
        low.append(chunk.amin((0, 2)) if per_step else chunk.amin()[None])
        high.append(chunk.amax((0, 2)) if per_step else chunk.amax()[None])
    return torch.stack(low).amin(0).clamp(max=0), torch.stack(high).amax(0).clamp(min=0)


def histogram(
    chunks: Sequence[Tensor], low: Tensor, high: Tensor, bits: int, *, keep: Sequence[Tensor] | None = None
) -> Histogram:
    """Histogram of rows [b l c] in one group, or in one per time step, as many as low and high have entries.

    Its bins are fine enough to place the codes of a grid of so many bits: 32 per code, 8 where there are 256 codes.
    """
    groups, bins = len(low), min(32 * 2**bits, 2048)
    # one more bin at the end for what is left out
    counts = torch.zeros(groups * bins + 1, dtype=torch.int64, device=low.device)
    width = positive((high - low) / bins)
    first = torch.arange(groups, device=low.device)[:, None] * bins
    for chunk, mask in _masked(chunks, keep):
        places = ((chunk - low[:, None]) / width[:, None]).long().clamp_(0, bins - 1) + first
        places = places if mask is None else places.masked_fill_(~mask, groups * bins)
        counts += torch.bincount(places.flatten(), minlength=len(counts))
    return Histogram(counts[:-1].view(groups, bins).float(), low, high)


def best_range(
    seen: Histogram, bits: int, *, signed: bool, norm: float = 2.4, candidates: int = 100
) -> tuple[Tensor, Tensor | None]:
    """Step (and zero point, unless signed) per group with the least mean |x - Q(x)|^norm over the shrunk ranges.

    Candidate i of 1..candidates reaches from low i/candidates to high i/candidates; the full range is the last one.
    """
    centers = seen.centers()

    def grids() -> Iterator[tuple[Tensor, Tensor | None]]:
        for i in range(1, candidates + 1):
            low, high = seen.low * (i / candidates), seen.high * (i / candidates)
            if signed:
                yield positive(torch.maximum(high, -low) / symmetric(bits).high), None
            else:
                yield range_of(low, high, bits)

    grid = symmetric(bits) if signed else asymmetric(bits)
    return _least_error(grids(), lambda s, z: _error(centers, s, grid, z, norm, seen.counts))


def clipped_range(
    rows: Sequence[Tensor],
    spec: QuantSpec,
    *,
    norm: float,
    candidates: int,
    per_step: bool = False,
    keep: Sequence[Tensor] | None = None,
) -> dict[str, Tensor]:
    """{"scale"} (and "zero", unless the spec is signed) of rows [b l c], with the least L^norm error."""
    seen = histogram(rows, *ranges(rows, per_step=per_step, keep=keep), spec.bits, keep=keep)
    scale, zero = best_range(seen, spec.bits, signed=spec.signed, norm=norm, candidates=candidates)
    return {"scale": scale} if zero is None else {"scale": scale, "zero": zero}


def clipped_weight(weight: Tensor, spec: QuantSpec, *, norm: float, candidates: int) -> dict[str, Tensor]:
    """{"scale"} per output channel of a weight, with the least L^norm error."""
    return {"scale": best_channel_scale(weight, spec.bits, norm=norm, candidates=candidates)}


def percentiles(rows: Sequence[Tensor], keep: float) -> tuple[Tensor, Tensor]:
    """Ends, each [1], between which the share `keep` of all values lies, as many left out on either side.

    Read off a histogram of 65536 bins, so that memory does not grow with the images.
    """
    low, high = ranges(rows, per_step=False)
    counts = torch.zeros(65536, dtype=torch.float64)
    for chunk in rows:
        counts += torch.histc(chunk.float(), len(counts), low.item(), high.item()).double().cpu()
    below = counts.cumsum(0) / counts.sum().clamp(min=1)
    outside = (1 - keep) / 2
    # the last bin of which less than the share left out is below or inside, and the first one above all but that
    first = int((below <= outside).sum())
    last = int((below < 1 - outside).sum()) + 1
    width = (high - low) / len(counts)
    return low + first * width, torch.minimum(low + last * width, high)


def best_channel_scale(weight: Tensor, bits: int, *, norm: float = 2.4, candidates: int = 100) -> Tensor:
    """Symmetric step per output channel [o] of a weight [o ...] with the least mean |w - Q(w)|^norm."""
    rows = weight.detach().flatten(1)
    grid = symmetric(bits)
    peak = rows.abs().amax(1)
    steps = ((positive(peak * (i / candidates) / grid.high), None) for i in range(1, candidates + 1))
    return _least_error(steps, lambda s, z: _error(rows, s, grid, z, norm))[0]


def max_channel_scale(weight: Tensor, bits: int) -> Tensor:
    """Symmetric step per output channel [o] that clips nothing: max|w| / Q."""
    return positive(weight.detach().flatten(1).abs().amax(1) / symmetric(bits).high)


def _error(
    x: Tensor, scale: Tensor, grid: Grid, zero: Tensor | None, norm: float, counts: Tensor | None = None
) -> Tensor:
    """Sum over each row of x [g c] of |x - Q(x)|^norm, weighted by counts."""
    column = None if zero is None else zero[:, None]
    error = (dequantize(quantize(x, scale[:, None], grid, column), scale[:, None], column) - x).abs_().pow_(norm)
    return error.sum(1) if counts is None else (error * counts).sum(1)


def _least_error(
    grids: Iterator[tuple[Tensor, Tensor | None]], error: Callable[[Tensor, Tensor | None], Tensor]
) -> tuple[Tensor, Tensor | None]:
    """Per group, the (step, zero point) with the least error; the earlier one of equals."""
    scale, zero = next(grids)
    least = error(scale, zero)
    for new_scale, new_zero in grids:
        new = error(new_scale, new_zero)
        better = new < least
        least = torch.where(better, new, least)
        scale = torch.where(better, new_scale, scale)
        zero = None if zero is None or new_zero is None else torch.where(better, new_zero, zero)
    return scale, zero


def _masked(chunks: Sequence[Tensor], keep: Sequence[Tensor] | None) -> Iterator[tuple[Tensor, Tensor | None]]:
    return zip(chunks, [None] * len(chunks) if keep is None else keep, strict=True)
