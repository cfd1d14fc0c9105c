"""K scales for all tokens or all channels of a tensor, and the cosine search that finds them.

Source: arXiv 2501.16738 (k-scaled quantization), agrees with Access-IC-Lab/PTQ_for_ViM on the candidates, the score
and the power-of-two tie. Every grid is symmetric with its full range, -2^(b-1) .. 2^(b-1) - 1. Three things differ
from the official code: the clusters are the best ones and not those of a random start; the initial scale itself is a
candidate too, and wins ties, so that no search makes a scale worse; tokens are sampled, which bounds memory.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from ouro.quant.grid import positive, quantize, symmetric
from ouro.quant.search.candidates import initial, power_of_two, with_initial

TOKENS = 4096
"""About how many tokens a search looks at; more only where there are more time steps than that."""
WEIGHT_TOKENS = 1024
"""About how many tokens a search for a weight's scale looks at."""


def search_tokens(rows: Sequence[Tensor], labels: Tensor, bits: int, *, tie: bool = True, least: float = 0.0) -> Tensor:
    """One scale per cluster of time steps, [k], with the greatest mean cosine between x and Q(x) over channels.

    A token's cosine depends on the scale of its own cluster alone, so every cluster is searched for itself, once.
    Around max|x| over all of a cluster, scored on about `TOKENS` tokens that are evenly spaced over time steps, the
    samples taking turns: always the same tokens, and at least one of every time step. A cluster that is zero everywhere
    gets scale 1.

    Args:
        rows: chunks [b l c] of one tensor.
        labels: the cluster of every time step, [l], as `clusters` gives it; all zero is one scale per tensor.
        tie: make the scales powers of two times the first, see `power_of_two`; it comes last and can cost cosine.
        least: smallest candidate, as a part of the initial scale; 1 lets nothing clip that was seen (before the tie).

    Raises:
        ValueError: rows is empty or holds values that are not finite, or labels do not fit.
    """
    starts = initial(_cluster_peaks(rows, labels, axis=1), bits)
    tokens, steps = _sample(rows, TOKENS)
    of_token = labels.cpu()[steps]
    best = []
    for cluster, start in enumerate(starts):
        x = tokens[of_token == cluster]
        tried = with_initial(start, least=least)
        dots, squares = _code_sums(x, tried, bits)
        best.append(tried[_mean_cosine(dots, squares, x).argmax()])
    scales = torch.stack(best)
    return (power_of_two(scales) if tie else scales).to(rows[0].device)


