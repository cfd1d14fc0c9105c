"""OuroMamba-Quant: static step sizes per time step for inliers, dynamic outlier channels in a higher precision.

Source: arXiv 2503.10959 and its released code (quant/vim/quantize/ouroquant). Where the two differ this follows the
code: the threshold is computed as the model runs (`theta="calibrated"` fixes it beforehand, as the text has it), and
outliers share one dynamic step per sample and time step. The step size before softplus is rounded asymmetrically
with kappa 4; it, u, B, C, A and D only belong to scopes beyond "lin".
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from ouro.quant import observers
from ouro.quant.bits import Bits
from ouro.quant.modules import WEIGHT_SITES, Quantizer, build
from ouro.quant.observers import Rows
from ouro.quant.outliers import OutlierRule, outlier_list, threshold
from ouro.quant.plan import Learning
from ouro.taps import Tap
from ouro.types import QuantSpec


@dataclass(frozen=True, slots=True)
class OuroMambaQuant:
    """Options, with the values of the paper's code but for the learning rates (see `Learning`).

    kappa, kappa_delta: a channel is an outlier above mean + kappa std; kappa_delta serves the raw step size.
    refresh: steps after which the outlier list is cleared.
    theta: "online" computes that threshold per sample and step, "calibrated" fixes its mean per step.
    norm, candidates: of the search for the initial step sizes.
    steps_per_block, lr_weights, lr_activations: of block-wise learning; 0 steps for none, rates are relative.
    """

    kappa: float = 3.0
    kappa_delta: float = 4.0
    refresh: int = 10
    theta: str = "online"
    norm: float = 2.4
    candidates: int = 100
    steps_per_block: int = 10
    lr_weights: float = 0.01
    lr_activations: float = 0.01

    has_outliers = True

    def __post_init__(self) -> None:
        if self.theta not in ("online", "calibrated"):
            raise ValueError(f"theta is {self.theta!r}; known: online, calibrated")
        for name in ("refresh", "candidates"):
            if getattr(self, name) < 1:
                raise ValueError(f"{name} is {getattr(self, name)}, expected 1 or more")

    @property
    def learning(self) -> Learning:
        return Learning(self.steps_per_block, self.lr_weights, self.lr_activations)

    def spec(self, site: str, bits: Bits) -> QuantSpec:
        if site in WEIGHT_SITES:
            return QuantSpec(bits.weights, signed=True, granularity="channel")
        return QuantSpec(bits.activations, site != "scan.delta_raw", "step", bits.outliers)

    def fit(self, tap: Tap, spec: QuantSpec, chunks: Sequence[Tensor]) -> dict[str, Tensor]:
        if spec.granularity == "channel":
            return {
                "scale": observers.best_channel_scale(chunks[0], spec.bits, norm=self.norm, candidates=self.candidates)
            }
        rows = [Rows(tap.axes)(chunk) for chunk in chunks]
        state: dict[str, Tensor] = {}
        keep = None
        if spec.outlier_bits is not None:
            rule = OutlierRule(spec.bits, spec.outlier_bits, spec.signed, self._kappa(tap), self.refresh)
            if self.theta == "calibrated":
                state["theta"] = _mean_threshold(rows, rule.kappa)
            keep = [~outlier_list(chunk, rule, theta=state.get("theta")) for chunk in rows]
        seen = observers.histogram(rows, *observers.ranges(rows, per_step=True, keep=keep), spec.bits, keep=keep)
        scale, zero = observers.best_range(
            seen, spec.bits, signed=spec.signed, norm=self.norm, candidates=self.candidates
        )
        state["scale"] = scale
        return state if zero is None else {**state, "zero": zero}

    def build(self, tap: Tap, spec: QuantSpec, state: Mapping[str, Tensor]) -> Quantizer:
        return build(tap, spec, state, kappa=self._kappa(tap), refresh=self.refresh)

    def _kappa(self, tap: Tap) -> float:
        return self.kappa_delta if tap.site == "scan.delta_raw" else self.kappa


def _mean_threshold(rows: Sequence[Tensor], kappa: float) -> Tensor:
    """Mean over all samples of mean + kappa std of |x|, per time step [l]."""
    none = [torch.zeros_like(chunk, dtype=torch.bool) for chunk in rows]
    bounds = [threshold(chunk, mask, kappa)[..., 0] for chunk, mask in zip(rows, none, strict=True)]
    return torch.cat(bounds).mean(0).float()
