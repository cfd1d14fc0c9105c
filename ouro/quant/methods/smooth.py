"""SmoothQuant: what makes an activation channel large is moved into the weight, then plain round-to-nearest.

Source: Xiao et al. 2023, eq. 4, and mit-han-lab/smoothquant: s_c = max|X_c|^alpha / max|W_c|^(1 - alpha); X is divided
by s, W multiplied. The factor is applied as the model runs; where it could be folded into the layer before is data of a
family, and changes no number.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from ouro.quant import observers
from ouro.quant.method import Block, Method, Seen


@dataclass(frozen=True, slots=True)
class SmoothQuant(Method):
    """alpha: how much of an activation's range the weight takes over, 0 (nothing) to 1 (all).

    Raises:
        ValueError: alpha outside 0..1.
    """

    title = "SmoothQuant"

    alpha: float = 0.5

    def __post_init__(self) -> None:
        Method.__post_init__(self)
        check_alpha(self.alpha)

    def bases(self, block: Block) -> dict[str, Tensor]:
        return smoothing(block, self.alpha)

    def fit_weight(self, seen: Seen) -> dict[str, Tensor]:
        return {"scale": observers.max_channel_scale(seen.chunks[0], seen.spec.bits)}


def check_alpha(alpha: float) -> None:
    """Refuses an exponent that is none."""
    if not 0 <= alpha <= 1:
        raise ValueError(f"alpha is {alpha}, expected 0 to 1")


def smoothing(block: Block, alpha: float, *, floor: float = 1e-5) -> dict[str, Tensor]:
    """The factor [c] of every layer of a block, under the paths of its input and of its weight."""
    by_path: dict[str, Tensor] = {}
    for path, weight_path in block.layers.items():
        factor = factors(block.inputs(path), block.weights(weight_path), alpha, floor=floor)
        by_path |= {path: factor, weight_path: factor}
    return by_path


def factors(inputs: Sequence[Tensor], weight: Tensor, alpha: float, *, floor: float = 1e-5) -> Tensor:
    """max|X_c|^alpha / max|W_c|^(1 - alpha) per input channel [c], bounded below; 1 where nothing ever comes in."""
    x = torch.stack([chunk.flatten(0, -2).abs().amax(0) for chunk in inputs]).amax(0)
    w = weight.flatten(1).abs().amax(0)
    factor = (x.clamp(min=floor) ** alpha / w.clamp(min=1e-5) ** (1 - alpha)).clamp(min=1e-5)
    return torch.where(x > 0, factor, 1.0)
