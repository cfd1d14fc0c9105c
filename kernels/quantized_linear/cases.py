"""What the quantized linear layer is tested and measured on, the least it has to do, and its machine code's bounds."""

from __future__ import annotations

from functools import partial
from typing import Any

import torch

from ouro.kernels.launch import Build, Case, Floor
from ouro.kernels.quantized_linear.op import packed, tile_of

L = 197
"""Tokens of Vim at 224 pixels."""
LAYERS = {
    "T in_proj": (768, 192), "T out_proj": (192, 384), "T x_proj": (44, 384),
    "S in_proj": (1536, 384), "S out_proj": (384, 768), "S x_proj": (56, 768),
    "B in_proj": (3072, 768), "B out_proj": (768, 1536), "B x_proj": (80, 1536),
}  # fmt: skip
"""Outputs and inputs of Vim's layers."""
FORMATS = ("W8A8", "W4A8", "W4A4O8")
BATCHES = (1, 8, 32, 128)


def call(
    generator: torch.Generator,
    device: torch.device,
    *,
    size: tuple[int, int, int],
    format: str = "W8A8",
    zero: bool = False,
    bias: bool = True,
    extreme: int = 0,
    activation: str | None = None,
    activated_from: int = 0,
    dtype: torch.dtype = torch.float32,
) -> dict[str, Any]:
    """One call of size (r, o, c); y is about 1 in size. extreme: all codes are the lowest (-1), or highest (1)."""
    rows, outputs, channels = size

    def whole(high: int, *shape: int) -> torch.Tensor:
        low = -high - 1 if high < 127 else -127
        return torch.randint(low, high + 1, shape, generator=generator, device=device, dtype=torch.int8)

    def steps(count: int, unit: float) -> torch.Tensor:
        return (0.5 + torch.rand(count, generator=generator, device=device)) * unit

    two = format == "W4A4O8"
    high, weight_high = (7 if two else 127), (127 if format == "W8A8" else 7)
    codes, weight = whole(high, rows, channels), whole(weight_high, outputs, channels)
    outliers = whole(127, rows, channels) * (torch.rand((rows, channels), generator=generator, device=device) < 0.05)
    if extreme:
        codes.fill_(127 if extreme > 0 else -128)
        weight.fill_(weight_high if extreme > 0 else -weight_high - 1)
    unit = 3 / (high * channels**0.5)
    call = {
        "codes": codes,
        "scale": steps(rows, unit),
        "weight": weight if format == "W8A8" else packed(weight),
        "weight_scale": steps(outputs, 1 / weight_high),
        "bias": torch.randn(outputs, generator=generator, device=device) if bias else None,
        "activation": activation,
        "activated_from": activated_from,
        "dtype": dtype,
    }
    if zero:
        call["zero"] = torch.randint(-128, 128, (rows,), generator=generator, device=device, dtype=torch.int32)
    if two:
        call |= {"outliers": outliers, "outlier_scale": steps(rows, unit / 3)}
        if zero:
            call["outlier_zero"] = -call["zero"]
    return call


def _unknown_row(generator: torch.Generator, device: torch.device, **settings: Any) -> dict[str, Any]:
    """A row that held NaN, and one whose outliers held infinity."""
    made = call(generator, device, **settings)
    made["scale"][0] = torch.nan
    made["outlier_scale"][2] = torch.nan
    return made


def _large_steps(generator: torch.Generator, device: torch.device, **settings: Any) -> dict[str, Any]:
    """Outliers a million times the inliers' size."""
    made = call(generator, device, **settings)
    made["outlier_scale"] *= 1e6
    return made


_BENCH = tuple(
    Case(
        f"Vim-{layer} b={batch} {format}",
        partial(call, size=(batch * L, outputs, channels), format=format, bias=False, dtype=torch.float16),
        bench=True,
        sizes={"m": batch * L, "n": outputs, "k": channels, "operands": 1 + (format == "W4A4O8"),
               "weight_bits": 8 if format == "W8A8" else 4},
    )
    for layer, (outputs, channels) in LAYERS.items()
    for batch in BATCHES
    for format in FORMATS
)  # fmt: skip

CASES = (
    Case("one product", partial(call, size=(1, 1, 1))),
    Case("one row", partial(call, size=(1, 7, 37))),
    Case("three rows", partial(call, size=(3, 5, 33), zero=True)),
    Case("odd sizes", partial(call, size=(23, 70, 131))),
    Case("odd sizes, zero points", partial(call, size=(23, 37, 63), zero=True)),
    Case("no bias", partial(call, size=(5, 9, 128), bias=False)),
    Case("four bits, one channel", partial(call, size=(3, 5, 1), format="W4A8")),
    Case("four bits, odd sizes", partial(call, size=(23, 70, 131), format="W4A8")),
    Case("four bits, even sizes", partial(call, size=(23, 37, 256), format="W4A8")),
    Case("four bits, zero points", partial(call, size=(23, 37, 63), format="W4A8", zero=True)),
    Case("two products", partial(call, size=(23, 37, 96), format="W4A4O8")),
    Case("two products, odd sizes", partial(call, size=(23, 7, 135), format="W4A4O8")),
    Case("two products, zero points", partial(call, size=(23, 7, 96), format="W4A4O8", zero=True)),
    Case("two products, far apart", partial(_large_steps, size=(5, 7, 96), format="W4A4O8")),
    Case("unknown rows", partial(_unknown_row, size=(5, 7, 96), format="W4A4O8")),
    Case("lowest codes", partial(call, size=(5, 7, 1024), extreme=-1, zero=True)),
    Case("highest codes", partial(call, size=(5, 7, 1024), extreme=1)),
    Case("lowest codes, four bits", partial(call, size=(5, 7, 1024), format="W4A8", extreme=-1)),
    Case("gate", partial(call, size=(23, 74, 63), activation="silu", activated_from=37)),
    Case("gate of few", partial(call, size=(3, 140, 63), format="W4A8", activation="silu", activated_from=139)),
    Case("softplus", partial(call, size=(23, 37, 63), activation="softplus")),
    Case("half precision", partial(call, size=(23, 37, 63), dtype=torch.float16, activation="softplus")),
    Case("bfloat16", partial(call, size=(23, 37, 63), dtype=torch.bfloat16)),
    Case("Vim's tokens", partial(call, size=(L, 96, 192), format="W4A8", dtype=torch.float16)),
    *_BENCH,
)


