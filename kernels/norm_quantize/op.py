"""Residual sum, RMSNorm or LayerNorm, and integer codes of the result: what stands before a block's first linear layer.

Source: Zhang & Sennrich 2019 (RMSNorm) and Ba et al. 2016 (LayerNorm), as `ouro.models.layers` has them; codes as
`ouro.quant.packed.integer` defines them, with a static step per time step or the range of each row.
"""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor

from ouro.kernels.launch import choose, divided, first, interpreted, wrong_dtype, wrong_shape
from ouro.kernels.outlier_quantizer.op import warps

KINDS = ("rms", "layer")
FLOATS = (torch.float32, torch.float16, torch.bfloat16)
CONSTANT = 2.0**-18
"""A row that nowhere differs from its mean by more than this part of it is constant to LayerNorm: the rest is what the
float32 sum of up to LARGEST_C numbers costs, and the norm would blow it up."""
LARGEST_C = 8192
"""A row stays in the registers of one program."""


class Normed(NamedTuple):
    """total: x + residual [b l c]. y: its norm in x's dtype, where no codes were asked for; otherwise int8 `codes`.

    Element (b, l, c) of codes stands for scale (codes - zero). scale: float32 [b l], NaN where a row is not finite.
    zero: int32 [b l]; None for 0.
    """

    total: Tensor
    y: Tensor | None
    codes: Tensor | None
    scale: Tensor | None
    zero: Tensor | None


def norm_quantize(
    x: Tensor,
    residual: Tensor | None,
    weight: Tensor,
    bias: Tensor | None = None,
    *,
    kind: str = "rms",
    eps: float = 1e-5,
    bits: int | None = 8,
    signed: bool = True,
    scale: Tensor | None = None,
    zero: Tensor | None = None,
    total_dtype: torch.dtype = torch.float32,
    backend: str = "auto",
) -> Normed:
    """Norm of x + residual, and its codes, in one pass.

    Args:
        x: [b l c], float32, float16 or bfloat16. residual: the same shape, any of these; None for the first block.
        weight, bias: [c], any of these.
        kind: "rms", weight total / sqrt(mean total^2 + eps), or "layer", of what differs from the mean, which is 0
            throughout a row that is constant up to `CONSTANT`.
        bits: 2 to 8, of the codes; None returns the norm itself.
        signed: symmetric codes, otherwise asymmetric ones with a zero point.
        scale, zero: static step and zero point per time step, float32 [l]; None takes the range of each row.
        total_dtype: of the sum that is kept as the next residual. The norm is that of the unrounded sum.
        backend: "auto", "triton" or "reference".

    Raises:
        KernelError: an operand that no backend takes, or the named backend cannot run here.
    """
    batch, L, C = x.shape if x.dim() == 3 else (0, 0, 0)
    floats = {"x": x, "residual": residual, "weight": weight, "bias": bias}
    tables = {"scale": scale, "zero": zero}
    invalid = first(
        None if 0 not in (batch, L, C) else f"x is {tuple(x.shape)}, expected a non-empty (b, l, c)",
        wrong_dtype(floats, *FLOATS),
        wrong_dtype(tables, torch.float32),
        wrong_shape("residual", residual, "b l c", batch, L, C),
        wrong_shape("weight", weight, "c", C),
        wrong_shape("bias", bias, "c", C),
        *(wrong_shape(name, table, "l", L) for name, table in tables.items()),
        None if kind in KINDS else f"unknown kind {kind!r}; known: {', '.join(KINDS)}",
        None if bits is None or 2 <= bits <= 8 else f"bits is {bits}, expected 2 to 8",
        None if total_dtype in FLOATS else f"total_dtype is {total_dtype}, expected {', '.join(map(str, FLOATS))}",
        None
        if (zero is not None) == (scale is not None and not signed)
        else "a zero point goes with a static step of asymmetric codes, and the other way round",
    )
    too_wide = f"x has {C} channels, a row of at most {LARGEST_C} fits" if C > LARGEST_C else None
    chosen = choose("norm_quantize", backend, floats | tables, invalid=invalid, unsupported=too_wide)
    run = _triton if chosen == "triton" else reference
    return run(
        x, residual, weight, bias,
        kind=kind, eps=eps, bits=bits, signed=signed, scale=scale, zero=zero, total_dtype=total_dtype,
    )  # fmt: skip


