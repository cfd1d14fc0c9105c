"""How far quantized tensors are from the float model's, tap by tap: signal-to-noise ratio and cosine."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from math import inf, log10

import torch
from torch import Tensor
from torch.nn import functional as F

from ouro.taps import record
from ouro.vision import VisionModel, judging


@dataclass(frozen=True, slots=True)
class Fidelity:
    """SQNR in dB (infinite for equal tensors) and mean cosine over the last axis, 1 where both are the same."""

    sqnr_db: float
    cosine: float


def compare(exact: Tensor, rounded: Tensor) -> Fidelity:
    """Fidelity of a tensor to the one it stands for.

    Raises:
        ValueError: different shapes.
    """
    if exact.shape != rounded.shape:
        raise ValueError(f"cannot compare a tensor of {tuple(rounded.shape)} with one of {tuple(exact.shape)}")
    signal = exact.double().square().sum().item()
    noise = (rounded.double() - exact.double()).square().sum().item()
    ratio = inf if noise == 0 else -inf if signal == 0 else 10 * log10(signal / noise)
    cosine = F.cosine_similarity(exact.double(), rounded.double(), dim=-1)
    # zeros have no direction; where they stand for zeros nothing is lost
    equal = (exact == rounded).all(-1)
    return Fidelity(ratio, torch.where(equal, 1.0, cosine).mean().item())


def fidelity(
    exact: VisionModel, rounded: VisionModel, images: Tensor, *patterns: str, conditions: Sequence[Tensor] = ()
) -> dict[str, Fidelity]:
    """Fidelity of every matching tap, and of the "logits", of a quantized model to the float one.

    Args:
        images: in model space, wherever they are.
        patterns: of tap paths; by default every block's output.
        conditions: what the models are given beside the images, each [b].
    """
    patterns = patterns or ("*.tap_out",)
    given = [tensor.to(exact.device) for tensor in (images, *conditions)]
    with torch.no_grad(), judging(exact, rounded):
        with record(exact, *patterns) as wanted:
            logits = exact(*given)
        with record(rounded, *patterns) as taken:
            rounded_logits = rounded(*given)
    result = {path: compare(tensor, taken.tensors[path]) for path, tensor in wanted.tensors.items()}
    return {**result, "logits": compare(logits, rounded_logits)}
