"""OuroMamba+ (ours, not the paper's): dynamic outliers beside a dynamic, clipped, asymmetric step for everything else.

What a step has at run time replaces what calibration knows of it: inliers of a sample's time step share the grid of their
own range, as in dynamic per-token quantization, but without the outliers, and clipped by a factor that calibration fits
and learns. Which channels are outliers is OuroMamba's rule; its threshold and refresh period are fitted per tensor, by
rate and distortion: a bit more has to quarter the squared error, as it does for a fine uniform grid. Constants of the scan
cost nothing at run time and stay at 8 bits or more: 3-bit A ruins every method (`ouro bench equal` shows how much).
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Annotated

import torch
from torch import Tensor

from ouro.quant import observers
from ouro.quant.bits import FLOAT, Bits
from ouro.quant.method import Learning, Method, Seen, recurrent_spec
from ouro.quant.methods.ouro import clipped_states
from ouro.quant.modules import round_tokens, token_outliers
from ouro.quant.quantizer import RECURRENT_SITES, WEIGHT_SITES
from ouro.settings import Least
from ouro.taps import Tap
from ouro.types import QuantSpec

KAPPAS = (1.5, 2.0, 2.5, 3.0, 4.0)
REFRESHES = (1, 5, 10)
CLIPS = tuple(1 - 0.04 * i for i in range(16))
"""What is tried: thresholds in standard deviations, periods in steps, parts of the range."""


@dataclass(frozen=True, slots=True)
class OuroMambaPlus(Method):
    """Options.

    kappa, refresh: of the outlier rule, see `ouro.quant.outliers`; 0 fits each per tensor, of KAPPAS and REFRESHES.
    norm, candidates: of the search for the step sizes of weights and states.
    steps_per_block, lr_weights, lr_activations: of block-wise learning; 0 steps for none, rates are relative.
    """

    title = "OuroMamba+ (ours)"

    kappa: Annotated[float, Least(0)] = 0.0
    refresh: Annotated[int, Least(0)] = 0
    norm: float = 2.4
    candidates: Annotated[int, Least(1)] = 100
    steps_per_block: int = 10
    lr_weights: float = 0.01
    lr_activations: float = 0.01

    has_outliers = True

    @property
    def learning(self) -> Learning:
        return Learning(self.steps_per_block, self.lr_weights, self.lr_activations)

    def spec(self, tap: Tap, bits: Bits) -> QuantSpec:
        if tap.site in WEIGHT_SITES:
            return QuantSpec(bits.weights, signed=True, granularity="channel")
        if tap.site in RECURRENT_SITES:
            spec = recurrent_spec(tap, bits)
            return spec if tap.site == "scan.h" else replace(spec, bits=FLOAT)
        if "b" not in tap.axes:
            return Method.spec(self, tap, bits.wide)
        return QuantSpec(bits.activations, signed=False, granularity="clipped token", outlier_bits=bits.outliers)

    def fit_weight(self, seen: Seen) -> dict[str, Tensor]:
        return observers.clipped_weight(seen.chunks[0], seen.spec, norm=self.norm, candidates=self.candidates)

    def fit_activation(self, seen: Seen) -> dict[str, Tensor]:
        if seen.spec.granularity != "clipped token":
            return Method.fit_activation(self, seen)
        rows, spec = seen.rows, seen.spec
        rule = self._rule(rows, spec)
        lists = _lists(rows, spec, rule)
        errors = [_error(rows, lists, spec, clip) for clip in CLIPS]
        clip = CLIPS[errors.index(min(errors))]
        return {"clip": torch.tensor([clip]), "rule": torch.tensor(rule)}

    def fit_recurrence(self, seen: Seen) -> dict[str, Tensor]:
        return clipped_states(seen, self.norm, self.candidates)

    def _rule(self, rows: Sequence[Tensor], spec: QuantSpec) -> tuple[float, float]:
        """(kappa, refresh) with the least error * 4^(mean bits); (0, 1) without outliers."""
        if spec.outlier_bits is None:
            return 0.0, 1.0
        periods = (self.refresh,) if self.refresh else REFRESHES
        rules = [(kappa, float(period)) for kappa in ((self.kappa,) if self.kappa else KAPPAS) for period in periods]
        best, least = (0.0, 1.0), math.inf
        for rule in rules if self.kappa else [best, *rules]:
            lists = _lists(rows, spec, rule)
            more = _share(lists) * (spec.outlier_bits - spec.bits)
            cost = _error(rows, lists, spec, 1.0) * 4**more
            if cost < least:
                best, least = rule, cost
        return best


def _lists(rows: Sequence[Tensor], spec: QuantSpec, rule: tuple[float, float]) -> list[Tensor | None]:
    kappa, refresh = rule
    return [None if kappa == 0 else token_outliers(chunk, spec, kappa, int(refresh)) for chunk in rows]


def _share(lists: Sequence[Tensor | None]) -> float:
    """Which part of the elements are outliers."""
    known = [listed for listed in lists if listed is not None]
    return sum(float(listed.sum()) for listed in known) / max(1, sum(listed.numel() for listed in known))


def _error(rows: Sequence[Tensor], lists: Sequence[Tensor | None], spec: QuantSpec, clip: float) -> float:
    """Sum of squared errors."""
    factor = rows[0].new_full((1,), clip)
    pairs = zip(rows, lists, strict=True)
    return sum(float((round_tokens(chunk, listed, spec, factor) - chunk).square().sum()) for chunk, listed in pairs)
