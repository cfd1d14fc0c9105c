"""OuroMamba-Quant: static step sizes per time step for inliers, dynamic outlier channels in a higher precision.

Source: arXiv 2503.10959 and its released code (quant/vim/quantize/ouroquant). Where the two differ this follows the
code: the threshold is computed as the model runs (`theta="calibrated"` fixes it beforehand, as the text has it), and
outliers share one dynamic step per sample and time step (`outlier_steps="channel"` gives each channel its own, as the
text has it). The step size before softplus is rounded asymmetrically with kappa 4; it, u, B, C, A and D only belong to
scopes beyond "lin". Inside the recurrence, where the code rounds nothing that has an effect, h has one clipped static
step per time step here, and A_bar and B_bar follow from rounded operands.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Annotated, Literal

import torch
from torch import Tensor

from ouro.quant import observers
from ouro.quant.bits import FLOAT, Bits
from ouro.quant.method import Learning, Method, Seen, recurrent_spec, state_of
from ouro.quant.modules import build
from ouro.quant.outliers import outlier_list, threshold
from ouro.quant.quantizer import RECURRENT_SITES, WEIGHT_SITES, Quantizer
from ouro.quant.rules import OutlierRule
from ouro.quant.search import reparam
from ouro.quant.search.states import mean_state
from ouro.scan import selective_scan
from ouro.settings import Least
from ouro.taps import Tap
from ouro.types import QuantSpec

_ONE_SIDED = frozenset({"scan.delta_raw", "scan.A"})
"""Sites on an asymmetric grid. A is negative: of 15 symmetric codes 8 would never be used, and the 4-bit A that is left
made the whole model guess (the code rounds it so)."""


@dataclass(frozen=True, slots=True)
class OuroMambaQuant(Method):
    """Options, with the values of the paper's code but for the learning rates (see `Learning`).

    kappa, kappa_delta: a channel is an outlier above mean + kappa std; kappa_delta serves the raw step size.
    refresh: steps after which the outlier list is cleared.
    theta: "online" computes that threshold per sample and step, "calibrated" fixes its mean per step.
    outlier_steps: "token", one dynamic step for a sample's outliers at a time step, or "channel", one for each outlier
        channel of a sample, over the steps of a refresh window in which it is listed.
    norm, candidates: of the search for the initial step sizes.
    reparam: round h as arXiv 2501.16738 does (`ouro.quant.search.reparam`) instead.
    steps_per_block, lr_weights, lr_activations: of block-wise learning; 0 steps for none, rates are relative.
    """

    title = "OuroMamba-Quant"

    kappa: float = 3.0
    kappa_delta: float = 4.0
    refresh: Annotated[int, Least(1)] = 10
    theta: Literal["online", "calibrated"] = "online"
    outlier_steps: Literal["token", "channel"] = "token"
    norm: float = 2.4
    candidates: Annotated[int, Least(1)] = 100
    reparam: bool = False
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
        if "b" in tap.axes and "l" not in tap.axes:
            # an image or a pooled feature has no time steps
            return Method.spec(self, tap, bits)
        return QuantSpec(bits.activations, tap.site not in _ONE_SIDED, "step", bits.outliers)

    def fit_weight(self, seen: Seen) -> dict[str, Tensor]:
        return observers.clipped_weight(seen.chunks[0], seen.spec, norm=self.norm, candidates=self.candidates)

    def fit_activation(self, seen: Seen) -> dict[str, Tensor]:
        rows, spec, per_step = seen.rows, seen.spec, seen.spec.granularity == "step"
        state: dict[str, Tensor] = {}
        keep = None
        rule = self._rule(seen.tap, spec)
        if rule is not None:
            if self.theta == "calibrated":
                state["theta"] = _mean_threshold(rows, rule.kappa)
            keep = [~outlier_list(chunk, rule, theta=state.get("theta")) for chunk in rows]
        return {
            **state,
            **observers.clipped_range(
                rows, spec, norm=self.norm, candidates=self.candidates, per_step=per_step, keep=keep
            ),
        }

    def fit_recurrence(self, seen: Seen) -> dict[str, Tensor]:
        if self.reparam:
            basis = reparam.factors(mean_state(seen.scans))
            scale = reparam.search_steps(seen.scans, basis, seen.spec.bits)
            return state_of(scale, seen.scans[0], basis.channel, basis.state)
        return clipped_states(seen, self.norm, self.candidates)

    def build(self, tap: Tap, spec: QuantSpec, state: Mapping[str, Tensor]) -> Quantizer:
        return build(tap, spec, state, rule=self._rule(tap, spec))

    def _rule(self, tap: Tap, spec: QuantSpec) -> OutlierRule | None:
        if spec.outlier_bits is None:
            return None
        kappa = self.kappa_delta if tap.site == "scan.delta_raw" else self.kappa
        per_channel = self.outlier_steps == "channel"
        return OutlierRule(spec.bits, spec.outlier_bits, spec.signed, kappa, self.refresh, per_channel)


def clipped_states(seen: Seen, norm: float, candidates: int) -> dict[str, Tensor]:
    """Of h one clipped step per time step."""
    states = (selective_scan(inputs, keep_states=True).h for inputs in seen.scans)
    # [b e l n] as rows [b l (e n)]
    chunks = [h.transpose(1, 2).flatten(2) for h in states if h is not None]
    state = observers.clipped_range(chunks, seen.spec, norm=norm, candidates=candidates, per_step=True)
    return state_of(state["scale"], seen.scans[0])


def _mean_threshold(rows: Sequence[Tensor], kappa: float) -> Tensor:
    """Mean over all samples of mean + kappa std of |x|, per time step [l]."""
    none = [torch.zeros_like(chunk, dtype=torch.bool) for chunk in rows]
    bounds = [threshold(chunk, mask, kappa)[..., 0] for chunk, mask in zip(rows, none, strict=True)]
    return torch.cat(bounds).mean(0).float()