def search_channels(
    rows: Sequence[Tensor], labels: Tensor, bits: int, *, rounds: int = 3, tie: bool = True, least: float = 0.0
) -> Tensor:
    """One scale per cluster of channels, [k], with the greatest mean cosine between x and Q(x) over channels.

    A cosine involves all clusters, so they take turns: each picks its best candidate while the others stay. Dot
    products and norms add over clusters, so those of every (cluster, candidate, token) are computed once and all rounds
    run on these sums. Tokens are sampled as in `search_tokens`, fewer of them for more than 8 clusters: the sums then
    hold as many numbers as for 8. A cluster that is zero everywhere gets scale 1 (before the tie).

    Args:
        rows: chunks [b l c] of one tensor.
        labels: the cluster of every channel, [c], as `clusters` gives it; all zero is one scale per tensor.
        rounds: how often every cluster has its turn.
        tie: after each round make the scales powers of two times the first, see `power_of_two`; can cost cosine.
        least: as in `search_tokens`.

    Raises:
        ValueError: rows is empty or holds values that are not finite, or labels do not fit.
    """
    starts = initial(_cluster_peaks(rows, labels, axis=2), bits)
    count = len(starts)
    tokens, _ = _sample(rows, min(TOKENS, max(1, TOKENS * 8 // count)), every_step=False)
    of_channel = labels.cpu()
    parts = [tokens[:, of_channel == cluster].contiguous() for cluster in range(count)]
    tried = with_initial(starts, least=least)  # [k i]
    sums = [_scaled_sums(x, steps, bits) for x, steps in zip(parts, tried, strict=True)]
    scales = starts.clone()
    # what the scales of now give: [t] per cluster
    dots = torch.stack([dot[:, 0] for dot, _ in sums])
    squares = torch.stack([square[:, 0] for _, square in sums])
    for _ in range(rounds):
        for cluster, (dot, square) in enumerate(sums):
            others = [x.sum(0) - x[cluster] for x in (dots, squares)]
            now = _mean_cosine(dots.sum(0)[:, None], squares.sum(0)[:, None], tokens)
            scores = _mean_cosine(others[0][:, None] + dot, others[1][:, None] + square, tokens)
            best = scores.argmax()
            if scores[best] > now:
                scales[cluster] = tried[cluster, best]
                dots[cluster], squares[cluster] = dot[:, best], square[:, best]
        if tie and count > 1:
            scales = power_of_two(scales)
            tied = [_scaled_sums(x, step[None], bits) for x, step in zip(parts, scales, strict=True)]
            dots = torch.cat([dot.T for dot, _ in tied])
            squares = torch.cat([square.T for _, square in tied])
    return scales.to(rows[0].device)


def search_weight(weight: Tensor, inputs: Sequence[Tensor], bits: int, *, per_channel: bool = False) -> Tensor:
    """Scale [1] of a linear layer's weight [o c] with the greatest mean cosine between x W^T and x Q(W)^T over outputs.

    Looks at about `WEIGHT_TOKENS` tokens, sampled as in `search_tokens`. An all-zero weight gets scale 1.

    Args:
        inputs: chunks [b l c] of the layer's input.
        per_channel: one scale per output channel, [o], with the least squared error of that channel's output: a
            cosine over one channel does not depend on the scale.

    Raises:
        ValueError: inputs are empty, or they or the weight hold values that are not finite or do not fit.
    """
    w = weight.detach().float()
    _check_inputs(w, inputs)
    start = initial(w.abs().amax(1) if per_channel else w.abs().amax()[None], bits)
    x = _sample(inputs, WEIGHT_TOKENS, every_step=False)[0].to(w.device)
    if not x.isfinite().all():
        raise ValueError("inputs hold values that are not finite; look for NaN or infinity in what was recorded")
    grid = symmetric(bits, narrow=False)
    tried = with_initial(start)  # [1 i] or [o i]
    if per_channel:
        gram = x.T @ x
        errors = []
        for steps in tried.T:
            gap = quantize(w, steps[:, None], grid) * steps[:, None] - w
            errors.append(((gap @ gram) * gap).sum(1))
        best = torch.stack(errors).argmin(0)
        return tried.gather(1, best[:, None])[:, 0]
    target = x @ w.T
    scores = []
    for step in tried[0]:
        # a cosine does not see the scale itself: codes will do
        output = x @ quantize(w, step, grid).T
        dot, square = (output * target).sum(1, dtype=torch.float64), output.square().sum(1, dtype=torch.float64)
        scores.append(_mean_cosine(dot[:, None], square[:, None], target)[0])
    return tried[0, torch.stack(scores).argmax()][None]


def _check_inputs(weight: Tensor, inputs: Sequence[Tensor]) -> None:
    if not inputs:
        raise ValueError("there are no inputs to search on; record at least one chunk [b l c]")
    if inputs[0].dim() != 3 or inputs[0].shape[2] != weight.shape[1]:
        raise ValueError(f"inputs are {tuple(inputs[0].shape)}, expected (b, l, c) with c = {weight.shape[1]}")


def _cluster_peaks(rows: Sequence[Tensor], labels: Tensor, axis: int) -> Tensor:
    """Greatest |x| per cluster [k] on the CPU, over all rows, for labels along axis 1 (steps) or 2 (channels)."""
    if not rows:
        raise ValueError("there are no rows to search on; record at least one chunk [b l c]")
    size = rows[0].shape[axis]
    if tuple(labels.shape) != (size,):
        kind = "time step" if axis == 1 else "channel"
        raise ValueError(f"labels are {tuple(labels.shape)}, expected ({size},): one per {kind}")
    peak = torch.stack([chunk.detach().abs().amax((0, 3 - axis)) for chunk in rows]).amax(0).float()
    peak = peak.nan_to_num(nan=torch.inf, posinf=torch.inf)
    count = int(labels.max()) + 1
    return torch.stack(
        [peak[labels == k].amax() if (labels == k).any() else peak.new_zeros(()) for k in range(count)]
    ).cpu()


def _sample(rows: Sequence[Tensor], limit: int, *, every_step: bool = True) -> tuple[Tensor, Tensor]:
    """(tokens [t c] float32 on the CPU, their time steps [t]): about `limit` of them, evenly spaced over the steps.

    From one step to the next the samples are turned by the golden ratio, so that all of them have their turn.
    """
    samples, steps = sum(len(chunk) for chunk in rows), rows[0].shape[1]
    total = samples * steps
    count = min(total, max(limit, steps) if every_step else limit)
    flat = torch.arange(count) * total // count
    step, sample = flat // samples, flat % samples
    sample = (sample + (step * 0.6180339887498949 * samples).long()) % samples
    tokens, kept, first = [], [], 0
    for chunk in rows:
        here = (sample >= first) & (sample < first + len(chunk))
        places = (sample[here] - first).to(chunk.device), step[here].to(chunk.device)
        tokens.append(chunk.detach()[places].to("cpu", torch.float32))
        kept.append(step[here])
        first += len(chunk)
    return torch.cat(tokens), torch.cat(kept)


def _code_sums(x: Tensor, steps: Tensor, bits: int) -> tuple[Tensor, Tensor]:
    # numba takes a moment to import: only when something is searched
    from ouro.quant.search.compiled import code_sums

    return code_sums(x, steps, symmetric(bits, narrow=False))


def _scaled_sums(x: Tensor, steps: Tensor, bits: int) -> tuple[Tensor, Tensor]:
    """(x . Q(x), Q(x) . Q(x)) of tokens [t c] for every step [i], both [t i]."""
    dots, squares = _code_sums(x, steps, bits)
    return dots * steps.double(), squares * steps.double().square()


def _mean_cosine(dots: Tensor, squares: Tensor, x: Tensor) -> Tensor:
    """Mean over tokens of x . q / (|x| |q|), [i], from (x . q) and (q . q) [t i]; a token without length counts 0."""
    size = (squares.clamp(min=0) * x.double().square().sum(1)[:, None]).sqrt()
    return torch.where(size > 0, dots / positive(size), 0.0).sum(0) / max(1, len(x))