def reference(
    x: Tensor,
    residual: Tensor | None,
    weight: Tensor,
    bias: Tensor | None = None,
    *,
    kind: str = "rms",
    eps: float = 1e-5,
    bits: int | None = 8,
    signed: bool = True,
    scale: Tensor | None = None,
    zero: Tensor | None = None,
    total_dtype: torch.dtype = torch.float32,
) -> Normed:
    """The definition of `norm_quantize`, reckoned in float32, or in float64 where x is float64."""
    wide = x.dtype if x.dtype == torch.float64 else torch.float32
    total = x.to(wide) if residual is None else x.to(wide) + residual.to(wide)
    centered = total
    if kind == "layer":
        mean = total.mean(-1, keepdim=True)
        centered = total - mean
        constant = centered.abs().amax(-1, keepdim=True) <= CONSTANT * mean.abs()
        centered = centered.masked_fill(constant, 0)
    y = centered * (centered.square().mean(-1, keepdim=True) + eps).rsqrt() * weight.to(wide)
    if bias is not None:
        y = y + bias.to(wide)
    kept = total if wide == torch.float64 else total.to(total_dtype)
    if bits is None:
        return Normed(kept, y.to(x.dtype), None, None, None)
    levels = 2 ** (bits - 1) - 1 if signed else 2**bits - 1
    low, high = y.amin(-1, keepdim=True).clamp(max=0), y.amax(-1, keepdim=True).clamp(min=0)
    if scale is None:
        span = torch.maximum(high, -low) if signed else high - low
        step = divided(span, levels)
        step = torch.where(step > 1e-37, step, 1.0)
        origin = torch.zeros_like(step) if signed else -(low / step).round()
    else:
        step = scale[:, None].expand_as(low)
        origin = torch.zeros_like(step) if zero is None else zero[:, None].expand_as(low)
    codes = ((y / step).round() + origin).clamp(-levels if signed else 0, levels)
    known = y.isfinite().all(-1, keepdim=True)
    # asymmetric codes are lowered so that they fit a byte
    lowered = 0 if signed else 2 ** (bits - 1)
    codes = (codes - lowered).masked_fill(~known, 0).to(torch.int8)
    origin = origin.nan_to_num(0.0, 0.0, 0.0) - lowered
    step = step.masked_fill(~known, torch.nan)
    return Normed(kept, None, codes, step.squeeze(-1), None if signed else origin.squeeze(-1).to(torch.int32))


def _triton(
    x: Tensor,
    residual: Tensor | None,
    weight: Tensor,
    bias: Tensor | None,
    *,
    kind: str,
    eps: float,
    bits: int | None,
    signed: bool,
    scale: Tensor | None,
    zero: Tensor | None,
    total_dtype: torch.dtype,
) -> Normed:
    from ouro.kernels.norm_quantize.kernel import norm_row

    batch, L, C = x.shape
    total, y, codes, row_scale, row_zero = torch.empty_like(x, dtype=total_dtype), None, None, None, None
    if bits is None:
        y = torch.empty_like(x)
    else:
        codes, row_scale = torch.empty_like(x, dtype=torch.int8), x.new_empty((batch, L), dtype=torch.float32)
        row_zero = None if signed else x.new_empty((batch, L), dtype=torch.int32)
    block = 1 << (C - 1).bit_length()
    norm_row[(batch * L,)](
        x, residual, weight, bias, scale, zero, total, y, codes, row_scale, row_zero,
        C, L, eps,
        BLOCK=block,
        HIGH=0 if bits is None else 2 ** (bits - 1) - 1,
        LAYER=kind == "layer",
        CONSTANT=CONSTANT,
        SIGNED=signed,
        STATIC=scale is not None,
        HAS_RESIDUAL=residual is not None,
        HAS_BIAS=bias is not None,
        FUSED=not interpreted(),
        num_warps=warps(block, batch * L),
    )  # fmt: skip
    return Normed(total, y, codes, row_scale, row_zero)
