"""What the outlier quantizer is tested and measured on, what it has to do at least, and its machine code's bounds."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import Any

import torch
from torch import Tensor

from ouro.kernels.launch import Build, Case, Floor
from ouro.kernels.outlier_quantizer.op import warps

L = 197
"""Tokens of Vim at 224 pixels."""
CHANNELS = {"T": 384, "S": 768, "B": 1536}
"""Of the rows before out_proj."""
BATCHES = (1, 8, 32, 128)


def rows(generator: torch.Generator, device: torch.device, size: tuple[int, int, int]) -> Tensor:
    """Normal numbers; in one of thirty channels far larger, and at times in others."""
    x = torch.randn(size, generator=generator, device=device)
    x *= 1 + 9 * (torch.rand(size[2], generator=generator, device=device) > 0.97)
    return x * (1 + 4 * (torch.rand(size, generator=generator, device=device) > 0.99))


def call(
    generator: torch.Generator,
    device: torch.device,
    *,
    size: tuple[int, int, int],
    dtype: torch.dtype = torch.float32,
    change: Callable[[Tensor], Tensor] | None = None,
    signed: bool = True,
    theta: bool = False,
    **settings: Any,
) -> dict[str, Any]:
    """One call: a static step per time step under which a few rows in a hundred do not fit."""
    x, steps = rows(generator, device, size), size[1]
    levels = 2 ** (settings.get("bits", 4) - (1 if signed else 0)) - 1
    scale = (2 + torch.rand(steps, generator=generator, device=device)) / levels
    zero = torch.randint(0, levels + 1, (steps,), generator=generator, device=device).float()
    fixed = 1 + 2 * torch.rand(steps, generator=generator, device=device)
    return {
        "x": (x if change is None else change(x)).to(dtype),
        "scale": scale,
        "zero": None if signed else zero,
        "theta": fixed if theta else None,
        **settings,
    }


def _huge(x: Tensor) -> Tensor:
    return x.clone().index_fill_(2, torch.tensor([0], device=x.device), 3e38)


def _strange(x: Tensor) -> Tensor:
    """NaN in one row, infinity in another, denormal numbers in a third."""
    x = x.clone()
    x[0, 1, 0] = torch.nan
    x[0, 3, -1] = torch.inf
    x[-1, 5] *= 1e-42
    return x


def _later_denormal(x: Tensor) -> Tensor:
    """Outliers that are next to nothing one step later: their own step is a denormal number."""
    x = x.clone()
    x[:, 0, 0] = 50.0
    x[:, 1, 0] = 1e-41
    return x


def _near_constant(x: Tensor) -> Tensor:
    """All the same but for the last digit of one number, which is an outlier for that."""
    x = torch.full_like(x, 5.0)
    x[:, :, 0] = torch.nextafter(x[:, :, 0], x[:, :, 0] + 1)
    return x


def _alternating(x: Tensor) -> Tensor:
    """A row of zeros between any two: everyone exceeds what a window's first row leaves behind."""
    x = x.clone()
    x[:, ::2] = 0
    return x


_BENCH = tuple(
    Case(
        f"Vim-{name} b={batch} {mode}",
        partial(call, size=(batch, L, channels), dtype=torch.float16, mode=mode),
        bench=True,
        sizes={"b": batch, "l": L, "c": channels, "exact": int(mode == "exact")},
    )
    for name, channels in CHANNELS.items()
    for batch in BATCHES
    for mode in ("exact", "grid")
)

