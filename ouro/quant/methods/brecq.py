"""BRECQ: whether a weight is rounded up or down is learned block by block, then the steps of activations.

Source: Li et al. 2021 with AdaRound (Nagel et al. 2020), and BRECQ's main_imagenet.py. The unit is one block of the
model. The paper takes 20,000 steps per block; the default here is a budget that two cores can pay, so a comparison has
to say which was used.
"""

from __future__ import annotations

from dataclasses import dataclass, replace

import torch
from torch import Tensor

from ouro.quant import observers
from ouro.quant.bits import Bits
from ouro.quant.grid import symmetric
from ouro.quant.method import Learning, Method, Seen
from ouro.quant.quantizer import WEIGHT_SITES
from ouro.taps import Tap
from ouro.types import QuantSpec


@dataclass(frozen=True, slots=True)
class BRECQ(Method):
    """iterations: steps for the roundings of a block, each on one chunk of images. lr, pull: of these.

    activation_steps, lr_activations: for the steps of activations, afterwards.
    """

    iterations: int = 500
    lr: float = 0.02
    pull: float = 0.01
    activation_steps: int = 10
    lr_activations: float = 0.01
    norm: float = 2.4
    candidates: int = 100

    @property
    def learning_weights(self) -> Learning:
        return Learning(
            self.iterations, 0, 0, lr_rounding=self.lr, stochastic=True, loss="squares", pull=self.pull, clip=1e9
        )

    @property
    def learning(self) -> Learning:
        return Learning(self.activation_steps, 0, self.lr_activations, loss="squares")

    def spec(self, tap: Tap, bits: Bits) -> QuantSpec:
        spec = Method.spec(self, tap, bits)
        return replace(spec, granularity="learned rounding") if tap.site in WEIGHT_SITES else spec

    def fit_weight(self, seen: Seen) -> dict[str, Tensor]:
        weight, spec = seen.chunks[0], seen.spec
        scale = observers.best_channel_scale(weight, spec.bits, norm=self.norm, candidates=self.candidates)
        column = scale.view(-1, *[1] * (weight.dim() - 1))
        limit = symmetric(spec.bits).high
        share = (weight / column).clamp(-limit, limit)
        share = (share - share.floor()).clamp(0.01, 0.99)
        # the soft share starts as what rounding takes away: clip(1.2 sigmoid(v) - 0.1, 0, 1) = share
        return {"scale": scale, "rounding": torch.logit((share + 0.1) / 1.2)}

    def fit_activation(self, seen: Seen) -> dict[str, Tensor]:
        return observers.clipped_range(seen.rows, seen.spec, norm=self.norm, candidates=self.candidates)
