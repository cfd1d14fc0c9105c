"""The straight path from noise to data, its velocity, and noise, times and classes that hang on (seed, index) alone.

Source: linear path and velocity target of CompVis/zigma (transport/path.py `ICPlan`, transport.py `training_losses`),
that is flow matching (Lipman et al. 2023) as in SiT.
"""

from __future__ import annotations

from collections.abc import Iterable

import torch
from torch import Tensor

from ouro.streams import stream

SAMPLES, CALIBRATION, _TIMES = 11, 12, 13
"""Purposes of the streams: what pictures begin with is never what was calibrated on."""


def along(x0: Tensor, x1: Tensor, t: Tensor) -> Tensor:
    """x_t = t x1 + (1 - t) x0 for noise x0 and data x1 [b c h w] at times t [b]."""
    t = t.view(-1, 1, 1, 1)
    return t * x1 + (1 - t) * x0


def velocity(x0: Tensor, x1: Tensor) -> Tensor:
    """dx_t / dt = x1 - x0, the same all along the path."""
    return x1 - x0


def noise(size: tuple[int, ...], seed: int, indices: Iterable[int], purpose: int = SAMPLES) -> Tensor:
    """Standard normal noise [b *size], each row a function of (seed, its index): whatever it is drawn together with."""
    rows = [stream(seed, purpose, index).standard_normal(size, dtype="float32") for index in indices]
    return torch.stack([torch.from_numpy(row) for row in rows])


def spread_times(count: int, seed: int) -> Tensor:
    """Times [count] in (0, 1), one from each of `count` equal parts of it, in an order drawn by the seed."""
    draws = stream(seed, _TIMES, count)
    return torch.from_numpy((draws.permutation(count) + draws.random(count)) / count).float()
