"""QMamba, a reconstruction: companded A_bar and B_bar (LtSQ), grouped static steps for h (TGQ).

Source: arXiv 2501.13624 by its abstract and reviews; the formulas were not to be had, so what is here is one reading
of them. LtSQ: most of A_bar lies near its maximum, so codes are dense there, by a power that is searched for among
1..4 (1 is the uniform grid). TGQ: time steps are grouped by how large h is at them, each group has one static step.
Linear layers are rounded as by `Clipped`.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from ouro.quant import observers
from ouro.quant.grid import positive
from ouro.quant.method import Method, Seen, discrete_range, state_of
from ouro.quant.search.clusters import clusters
from ouro.scan import selective_scan
from ouro.scan.companding import compand
from ouro.scan.discretize import discretize
from ouro.types import Companding, ScanInputs

_POWERS = (1, 2, 3, 4)
_SAMPLES = 4
"""Images per chunk whose A_bar and B_bar are looked at in the search for a power."""


@dataclass(frozen=True, slots=True)
class QMamba(Method):
    """groups: of time steps that share a step of h; 1 is per tensor, as many as steps is per step.

    Raises:
        ValueError: fewer than one group.
    """

    groups: int = 8
    norm: float = 2.0
    candidates: int = 100

    def __post_init__(self) -> None:
        if self.groups < 1:
            raise ValueError(f"groups is {self.groups}, expected 1 or more")

    def fit_weight(self, seen: Seen) -> dict[str, Tensor]:
        return observers.clipped_weight(seen.chunks[0], seen.spec, norm=self.norm, candidates=self.candidates)

    def fit_activation(self, seen: Seen) -> dict[str, Tensor]:
        return observers.clipped_range(seen.rows, seen.spec, norm=self.norm, candidates=self.candidates)

    def fit_recurrence(self, seen: Seen) -> dict[str, Tensor]:
        if seen.tap.site == "scan.h":
            return self._fit_state(seen)
        low, high = discrete_range(seen)
        inside = seen.tap.site == "scan.A_bar"
        errors = torch.stack([self._error(seen, low, high, power, inside=inside) for power in _POWERS])
        return {"low": low, "high": high, "power": torch.tensor([_POWERS[int(errors.argmin())]])}

    def _error(self, seen: Seen, low: Tensor, high: Tensor, power: int, *, inside: bool) -> Tensor:
        """Squared error of a power; that of A_bar relative to 1 - A_bar, since it compounds from step to step."""
        rule = Companding(seen.spec.bits, low, high, power, seen.spec.signed)
        total = torch.zeros((), dtype=torch.float64)
        for x in _discrete(seen.scans, 0 if inside else 1):
            error = compand(x, rule) - x
            total += (error / (1 - x + 1e-3) if inside else error).square().sum(dtype=torch.float64)
        return total

    def _fit_state(self, seen: Seen) -> dict[str, Tensor]:
        peaks = torch.stack([_largest(inputs) for inputs in seen.scans]).amax(0)
        labels = clusters(peaks.clamp(min=1e-12).log(), self.groups)
        limits = torch.stack([peaks[labels == label].amax() for label in range(int(labels.max()) + 1)])
        # counted per time step, over the range of its group, then added up over the group
        rows = [h.transpose(1, 2).flatten(2) for h in map(_states, seen.scans)]
        reach = limits[labels]
        counted = observers.histogram(rows, -reach, reach, seen.spec.bits)
        counts = torch.zeros(len(limits), counted.counts.shape[1]).index_add_(0, labels, counted.counts)
        scale, _ = observers.best_range(
            observers.Histogram(counts, -limits, limits), seen.spec.bits, signed=True, norm=self.norm,
            candidates=self.candidates,
        )  # fmt: skip
        return state_of(positive(scale)[labels], seen.scans[0])


def _states(inputs: ScanInputs) -> Tensor:
    """h [b e l n] of one chunk."""
    h = selective_scan(inputs, keep_states=True).h
    assert h is not None
    return h


def _largest(inputs: ScanInputs) -> Tensor:
    """max |h| per time step [l]."""
    return _states(inputs).abs().amax((0, 1, 3))


def _discrete(scans: Sequence[ScanInputs], which: int) -> Iterator[Tensor]:
    """A_bar (0) or B_bar (1) of a few samples of every chunk."""
    for inputs in scans:
        few = ScanInputs(
            inputs.u[:_SAMPLES], inputs.delta[:_SAMPLES], inputs.A, inputs.B[:_SAMPLES], inputs.C[:_SAMPLES]
        )
        yield discretize(few)[which]
