"""What makes a small set of images larger: random crops, mirror images and light, and images mixed with one another.

Everything is a batched tensor operation on the device where the images lie. What is random is drawn on the CPU by a
generator that the caller makes from (seed, step), so a batch is the same on every device but for the last bit.

Source: He et al. 2016, section 4.2 (pad by 4, crop, mirror); mixup, Zhang et al. 2018; CutMix, Yun et al. 2019.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional as F


def generator(seed: int, step: int) -> np.random.Generator:
    """The random numbers of one step; both count whole, where a seed of torch's CPU generator counts modulo 2**32."""
    return np.random.Generator(np.random.Philox(key=[seed, step]))


def jittered(images: Tensor, random: np.random.Generator, *, pad: int = 4, light: float = 0.1) -> Tensor:
    """Images uint8 [b 3 h w] moved by up to `pad` pixels (reflected at the edge), half of them mirrored, relit.

    Args:
        light: contrast is multiplied by up to 1 ± light, brightness moved by up to light / 4 of the range.

    Raises:
        ValueError: a pad that the images are too small to be reflected by.
    """
    count, _, height, width = images.shape
    if not 0 <= pad < min(height, width):
        raise ValueError(f"pad is {pad}, images of {height}x{width} can be reflected by less than their side")
    device = images.device
    top, left = (torch.from_numpy(random.integers(0, 2 * pad + 1, count)).to(device) for _ in range(2))
    mirrored = torch.from_numpy(random.random(count) < 0.5).to(device)
    contrast, brightness = (torch.from_numpy(random.uniform(-light, light, count)).float() for _ in range(2))
    # reflection is defined for floating point only; 8 bits survive it
    padded = F.pad(images.float(), (pad, pad, pad, pad), mode="reflect")
    rows = top[:, None] + torch.arange(height, device=device)
    columns = torch.arange(width, device=device).expand(count, -1)
    columns = left[:, None] + torch.where(mirrored[:, None], columns.flip(1), columns)
    which = torch.arange(count, device=device)[:, None, None]
    # indexed axes come first: [b h w 3]
    moved = padded[which, :, rows[:, :, None], columns[:, None, :]].permute(0, 3, 1, 2)
    center = moved.mean((1, 2, 3), keepdim=True)
    contrast, brightness = (x.to(device)[:, None, None, None] for x in (1 + contrast, brightness * (255 / 4)))
    return ((moved - center) * contrast + center + brightness).round().clamp(0, 255).to(torch.uint8)


@dataclass(frozen=True, slots=True)
class Mixed:
    """inputs [b 3 h w] of two classes each: `share` (a scalar) of every image is of `labels`, the rest of `others`."""

    inputs: Tensor
    labels: Tensor
    others: Tensor
    share: float


def mixed(inputs: Tensor, labels: Tensor, random: np.random.Generator, *, part: float, alpha: float = 0.8) -> Mixed:
    """A batch mixed with itself in another order, `part` of the time: by mixup or by CutMix, at even odds.

    Args:
        part: probability that the batch is mixed at all; otherwise `share` is 1.
        alpha: the share is drawn from Beta(alpha, alpha).
    """
    share = float(random.beta(alpha, alpha))
    apply, cut = random.random(2) < (part, 0.5)
    order = torch.from_numpy(random.permutation(len(inputs))).to(inputs.device)
    corner = random.random(2)
    if not apply:
        return Mixed(inputs, labels, labels[order], 1.0)
    if not cut:
        return Mixed(share * inputs + (1 - share) * inputs[order], labels, labels[order], share)
    height, width = inputs.shape[2:]
    tall, wide = (int(side * math.sqrt(1 - share)) for side in (height, width))
    top, left = int(corner[0] * (height - tall + 1)), int(corner[1] * (width - wide + 1))
    pasted = inputs.clone()
    pasted[:, :, top : top + tall, left : left + wide] = inputs[order, :, top : top + tall, left : left + wide]
    return Mixed(pasted, labels, labels[order], 1 - tall * wide / (height * width))
