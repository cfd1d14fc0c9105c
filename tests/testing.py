"""Comparison of tensors with one table of tolerances and a message that says where they part."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

QUICK: dict[str, dict[str, Any]] = {
    "ouro": {"steps_per_block": 1, "candidates": 10},
    "ptq4vm": {"steps_per_block": 1, "candidates": 10},
    "brecq": {"iterations": 2, "activation_steps": 1, "candidates": 10},
    "clipped": {"candidates": 10},
    "qmamba": {"candidates": 10},
    "kscale": {"samples": 4, "rounds": 1},
}
"""Options under which a method does all that it does, each of it seldom: for tests of what does not hang on how well."""
TOLERANCES = {
    torch.float64: (1e-9, 1e-11),
    torch.float32: (1e-4, 1e-5),
    torch.float16: (1e-2, 1e-3),
    torch.bfloat16: (2e-2, 1e-2),
}
"""dtype -> (relative, absolute)"""


def assert_close(
    actual: Tensor, expected: Tensor, *, name: str = "tensor", rtol: float | None = None, atol: float | None = None
) -> None:
    """Asserts |actual - expected| <= atol + rtol |expected| everywhere; whole numbers have to be equal.

    Tolerances default to those of the coarser dtype of the two. NaN never equals anything; equal infinities do.
    """
    assert actual.shape == expected.shape, f"{name}: shape {tuple(actual.shape)}, expected {tuple(expected.shape)}"
    known = [TOLERANCES[x.dtype] for x in (actual, expected) if x.dtype in TOLERANCES]
    default_rtol, default_atol = max(known, default=(0.0, 0.0))
    rtol = default_rtol if rtol is None else rtol
    atol = default_atol if atol is None else atol
    got, want = (x.detach().cpu().double() for x in (actual, expected))
    gap = torch.where(got == want, 0.0, (got - want).abs())
    wrong = ~(gap <= atol + rtol * want.abs())
    if not wrong.any():
        return
    # a NaN is the worst there can be
    place = torch.where(gap.isnan(), torch.inf, gap).flatten().argmax()
    worst = tuple(int(i) for i in torch.unravel_index(place, gap.shape))
    rms = (gap.square().mean() / want.square().mean().clamp_min(1e-300)).sqrt()
    raise AssertionError(
        f"{name}: {int(wrong.sum())} of {wrong.numel()} differ; max abs {gap.flatten()[place]:.3e}, "
        f"relative RMS {rms:.3e}, worst at {worst}: {got[worst].item()!r}, expected {want[worst].item()!r} "
        f"(rtol {rtol:g}, atol {atol:g})"
    )
