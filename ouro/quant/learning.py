"""Learning in one block: step sizes, smoothing factors and roundings, until its output comes close to the float one's.

Source: block-wise learning of OuroMamba and PTQ4VM (cosine loss, whole set), BRECQ (squared error, chunks of the set).
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from ouro.quant.method import Learning
from ouro.quant.modules import LearnedRounding
from ouro.quant.quantizer import Quantizer
from ouro.taps import Tap

State = tuple[Any, ...]
"""What blocks hand on; the first part is the last block's own output, the rest is the model's business."""
Run = Callable[..., State]

_WARM_UP = 0.2
"""Part of the learning of roundings that is free of the pull towards up or down (BRECQ)."""
_BETAS = 20.0, 2.0
"""Exponent of that pull, from the warm-up's end to the end (BRECQ)."""


def learn(
    run: Run,
    sites: Mapping[str, Tap],
    inputs: Sequence[State],
    targets: Sequence[Tensor],
    learning: Learning,
    seed: tuple[int, ...] = (0,),
) -> list[float]:
    """Lets what can learn in the quantizers of a block do so, in place; returns losses over the whole set.

    What learns of step sizes and smoothing factors is their logarithm: they stay positive, and one rate suits those of
    4 and of 8 bits. Of all states whose loss on the whole set was measured the best one is kept: every step's, or with
    `stochastic` the first and the last one's.
    """
    quantizers = [tap.quantizer for tap in sites.values() if isinstance(tap.quantizer, Quantizer)]
    groups = _groups(quantizers, learning)
    parameters = [parameter for parameter, _, _ in groups]
    if not learning.steps or not parameters:
        return []
    # what is optimized: the logarithm of what has to stay positive, everything else itself
    inner = [parameter.detach().log() if is_log else parameter.detach().clone() for parameter, _, is_log in groups]
    optimizer = torch.optim.Adam([{"params": [x], "lr": rate} for x, (_, rate, _) in zip(inner, groups, strict=True)])
    rounders = [quantizer for quantizer in quantizers if isinstance(quantizer, LearnedRounding)]
    draw = np.random.default_rng(seed)
    # while nothing is drawn and no rounding is soft, the loss before a step is that of the whole set
    whole = not learning.stochastic and not rounders
    measured = [] if whole else [_measure(run, inputs, targets, learning)]
    best = [parameter.detach().clone() for parameter in parameters]
    for turn in range(learning.steps):
        _soften(rounders, True)
        picked = [int(draw.integers(len(inputs)))] if learning.stochastic else range(len(inputs))
        chosen = [(inputs[index], targets[index]) for index in picked]
        loss = _pass(run, chosen, learning, backward=True)
        if whole:
            measured.append(loss)
            if loss <= min(measured):
                best = [parameter.detach().clone() for parameter in parameters]
        if rounders and learning.pull:
            _pull(rounders, turn / learning.steps, learning.pull)
        for value, parameter, (_, _, is_log) in zip(inner, parameters, groups, strict=True):
            assert parameter.grad is not None, "a quantizer without gradient never learns"
            value.grad, parameter.grad = parameter.grad * parameter.detach() if is_log else parameter.grad, None
        nn.utils.clip_grad_norm_(inner, learning.clip)
        optimizer.step()
        _assign(parameters, [x.exp() if is_log else x for x, (_, _, is_log) in zip(inner, groups, strict=True)])
    _soften(rounders, False)
    measured.append(_measure(run, inputs, targets, learning))
    if measured[-1] > min(measured):
        _assign(parameters, best)
    return measured


def distance(target: Tensor, output: Tensor) -> Tensor:
    """1 - cos over the channels."""
    return 1 - F.cosine_similarity(target, output, dim=-1)


def _groups(quantizers: Sequence[Quantizer], learning: Learning) -> list[tuple[nn.Parameter, float, bool]]:
    """(parameter, rate, whether its logarithm learns) of everything that has a rate; a shared parameter once."""
    groups: dict[int, tuple[nn.Parameter, float, bool]] = {}
    for quantizer in quantizers:
        steps = learning.lr_weights if quantizer.is_weight else learning.lr_activations
        rates = {"scale": steps, "clip": steps, "smooth": learning.lr_smooth, "rounding": learning.lr_rounding}
        for name, parameter in quantizer.named_parameters():
            if rates[name] > 0:
                groups[id(parameter)] = parameter, rates[name], name != "rounding"
    return list(groups.values())


def _measure(run: Run, inputs: Sequence[State], targets: Sequence[Tensor], learning: Learning) -> float:
    with torch.no_grad():
        return _pass(run, list(zip(inputs, targets, strict=True)), learning, backward=False)


def _pass(run: Run, chunks: Sequence[tuple[State, Tensor]], learning: Learning, *, backward: bool) -> float:
    """Mean loss over the chunks; going backward, gradients are left on the parameters, summed over the chunks."""
    total, loss = sum(len(target) for _, target in chunks), 0.0
    for state, target in chunks:
        output = run(*state)[0]
        if learning.loss == "cosine":
            part = distance(target, output).mean()
        else:
            part = (output - target).square().mean() / target.square().mean().clamp(min=1e-12)
        part = part * (len(target) / total)
        loss += part.item()
        if backward:
            part.backward()
    return loss


def _pull(rounders: Sequence[LearnedRounding], done: float, weight: float) -> None:
    """Adds the gradient of weight * mean(1 - |2 share - 1|^beta), which is least where every share is 0 or 1."""
    if done < _WARM_UP:
        return
    first, last = _BETAS
    beta = last + 0.5 * (first - last) * (1 + np.cos(np.pi * (done - _WARM_UP) / (1 - _WARM_UP)))
    total = torch.stack([(1 - (2 * rounder.share() - 1).abs().pow(beta)).sum() for rounder in rounders]).sum()
    (weight / sum(rounder.rounding.numel() for rounder in rounders) * total).backward()


def _soften(rounders: Sequence[LearnedRounding], soft: bool) -> None:
    for rounder in rounders:
        rounder.soft = soft


def _assign(parameters: Sequence[nn.Parameter], values: Sequence[Tensor]) -> None:
    with torch.no_grad():
        for parameter, value in zip(parameters, values, strict=True):
            parameter.copy_(value)
