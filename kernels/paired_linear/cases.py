"""What the two linear layers of a direction are tested and measured on, and their machine code's bounds."""

from __future__ import annotations

from functools import partial
from typing import Any

import torch

from ouro.kernels.launch import Build, Case, Floor
from ouro.kernels.paired_linear.op import tile_of

L = 197
LAYERS = {
    "T x_proj": (44, 384), "T dt_proj": (384, 12), "S x_proj": (56, 768), "S dt_proj": (768, 24),
    "B x_proj": (80, 1536), "B dt_proj": (1536, 48),
}  # fmt: skip
"""Outputs and inputs of Vim's layers."""


def call(
    generator: torch.Generator,
    device: torch.device,
    *,
    size: tuple[int, int, int],
    bias: bool = False,
    apart: int = 0,
    raised: float = 0.0,
    x_dtype: torch.dtype = torch.float32,
    dtype: torch.dtype = torch.float32,
    y_dtype: torch.dtype | None = None,
    activation: str | None = None,
) -> dict[str, Any]:
    """One call of size (r, o, c). apart: numbers between two rows. raised: on top of the bias.

    x holds what the weights' dtype can, so that rounding it to that changes nothing.
    """
    rows, outputs, channels = size

    def normal(*shape: int) -> torch.Tensor:
        return torch.randn(shape, generator=generator, device=device)

    made: dict[str, Any] = {"activation": activation, "dtype": y_dtype}
    for way in "fb":
        made[f"x_{way}"] = normal(rows, channels + apart).to(dtype).to(x_dtype)[:, apart:]
        made[f"weight_{way}"] = (normal(outputs, channels) / channels**0.5).to(dtype)
        made[f"bias_{way}"] = (normal(outputs) + raised).to(dtype) if bias else None
    return made


_HALF = {"x_dtype": torch.float16, "dtype": torch.float16}
_STEP = {"bias": True, "activation": "softplus"}


def _measured(name: str, outputs: int, channels: int, batch: int) -> Case:
    """x_proj writes float32 for the scan; dt_proj reads a part of that."""
    step = name.endswith("dt_proj")
    settings = (
        {"x_dtype": torch.float32, "dtype": torch.float16, "y_dtype": torch.float16, "apart": 32} | _STEP
        if step
        else {**_HALF, "y_dtype": torch.float32}
    )
    sizes = {"m": batch * L, "n": outputs, "k": channels, "read": 4 if step else 2, "write": 2 if step else 4}
    build = partial(call, size=(batch * L, outputs, channels), **settings)
    return Case(f"Vim-{name} b={batch}", build, bench=True, sizes=sizes)


CASES = (
    Case("one product", partial(call, size=(1, 1, 1))),
    Case("three rows", partial(call, size=(3, 5, 33), bias=True)),
    Case("odd sizes", partial(call, size=(23, 70, 131))),
    Case("step sizes", partial(call, size=(23, 130, 12), apart=5, **_STEP)),
    Case("large and small step sizes", partial(call, size=(23, 37, 3), raised=40.0, **_STEP)),
    Case("next to no step sizes", partial(call, size=(23, 37, 3), raised=-30.0, **_STEP)),
    Case("half precision, float32 for the scan", partial(call, size=(23, 44, 96), **_HALF, y_dtype=torch.float32)),
    Case("half precision", partial(call, size=(23, 96, 7), dtype=torch.float16, y_dtype=torch.float16, **_STEP)),
    Case("bfloat16", partial(call, size=(23, 37, 64), x_dtype=torch.bfloat16, dtype=torch.bfloat16)),
    *(_measured(name, *sizes, batch) for name, sizes in LAYERS.items() for batch in (1, 8, 32, 128)),
)


def floor(case: Case) -> Floor:
    """Rows and weights read once, outputs written once, for both directions."""
    m, n, k, read, write = (case.sizes[axis] for axis in ("m", "n", "k", "read", "write"))
    return Floor(bytes=2 * (read * m * k + 2 * n * k + write * m * n), half_ops=4 * m * n * k)


_WGMMA = r"wgmma\.mma_async\.sync\.aligned\.m64n\d+k16\.f32\.f16\.f16"
_MMA = r"mma\.sync\.aligned\.m16n8k16\.row\.col\.f32\.f16\.f16\.f32"


def _build(name: str, most: dict[int, float], size: tuple[int, int, int], step: bool) -> Build:
    """Counted per 1024 multiply-adds of a lane."""
    tile = tile_of(*size)
    x, bias = "*fp32:16" if step else "*fp16:16", {"bias_f": "*fp16:16", "bias_b": "*fp16:16"}
    y = "*fp16:16" if step else "*fp32:16"
    return Build(
        name,
        "ouro.kernels.paired_linear.kernel:pair_tile",
        {"x_f": x, "x_b": x, "weight_f": "*fp16:16", "weight_b": "*fp16:16"}
        | (bias if step else {})
        | {"y_f": y, "y_b": y, "M": "i32", "N": "i32:16", "K": "i32:16", "x_row": "i32:16"},
        {name: tile[name] for name in ("BLOCK_M", "BLOCK_N", "BLOCK_K")}
        | {"EVEN": size[2] % tile["BLOCK_K"] == 0, "SOFTPLUS": step, "HARDWARE": True}
        | ({} if step else {"bias_f": None, "bias_b": None}),
        elements=tile["BLOCK_M"] * tile["BLOCK_N"] * tile["BLOCK_K"] / (32 * tile["num_warps"]) / 1024,
        most=most,
        num_warps=tile["num_warps"],
        num_stages=tile["num_stages"],
        # Hopper's products of a warp group take 64 rows
        ptx={80: (_MMA,), 90: (_WGMMA if tile["BLOCK_M"] == 64 else _MMA,)},
    )


BUILDS = (
    _build("x_proj", {80: 38, 90: 23}, (128 * L, 80, 1536), step=False),
    _build("x_proj, few rows", {80: 86, 90: 80}, (L, 80, 1536), step=False),
    _build("dt_proj", {80: 75, 90: 37}, (128 * L, 1536, 48), step=True),
)
