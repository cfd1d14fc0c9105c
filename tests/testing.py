"""Comparison of tensors with one table of tolerances and a message that says where they part."""

from __future__ import annotations

import torch
from torch import Tensor

# dtype -> (relative, absolute)
TOLERANCES = {
    torch.float64: (1e-9, 1e-11),
    torch.float32: (1e-4, 1e-5),
    torch.float16: (1e-2, 1e-3),
    torch.bfloat16: (2e-2, 1e-2),
}


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