def floor(case: Case) -> Floor:
    """Codes, weight and steps read once, y of 16 bits written once; two operations per product of codes."""
    m, n, k, operands, bits = (case.sizes[axis] for axis in ("m", "n", "k", "operands", "weight_bits"))
    moved = operands * m * (k + 4) + n * (k * bits // 8 + 4) + 2 * m * n
    return Floor(bytes=moved, int8_ops=2 * operands * m * n * k)


_SIGNATURE = {
    "codes": "*i8:16", "scale": "*fp32:16", "weight": "*i8:16", "weight_scale": "*fp32:16", "y": "*fp16:16",
    "M": "i32", "N": "i32:16", "K": "i32:16", "half": "i32:16", "activated_from": "i32:16",
}  # fmt: skip
_OPTIONAL = {
    "zero": "*i32:16", "outliers": "*i8:16", "outlier_scale": "*fp32:16", "outlier_zero": "*i32:16",
    "weight_sum": "*i32:16", "bias": "*fp32:16",
}  # fmt: skip
_WGMMA = r"wgmma\.mma_async\.sync\.aligned\.m64n\d+k32\.s32\.s8\.s8"
_MMA = r"mma\.sync\.aligned\.m16n8k32\.row\.col(\.satfinite)?\.s32\.s8\.s8\.s32"


def _build(name: str, most: dict[int, float], tile: dict[str, int], **flags: Any) -> Build:
    """Counted per 1024 multiply-adds of a lane. tile: as the op chooses it for some shape."""
    m, n, k, warps = (tile[key] for key in ("BLOCK_M", "BLOCK_N", "BLOCK_K", "num_warps"))
    constexprs = {
        "BLOCK_M": m, "BLOCK_N": n, "BLOCK_K": k, "PACKED": False, "EVEN": True, "HAS_ZERO": False,
        "HAS_OUTLIERS": False, "HAS_BIAS": False, "ACTIVATION": "", "HARDWARE": True,
    } | flags  # fmt: skip
    present = {"bias"} if flags.get("HAS_BIAS") else set()
    if flags.get("HAS_OUTLIERS"):
        present |= {"outliers", "outlier_scale"}
    if flags.get("HAS_ZERO"):
        present |= {"zero", "weight_sum"} | ({"outlier_zero"} if flags.get("HAS_OUTLIERS") else set())
    return Build(
        name,
        "ouro.kernels.quantized_linear.kernel:linear_tile",
        _SIGNATURE | {operand: kind for operand, kind in _OPTIONAL.items() if operand in present},
        {operand: None for operand in _OPTIONAL if operand not in present} | constexprs,
        elements=m * n * k / (32 * warps) / 1024,
        most=most,
        num_warps=warps,
        num_stages=tile["num_stages"],
        max_registers=tile.get("maxnreg"),
        ptx={90: (_WGMMA,), 80: (_MMA,)},
    )


_MANY = tile_of(25216, 1536, two_products=False, newest=False)
_HOPPER = tile_of(25216, 1536, two_products=False, newest=True)
_FEW = tile_of(L, 1536, two_products=False, newest=True)
_TWO = tile_of(25216, 1536, two_products=True, newest=True)
BUILDS = (
    _build("W8A8, SiLU on a half", {80: 18.5}, _MANY, ACTIVATION="silu"),
    _build("W8A8, SiLU on a half, Hopper", {90: 10.5}, _HOPPER, ACTIVATION="silu"),
    _build("W8A8, zero points and a bias", {80: 18.5}, _MANY, HAS_ZERO=True, HAS_BIAS=True),
    _build("W8A8, zero points and a bias, Hopper", {90: 10.5}, _HOPPER, HAS_ZERO=True, HAS_BIAS=True),
    _build("W4A8", {80: 22}, _MANY, PACKED=True),
    _build("W4A8, Hopper", {90: 13.5}, _HOPPER, PACKED=True),
    _build("W4A8, few rows", {80: 31.5, 90: 28}, _FEW, PACKED=True),
    _build("W4A4O8", {80: 31.5, 90: 15.5}, _TWO, PACKED=True, HAS_OUTLIERS=True),
    _build("W4A4O8, zero points", {80: 31.5, 90: 15.5}, _TWO, PACKED=True, HAS_OUTLIERS=True, HAS_ZERO=True),
    _build("W8A8, a rest of channels", {80: 28, 90: 21.5}, _FEW, EVEN=False),
)