CASES = (
    Case("one number", partial(call, size=(1, 1, 1))),
    Case("one channel", partial(call, size=(2, 3, 1))),
    Case("two channels", partial(call, size=(1, 23, 2))),
    Case("odd sizes", partial(call, size=(2, 23, 37))),
    Case("a token more than windows", partial(call, size=(1, 21, 96))),
    Case("grid", partial(call, size=(2, 23, 37), mode="grid")),
    Case("grid, outliers out of reach", partial(call, size=(1, 23, 37), mode="grid", outlier_bits=5)),
    Case("grid, reversed", partial(call, size=(1, 23, 37), mode="grid", reverse=True)),
    Case("reversed", partial(call, size=(2, 23, 37), reverse=True)),
    Case("asymmetric", partial(call, size=(2, 23, 37), signed=False)),
    Case("asymmetric, reversed, fixed threshold", partial(call, size=(1, 23, 37), signed=False, theta=True, reverse=True)),
    Case("fixed threshold", partial(call, size=(1, 23, 37), theta=True)),
    Case("float outliers", partial(call, size=(1, 23, 37), outlier_bits=None)),
    Case("other widths", partial(call, size=(1, 23, 37), bits=8, outlier_bits=6, refresh=4, kappa=2.1)),
    Case("half precision", partial(call, size=(1, 23, 37), dtype=torch.float16)),
    Case("bfloat16", partial(call, size=(1, 11, 64), dtype=torch.bfloat16)),
    Case("constant rows", partial(call, size=(1, 11, 37), change=lambda x: torch.full_like(x, 5.0))),
    Case("a constant but for one digit", partial(call, size=(1, 11, 37), change=_near_constant)),
    Case("zeros", partial(call, size=(1, 11, 37), change=torch.zeros_like)),
    Case("nobody joins", partial(call, size=(1, 11, 37), kappa=50.0)),
    Case("everybody joins", partial(call, size=(1, 23, 37), kappa=-2.0)),
    Case("everybody joins, grid", partial(call, size=(1, 23, 37), kappa=-2.0, mode="grid")),
    Case("zeros between", partial(call, size=(1, 11, 37), change=_alternating)),
    Case("huge", partial(call, size=(1, 11, 37), change=_huge)),
    Case("huge, grid", partial(call, size=(1, 11, 37), change=_huge, mode="grid")),
    Case("huge, asymmetric", partial(call, size=(1, 11, 37), change=_huge, signed=False)),
    Case("NaN, infinity, denormal", partial(call, size=(2, 11, 37), change=_strange)),
    Case("NaN, infinity, denormal, grid", partial(call, size=(2, 11, 37), change=_strange, mode="grid")),
    Case("NaN, infinity, denormal, asymmetric", partial(call, size=(2, 11, 37), change=_strange, signed=False)),
    Case("outliers of denormal size", partial(call, size=(1, 11, 37), change=_later_denormal)),
    Case("Vim's tokens", partial(call, size=(1, L, 48))),
    *_BENCH,
)  # fmt: skip


def floor(case: Case) -> Floor:
    """x of 16 bits read once; one operand of codes written, or two, the list once a window, scales."""
    batch, steps, channels, exact = (case.sizes[axis] for axis in ("b", "l", "c", "exact"))
    windows = -(-steps // 10)
    per_row = 2 * channels + (1 + exact) * (channels + 4)
    return Floor(bytes=batch * (steps * per_row + windows * channels))


_SIGNATURE = {
    "x": "*fp16:16", "scale": "*fp32:16", "codes": "*i8:16", "row_scale": "*fp32:16", "joined": "*i8:16",
    "L": "i32", "C": "i32:16", "windows": "i32",
}  # fmt: skip
_OPTIONAL = ("zero", "theta", "row_zero", "outliers", "outlier_scale", "outlier_zero")


def _build(name: str, block: int, most: dict[int, float], grid: bool, signed: bool = True) -> Build:
    more = {} if grid else {"outliers": "*i8:16", "outlier_scale": "*fp32:16"}
    if not signed:
        more |= {"zero": "*fp32:16", "row_zero": "*i32:16", "outlier_zero": "*i32:16"}
    num_warps = warps(block, 128 * 20)
    constexprs = {
        "BLOCK": block, "REFRESH": 10, "HIGH": 7, "OUTLIER_HIGH": 127, "KAPPA": 3.0, "SIGNED": signed,
        "HAS_THETA": False, "GRID": grid, "REVERSE": False, "FUSED": True,
    }  # fmt: skip
    return Build(
        name,
        "ouro.kernels.outlier_quantizer.kernel:quantize_window",
        _SIGNATURE | more,
        {operand: None for operand in _OPTIONAL if operand not in more} | constexprs,
        elements=block / (32 * num_warps),
        most=most,
        num_warps=num_warps,
    )


BUILDS = (
    _build("exact, 1536 channels", 2048, {80: 55, 90: 52}, grid=False),
    _build("grid, 1536 channels", 2048, {80: 49, 90: 43}, grid=True),
    _build("exact, 384 channels", 512, {80: 50, 90: 48}, grid=False),
    _build("asymmetric, 1536 channels", 2048, {80: 66, 90: 65}, grid=False, signed=False),
)
