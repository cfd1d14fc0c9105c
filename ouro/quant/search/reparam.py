"""The hidden state divided by a rank-1 tensor, exactly undone, and the search for the steps that round it.

Source: arXiv 2501.16738 (hidden-state reparameterization), agrees with Access-IC-Lab/PTQ_for_ViM on the factors and on
the greedy search; that search is scored against C h alone here, where the official code compares it with C h + D u.

    h~[b, e, l, n] = h[b, e, l, n] / (r_C[e] r_L[l] r_D[n])

The grid is symmetric with its full range. What is stored is Q(h~); y reads the unrounded state (`StateQuantizer`).
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace

import torch
from torch import Tensor

from ouro.quant.grid import dequantize, positive, quantize, symmetric
from ouro.quant.search.candidates import candidates, initial, with_initial
from ouro.quant.search.states import kept, largest_state, pieces, sample
from ouro.scan import selective_scan
from ouro.types import ScanInputs, ScanOutput, ScanRounding, StateQuantizer


@dataclass(frozen=True, slots=True)
class Factors:
    """r_C [e], r_L [l] and r_D [n], all positive: what h[b, e, l, n] is divided by, each along its own axis."""

    channel: Tensor
    step: Tensor
    state: Tensor

    def rank1(self) -> Tensor:
        """r_C r_L r_D, [e l n]."""
        return self.channel[:, None, None] * self.step[:, None] * self.state


def factors(H: Tensor) -> Factors:
    """r_X = X_rep^{p_X} + 1e-15 for X in C (channels), L (steps), D (states), from the size of the states H [e l n].

    X_rep is the mean of H over the other two axes and p_X = std(X_rep) / (std(C_rep) + std(L_rep) + std(D_rep)), so an
    axis counts as much as the sizes along it differ. The three means of X_rep are equal and the powers add up to 1,
    so r_C r_L r_D is about as large as H. The std is the unbiased one, 0 along an axis of size 1; where all three are 0
    the powers are equal. A representative of 0 (a dead channel) gets factor 1.

    Args:
        H: mean |h| over samples, see `ouro.quant.search.states.mean_state`; or any other size of the states.

    Raises:
        ValueError: H is not (e, l, n), finite and nowhere negative.
    """
    if H.dim() != 3 or H.numel() == 0:
        raise ValueError(f"H is {tuple(H.shape)}, expected a non-empty (e, l, n): average over samples first")
    if not H.isfinite().all() or (H < 0).any():
        raise ValueError("H holds values that are negative or not finite; expected the mean of |h|")
    sizes = [H.double().mean(axes) for axes in ((1, 2), (0, 2), (0, 1))]
    spreads = [size.std() if len(size) > 1 else size.new_zeros(()) for size in sizes]
    total = torch.stack(spreads).sum()
    powers = [spread / total if total > 0 else 1 / 3 for spread in spreads]
    rows = [positive(size) ** power + 1e-15 for size, power in zip(sizes, powers, strict=True)]
    return Factors(*(row.to(H.dtype) for row in rows))


def reparameterize(A_bar: Tensor, drive: Tensor, C: Tensor, factors: Factors) -> tuple[Tensor, Tensor, Tensor]:
    """(A_bar', drive', C') of the scan whose state is h~ = h / (r_C r_L r_D); exact: y = r_C y', h = h~ r_C r_L r_D.

    A_bar'_l = A_bar_l r_L[l-1] / r_L[l], with r_L[-1] = 1 (no state is older); drive' = drive / (r_C r_L r_D);
    C' = C r_D r_L.

    Args:
        A_bar: [b e l n], as `ouro.scan.discretize` gives it.
        drive: B_bar u, [b e l n].
        C: [b n l] or grouped [b g n l].
    """
    before = torch.cat([torch.ones_like(factors.step[:1]), factors.step[:-1]])
    ratio = (before / factors.step)[:, None]
    return A_bar * ratio, drive / factors.rank1(), C * (factors.state[:, None] * factors.step)


def search_steps(
    scans: Sequence[ScanInputs], factors: Factors | None, bits: int, *, samples: int = 16, least: float = 0.0
) -> Tensor:
    """One step per time step, s_h [l], searched greedily from the first on; the step of h is s_h[l] r_C[e] r_D[n].

    For the result as it is: StateQuantizer(s_h, bits, factors.channel, factors.state). factors.step is not used: a
    step per time step makes r_L redundant. Search around max|h~_l| / (2^(bits-1) - 0.5): at every l the candidate
    wins that has the greatest mean cosine over channels between y_{l+1} = C_{l+1} h_{l+1} of the float scan and that of
    the rounded one (skip left out), then the state is rounded with it and carried on. Where all are equal, a state of
    zeros among them, the initial step stays; it is 1 for zeros. The last step is never used and stays initial too.
    Searched on the CPU wherever the scans are: it is a loop over steps in which every state waits for the last.

    Args:
        scans: chunks of one scan's operands.
        factors: None for r_C = r_D = 1.
        samples: how many to search on, evenly spaced over all; the initial steps are theirs as well.
        least: smallest candidate, as a part of the initial step.

    Raises:
        ValueError: there are no scans, or they hold values that are not finite.
    """
    inputs = sample(scans, samples)
    channels, N = inputs.A.shape
    unit = inputs.A.new_ones(channels, N) if factors is None else factors.channel[:, None] * factors.state
    # numba takes a moment to import: only when something is searched
    from ouro.quant.search.compiled import greedy_steps

    tried = with_initial(torch.ones(()), least=least)
    return greedy_steps(inputs, unit, tried, symmetric(bits, narrow=False)).to(inputs.u.device)


@torch.no_grad()
def search_shared(
    scans: Sequence[ScanInputs], factors: Factors | None, bits: int, *, samples: int = 16, least: float = 0.0
) -> Tensor:
    """One step for all time steps, s [1]; the step of h is s r_C[e] r_L[l] r_D[n].

    For the result: StateQuantizer(s * factors.step, bits, factors.channel, factors.state). Search around
    max|h~| / (2^(bits-1) - 0.5), for the greatest mean cosine over channels between y of the float scan and of the
    rounded one (skip left out). Coarse to fine: every tenth of the 100 candidates, then the 9 on either side of the
    best; the initial step stays unless it is beaten.

    Args:
        scans: chunks of one scan's operands.
        factors: None for r_C = r_L = r_D = 1.
        samples: how many to search on, evenly spaced over all; the initial step is theirs as well.
        least: as in `search_steps`.

    Raises:
        ValueError: there are no scans, or they hold values that are not finite.
    """
    inputs = replace(sample(scans, samples), D=None)
    size = largest_state([inputs])
    start = initial((size if factors is None else size / factors.rank1().to(size)).amax(), bits)
    wanted = _scan(inputs).y

    def score(step: Tensor) -> float:
        shared = step[None] if factors is None else step * factors.step
        y = _scan(inputs, _quantizer(shared, bits, factors)).y
        return torch.cosine_similarity(wanted.double(), y.double(), dim=1).mean().item()

    tried = candidates(start, least=least)
    scores: dict[int, float] = {}
    coarse = [*range(0, len(tried), 10), len(tried) - 1]
    best = _greatest(coarse, lambda i: score(tried[i]), scores)
    best = _greatest(range(max(0, best - 9), min(len(tried), best + 10)), lambda i: score(tried[i]), scores)
    return (tried[best] if scores[best] > score(start) else start)[None]


@torch.no_grad()
def state_error(scans: Sequence[ScanInputs], quantizer: StateQuantizer | None, samples: int = 16) -> float:
    """||h_q - h|| / ||h||, h_q the state that is carried when it is rounded inside the recurrence, h that of floats.

    0 without a quantizer, and for states of zeros; `samples` of them, evenly spaced over all.

    Raises:
        ValueError: there are no scans, or they hold values that are not finite.
    """
    inputs = replace(sample(scans, samples), D=None)
    if quantizer is None:
        return 0.0
    error, size = 0.0, 0.0
    for piece in pieces(inputs):
        h = kept(_scan(piece, keep_states=True))
        unrounded = kept(_scan(piece, quantizer, keep_states=True))
        gap = _rounded(unrounded, quantizer) - h
        error += gap.square().sum(dtype=torch.float64).item()
        size += h.square().sum(dtype=torch.float64).item()
    return (error / size) ** 0.5 if size > 0 else 0.0


def _scan(inputs: ScanInputs, quantizer: StateQuantizer | None = None, *, keep_states: bool = False) -> ScanOutput:
    """The scan, its state rounded if there is a quantizer."""
    rounding = None if quantizer is None else ScanRounding(h=quantizer)
    return selective_scan(inputs, keep_states=keep_states, rounding=rounding)


def _rounded(h: Tensor, quantizer: StateQuantizer) -> Tensor:
    """Q(h) for all steps of h [b e l n]."""
    scale = quantizer.step[:, None]
    if quantizer.channel is not None:
        scale = scale * quantizer.channel[:, None, None]
    if quantizer.state is not None:
        scale = scale * quantizer.state
    return dequantize(quantize(h, scale, symmetric(quantizer.bits, narrow=False)), scale)


def _quantizer(step: Tensor, bits: int, factors: Factors | None) -> StateQuantizer:
    if factors is None:
        return StateQuantizer(step, bits)
    return StateQuantizer(step, bits, factors.channel, factors.state)


def _greatest(places: Sequence[int], score: Callable[[int], float], scores: dict[int, float]) -> int:
    """The first of the places with the greatest score; scores are kept, and not asked for twice."""
    for place in places:
        if place not in scores:
            scores[place] = score(place)
    return max(places, key=scores.__getitem__)
