"""What the norm is tested and measured on, the least it has to move, and its machine code's bounds."""

from __future__ import annotations

from functools import partial
from typing import Any

import torch

from ouro.kernels.launch import Build, Case, Floor
from ouro.kernels.norm_quantize.op import CONSTANT
from ouro.kernels.outlier_quantizer.op import warps

L = 197
"""Tokens of Vim at 224 pixels."""
WIDTHS = {"T": 192, "S": 384, "B": 768}
BATCHES = (1, 8, 32, 128)


def call(
    generator: torch.Generator,
    device: torch.device,
    *,
    size: tuple[int, int, int],
    dtype: torch.dtype = torch.float32,
    residual: torch.dtype | None = torch.float32,
    bias: bool = False,
    static: bool = False,
    unit: float = 1.0,
    constant: float | None = None,
    strange: bool = False,
    **settings: Any,
) -> dict[str, Any]:
    """One call; unit scales x and residual, strange puts NaN in one row and infinity in another.

    constant: rows of 3, with noise of this size on top.
    """

    def normal(*shape: int) -> torch.Tensor:
        return torch.randn(shape, generator=generator, device=device)

    _, steps, channels = size
    x = normal(*size) if constant is None else 3.0 + constant * normal(*size)
    if strange:
        x[0, 0, 0], x[0, 2, -1] = torch.nan, torch.inf
    signed, bits = settings.get("signed", True), settings.get("bits", 8)
    levels = 2 ** ((bits or 8) - signed) - 1
    scale = (3 + normal(steps).abs()) / levels
    zero = torch.randint(0, levels + 1, (steps,), generator=generator, device=device).float()
    return {
        "x": (x * unit).to(dtype),
        "residual": None if residual is None else (normal(*size) * unit).to(residual),
        "weight": 1 + 0.3 * normal(channels),
        "bias": normal(channels) if bias else None,
        "scale": scale if static else None,
        "zero": zero if static and not signed else None,
        **settings,
    }


_HALF = {"dtype": torch.float16, "residual": torch.float32}
_BENCH = tuple(
    Case(
        f"Vim-{name} b={batch} {kind}",
        partial(call, size=(batch, L, width), bits=8 if kind == "codes" else None, **_HALF),
        bench=True,
        sizes={"m": batch * L, "c": width, "out": 1 if kind == "codes" else 2},
    )
    for name, width in WIDTHS.items()
    for batch in BATCHES
    for kind in ("codes", "floats")
)

CASES = (
    Case("one number", partial(call, size=(1, 1, 1))),
    Case("one channel", partial(call, size=(2, 3, 1), bits=None)),
    Case("odd sizes", partial(call, size=(2, 23, 37))),
    Case("first block", partial(call, size=(1, 3, 96), residual=None)),
    Case("asymmetric", partial(call, size=(2, 23, 37), signed=False)),
    Case("static", partial(call, size=(2, 11, 37), static=True)),
    Case("static, four bits, asymmetric", partial(call, size=(2, 11, 37), static=True, signed=False, bits=4)),
    Case("floats", partial(call, size=(1, 11, 37), bits=None, bias=True)),
    Case("layer norm", partial(call, size=(1, 11, 37), kind="layer", bias=True)),
    Case("layer norm, asymmetric", partial(call, size=(1, 11, 70), kind="layer", bias=True, signed=False)),
    Case("constant rows", partial(call, size=(1, 3, 37), constant=0.0, residual=None)),
    Case("constant rows, layer norm", partial(call, size=(1, 3, 37), constant=0.0, residual=None, kind="layer")),
    Case("nearly constant rows", partial(call, size=(1, 3, 700), constant=1e-6, residual=None, kind="layer")),
    Case(
        "nearly constant rows, asymmetric",
        partial(call, size=(1, 3, 700), constant=1e-6, residual=None, kind="layer", signed=False, bias=True),
    ),
    Case("zeros", partial(call, size=(1, 3, 37), unit=0.0)),
    Case("zeros, asymmetric", partial(call, size=(1, 3, 37), unit=0.0, signed=False)),
    Case("huge", partial(call, size=(1, 3, 37), unit=1e17)),
    Case("tiny", partial(call, size=(1, 3, 37), unit=1e-12)),
    Case("NaN and infinity", partial(call, size=(1, 5, 37), strange=True)),
    Case("NaN and infinity, asymmetric", partial(call, size=(1, 5, 37), strange=True, signed=False)),
    Case("half precision", partial(call, size=(1, 11, 64), **_HALF)),
    Case("half precision, floats", partial(call, size=(1, 11, 64), bits=None, **_HALF)),
    Case(
        "bfloat16 throughout",
        partial(call, size=(1, 11, 64), dtype=torch.bfloat16, residual=torch.bfloat16, total_dtype=torch.bfloat16),
    ),
    Case("Vim's tokens", partial(call, size=(1, L, 48))),
    *_BENCH,
)


def floor(case: Case) -> Floor:
    """x of 16 bits and a residual of 32 read once, the sum and codes, or the norm in 16 bits, written once."""
    m, c, out = (case.sizes[axis] for axis in ("m", "c", "out"))
    return Floor(bytes=m * (c * (2 + 4 + 4 + out) + (4 if out == 1 else 0)))


_SIGNATURE = {
    "x": "*fp16:16", "residual": "*fp32:16", "weight": "*fp32:16", "total": "*fp32:16", "C": "i32:16", "steps": "i32",
    "eps": "fp32",
}  # fmt: skip
_CODES = {"codes": "*i8:16", "row_scale": "*fp32:16"}
_OPTIONAL = ("bias", "scale", "zero", "normed", "codes", "row_scale", "row_zero")


def _build(name: str, block: int, most: dict[int, float], more: dict[str, str], **flags: Any) -> Build:
    num_warps = warps(block, 128 * L)
    constexprs = {
        "BLOCK": block, "HIGH": 127, "LAYER": False, "CONSTANT": CONSTANT, "SIGNED": True, "STATIC": False, "HAS_RESIDUAL": True,
        "HAS_BIAS": False, "FUSED": True,
    } | flags  # fmt: skip
    return Build(
        name,
        "ouro.kernels.norm_quantize.kernel:norm_row",
        _SIGNATURE | more,
        {operand: None for operand in _OPTIONAL if operand not in more} | constexprs,
        elements=block / (32 * num_warps),
        most=most,
        num_warps=num_warps,
    )


BUILDS = (
    _build("codes, 768 channels", 1024, {80: 36, 90: 37}, _CODES),
    _build("codes, 192 channels", 256, {80: 50, 90: 51}, _CODES),
    _build("asymmetric codes, 768 channels", 1024, {80: 43, 90: 43}, _CODES | {"row_zero": "*i32:16"}, SIGNED=False),
    _build(
        "layer norm to floats, 768 channels", 1024, {80: 24, 90: 25}, {"normed": "*fp16:16", "bias": "*fp32:16"},
        HIGH=0, LAYER=True, HAS_BIAS=True,
    ),
)  # fmt: skip
