"""k-scaled quantization and hidden-state reparameterization: static, K scales a tensor, searched by cosine similarity.

Source: arXiv 2501.16738 (Access-IC-Lab/PTQ_for_ViM, quant_configs/PTQ4ViM.py). Time steps of what linear layers read
and write share K scales, channels of what convolutions, SiLU and softplus put out do, all powers of two times the first
one. h is rounded in the basis of the rank-1 factors of `ouro.quant.search.reparam`, B and C with the factor r_D that the
projection before them can absorb. A_bar and B_bar follow from rounded operands, A and D stay in floating point.
Unlike in the released code the input of out_proj is rounded, B, C and the low-rank step have a scale each, and weights
have a scale per output channel unless `per_channel` is off.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Annotated, Literal

import torch
from torch import Tensor

from ouro.quant.bits import FLOAT, Bits
from ouro.quant.method import Block, Method, Seen, recurrent_spec, state_of
from ouro.quant.quantizer import RECURRENT_SITES, WEIGHT_SITES
from ouro.quant.search import kscale, reparam
from ouro.quant.search.candidates import initial
from ouro.quant.search.clusters import clusters
from ouro.quant.search.states import mean_state
from ouro.settings import Least
from ouro.taps import Tap
from ouro.types import QuantSpec

_OVER_STEPS = frozenset({"linear.in", "scan.y", "block.out"})
_OVER_CHANNELS = frozenset({"scan.u", "scan.delta", "gate", "conv.in"})
_FLOAT_SITES = frozenset({"scan.A", "scan.D", "scan.A_bar", "scan.B_bar"})


@dataclass(frozen=True, slots=True)
class KScaled(Method):
    """k: scales per tensor. power_of_two: whether they are shifts of the first. rounds: of the search over channels.

    h_scale: "per_step" has a scale of h per time step, "shared" one for all steps and the factor r_L instead.
    reparam: whether h is divided by its rank-1 factors. samples: images that the search for h looks at.
    Its searches run on the CPU wherever the model is: compiled loops over candidates and steps.

    Raises:
        ValueError: fewer than one scale, an h_scale that is not known, or a least that is no part of 1.
    """

    title = "k-scaled"

    k: Annotated[int, Least(1)] = 4
    power_of_two: bool = True
    rounds: int = 3
    per_channel: bool = True
    h_scale: Literal["per_step", "shared"] = "per_step"
    reparam: bool = True
    samples: int = 16
    least: float | None = None

    looks_at_inputs = True

    def __post_init__(self) -> None:
        Method.__post_init__(self)
        if self.least is not None and not 0 <= self.least <= 1:
            raise ValueError(f"least is {self.least}, expected 0 (the published range) to 1 (nothing clips)")

    def spec(self, tap: Tap, bits: Bits) -> QuantSpec:
        if tap.site in WEIGHT_SITES:
            return QuantSpec(bits.weights, True, "channel" if self.per_channel else "tensor", narrow=False)
        if tap.site in RECURRENT_SITES:
            spec = recurrent_spec(tap, bits)
            return replace(spec, bits=FLOAT) if tap.site in _FLOAT_SITES else spec
        width = FLOAT if tap.site in _FLOAT_SITES else bits.activations
        # x_proj reads what SiLU puts out
        if tap.site in _OVER_CHANNELS or tap.role == "x_proj":
            return QuantSpec(width, True, "channel clusters", narrow=False)
        return QuantSpec(width, True, "step clusters" if tap.site in _OVER_STEPS else "tensor", narrow=False)

    def bases(self, block: Block) -> dict[str, Tensor]:
        factors: dict[str, Tensor] = {}
        for scan in block.scans if self.reparam else ():
            state = reparam.factors(mean_state(block.operands(scan))).state
            # B / r_D and C r_D; both hold the powers of a mean, so they are positive
            factors |= {f"{scan}.tap_B": state, f"{scan}.tap_C": 1 / state}
        return factors

    def fit_weight(self, seen: Seen) -> dict[str, Tensor]:
        weight, bits = seen.chunks[0], seen.spec.bits
        if seen.partner and weight.dim() == 2:
            rows = [x if x.dim() == 3 else x.flatten(0, -2)[None] for x in seen.partner]
            return {"scale": kscale.search_weight(weight, rows, bits, per_channel=self.per_channel)}
        # a convolution's: min-max, as published
        peak = weight.flatten(1).abs().amax(1) if self.per_channel else weight.abs().amax()[None]
        return {"scale": initial(peak, bits)}

    def fit_activation(self, seen: Seen) -> dict[str, Tensor]:
        rows, bits = seen.rows, seen.spec.bits
        if seen.tap.site == "embed.in":
            # min-max, as published: a cosine over three channels that are equal in a gray image sees nothing
            return {"scale": initial(torch.stack([x.abs().amax() for x in rows]).amax()[None], bits)}
        if seen.spec.granularity == "channel clusters":
            labels = clusters(_mean_size(rows, over_steps=False), self.k)
            scale = kscale.search_channels(
                rows, labels, bits, rounds=self.rounds, tie=self.power_of_two, least=self._least(bits)
            )
            return {"scale": scale, "labels": labels}
        if seen.spec.granularity == "step clusters":
            labels = clusters(_mean_size(rows, over_steps=True), self.k)
            scale = kscale.search_tokens(rows, labels, bits, tie=self.power_of_two, least=self._least(bits))
            return {"scale": scale, "labels": labels}
        one = torch.zeros(rows[0].shape[1], dtype=torch.int64, device=rows[0].device)
        return {"scale": kscale.search_tokens(rows, one, bits, least=self._least(bits))}

    def _least(self, bits: int) -> float:
        return (0.7 if bits >= 8 else 0.0) if self.least is None else self.least

    def fit_recurrence(self, seen: Seen) -> dict[str, Tensor]:
        factors = reparam.factors(mean_state(seen.scans)) if self.reparam else None
        bits, channel, state = seen.spec.bits, None, None
        if factors is not None:
            channel, state = factors.channel, factors.state
        if self.h_scale == "per_step":
            scale = reparam.search_steps(seen.scans, factors, bits, samples=self.samples, least=self._least(bits))
        else:
            scale = reparam.search_shared(seen.scans, factors, bits, samples=self.samples, least=self._least(bits))
            scale = scale if factors is None else scale * factors.step
        return state_of(scale, seen.scans[0], channel, state)


def _mean_size(rows: list[Tensor], *, over_steps: bool) -> Tensor:
    """Mean |x| of every time step [l], or channel [c]."""
    kept = 1 if over_steps else 2
    sums = torch.stack([x.abs().sum([axis for axis in (0, 1, 2) if axis != kept], dtype=torch.float64) for x in rows])
    return sums.sum(0) / (sum(len(x) for x in rows) * rows[0].shape[3 - kept])
