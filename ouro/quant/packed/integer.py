"""Linear layers on integers: y = s_w (s_x (q_x - z) q_w^T + s_o (q_o - z_o) q_w^T) + bias, sums of codes exact in int32.

Source: OuroMamba (arXiv 2503.10959), inference with two precisions: inliers with the static step of their time step,
listed channels with one dynamic step per sample and time step, or in floating point. Without outliers the second sum
is not there. `encode_reference` and `linear_reference` define what the compiled `compiled_linear` computes.
"""

from __future__ import annotations

import torch
from torch import Tensor

from ouro.quant.grid import Grid, positive, quantize, range_of
from ouro.quant.outliers import compilable, outlier_list_reference
from ouro.quant.packed.codes import Codes, Encoded, Encoding, shift_of

LARGEST_K = 2**31 // (255 * 128)
"""So many input channels are sure to fit int32: of every product of two codes, and of the zero point's as well."""


def check_steps(encoding: Encoding, rows: Tensor) -> None:
    """Refuses rows [b l c] of another length than the static steps were calibrated for.

    Raises:
        ValueError: the message has both lengths.
    """
    if encoding.scale is not None and len(encoding.scale) not in (1, rows.shape[1]):
        raise ValueError(
            f"the input has {rows.shape[1]} time steps, its quantizer was calibrated for {len(encoding.scale)}; "
            "calibrate at the size of the images that are to be seen"
        )


def encode_reference(rows: Tensor, encoding: Encoding) -> Encoded:
    """Codes of rows [b l c], as the quantizers of `ouro.quant.modules` round them."""
    check_steps(encoding, rows)
    if encoding.scale is None:
        scale, zero = range_of(rows.amin(-1, keepdim=True), rows.amax(-1, keepdim=True), _bits(encoding.grid))
    else:
        scale = encoding.scale[:, None]
        zero = torch.zeros_like(scale) if encoding.zero is None else encoding.zero[:, None]
    if encoding.rule is None:
        return Encoded(_codes(rows, scale, zero, encoding.grid))
    assert encoding.scale is not None, "outliers beside a dynamic step"
    rule = encoding.rule
    listed = outlier_list_reference(rows, rule, scale=encoding.scale, theta=encoding.theta)
    inliers = _codes(rows, scale, zero, encoding.grid, listed)
    mask, large = listed.flatten(0, 1), rows.masked_fill(~listed, 0)
    grid = rule.outlier_grid
    if grid is None:
        return Encoded(inliers, mask, floats=rows.flatten(0, 1))
    if rule.signed:
        own = positive(large.abs().amax(-1, keepdim=True) / grid.high)
        return Encoded(inliers, mask, _codes(rows, own, torch.zeros_like(own), grid, ~listed))
    own, own_zero = range_of(large.amin(-1, keepdim=True), large.amax(-1, keepdim=True), rule.outlier_bits)
    return Encoded(inliers, mask, _codes(rows, own, own_zero, grid, ~listed))


def decode(encoded: Encoded) -> Tensor:
    """What the codes stand for, float32 [r c]."""
    total = _value(encoded.inliers)
    if encoded.outliers is not None:
        total = total + _value(encoded.outliers)
    return total if encoded.floats is None else total + _listed_floats(encoded)


def linear_reference(encoded: Encoded, weight: Tensor, weight_scale: Tensor, bias: Tensor | None) -> Tensor:
    """y [r o] in float64, of integer sums that are exact; weight int8 [o c], weight_scale [o].

    float64 holds every integer up to 2^53, so the products and sums of codes are what int64 would give.
    """
    codes = weight.double()
    y = torch.zeros((), dtype=torch.float64, device=weight.device)
    for part in (encoded.inliers, encoded.outliers):
        if part is not None:
            y = y + part.scale.double()[:, None] * ((part.codes.double() - part.zero.double()[:, None]) @ codes.T)
    if encoded.floats is not None:
        y = y + _listed_floats(encoded).double() @ codes.T
    y = y * weight_scale.double()
    return y if bias is None else y + bias.double()


def encode(rows: Tensor, encoding: Encoding) -> Encoded:
    """As `encode_reference`; compiled for float32 on CPUs, and the same bit for bit."""
    check_steps(encoding, rows)
    if compilable(rows):
        return _compiled().encode(rows, encoding)
    return encode_reference(rows, encoding)


def linear(
    encoded: Encoded, weight: Tensor, weight_scale: Tensor, bias: Tensor | None, totals: Tensor | None = None
) -> Tensor:
    """As `linear_reference`, in float32; compiled on CPUs.

    Args:
        totals: sums of the rows of `weight`, int32 [o], if they are known already.

    Raises:
        ValueError: more input channels than int32 sums are sure to hold.
    """
    if weight.shape[1] > LARGEST_K:
        raise ValueError(
            f"{weight.shape[1]} input channels, integer sums are exact up to {LARGEST_K}; leave it in float"
        )
    if compilable(encoded.inliers.scale):
        return _compiled().linear(encoded, weight, weight_scale, bias, totals)
    return linear_reference(encoded, weight, weight_scale, bias).float()


def unpack(packed: Tensor, columns: int) -> Tensor:
    """`ouro.quant.packed.storage.unpack_codes` of uint8 codes, compiled, on the CPU."""
    return _compiled().unpack(packed, columns)


def _codes(rows: Tensor, scale: Tensor, zero: Tensor, grid: Grid, left_out: Tensor | None = None) -> Codes:
    shift = shift_of(grid)
    codes = quantize(rows, scale, grid, zero) - shift
    unknown = codes.isnan().any(-1, keepdim=True)
    whole = torch.where(unknown, torch.zeros_like(codes), codes).to(torch.int8)
    each = scale.expand(*rows.shape[:2], 1)
    zeros = (
        (torch.where(zero.isnan(), torch.zeros_like(zero), zero) - shift).to(torch.int32).expand_as(each).contiguous()
    )
    if left_out is not None:
        whole = torch.where(left_out, zeros.to(torch.int8), whole)
    return Codes(whole.flatten(0, 1), each.masked_fill(unknown, torch.nan).flatten(), zeros.flatten())


def _value(part: Codes) -> Tensor:
    return (part.codes.float() - part.zero[:, None].float()) * part.scale[:, None]


def _listed_floats(encoded: Encoded) -> Tensor:
    assert encoded.floats is not None and encoded.listed is not None
    return encoded.floats.masked_fill(~encoded.listed, 0)


def _bits(grid: Grid) -> int:
    return (grid.high - grid.low).bit_length()


def _compiled():
    # numba takes a moment to import: only when something runs on integers
    from ouro.quant.packed import compiled_linear

    return compiled_linear
