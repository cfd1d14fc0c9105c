"""Linear layers on integer codes: y = s_w (s (q - z) q_w^T + s_o (q_o - z_o) q_w^T) + bias, sums exact in int32.

Source: OuroMamba (arXiv 2503.10959), as `ouro.quant.packed.integer` defines it for the library: the second sum is there where
outliers have codes and steps of their own. The steps s, s_o and zero points are those of the rows, s_w of the outputs.
"""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn import functional as F

from ouro.kernels.launch import choose, first, interpreted, wrong_dtype, wrong_shape

ACTIVATIONS = {"silu": F.silu, "softplus": lambda y: F.softplus(y, threshold=50.0)}
DTYPES = (torch.float16, torch.bfloat16, torch.float32)
LARGEST_K = 2**31 // (255 * 128)
"""So many input channels are sure to fit int32: of every product of two codes, and of the zero point's as well."""


def quantized_linear(
    codes: Tensor,
    scale: Tensor,
    weight: Tensor,
    weight_scale: Tensor,
    bias: Tensor | None = None,
    *,
    zero: Tensor | None = None,
    outliers: Tensor | None = None,
    outlier_scale: Tensor | None = None,
    outlier_zero: Tensor | None = None,
    weight_sum: Tensor | None = None,
    activation: str | None = None,
    activated_from: int = 0,
    dtype: torch.dtype = torch.float16,
    backend: str = "auto",
) -> Tensor:
    """y [r o] of rows given as codes.

    Args:
        codes, outliers: int8 [r c]; together W4A4O8 with two products, `codes` alone W8A8, W4A8 or the grid mode.
        scale, outlier_scale: float32 [r]; a row whose step is NaN is NaN.
        weight: int8 [o c], or codes of 4 bits two to a byte, uint8 [o ceil(c/2)]: byte j of a row has code j in its low
            half and code j + ceil(c/2) in its high half, as `ouro.quant.packed.storage` stores them.
        weight_scale, bias: float32 [o].
        zero, outlier_zero: int32 [r]; None for 0. Where there are outliers, both or neither.
        weight_sum: int32 [o], sums of the codes of each output, for zero points; None computes them now.
        activation: "silu" or "softplus" of the outputs from `activated_from` on, such as the gate's half of in_proj.
        dtype: of y: float16, bfloat16 or float32.
        backend: "auto", "triton" or "reference".

    Raises:
        KernelError: an operand that no backend takes, or the named backend cannot run here.
    """
    r, c, o = *(codes.shape if codes.dim() == 2 else (0, 0)), len(weight)
    packed = weight.dtype == torch.uint8
    if zero is not None and weight_sum is None and weight.dim() == 2:
        weight_sum = unpacked(weight, c).sum(1, dtype=torch.int32)
    bytes_of = {"codes": codes, "outliers": outliers}
    steps = {"scale": scale, "outlier_scale": outlier_scale, "weight_scale": weight_scale, "bias": bias}
    whole = {"zero": zero, "outlier_zero": outlier_zero, "weight_sum": weight_sum}
    tensors = bytes_of | {"weight": weight} | steps | whole
    invalid = first(
        None if r * c * o else f"codes are {tuple(codes.shape)}, expected a non-empty (r, c)",
        wrong_dtype(bytes_of, torch.int8),
        wrong_dtype({"weight": weight}, torch.int8, torch.uint8),
        wrong_dtype(steps, torch.float32),
        wrong_dtype(whole, torch.int32),
        wrong_shape("weight", weight, "o ceil(c/2)" if packed else "o c", o, (c + 1) // 2 if packed else c),
        wrong_shape("outliers", outliers, "r c", r, c),
        *(wrong_shape(name, tensors[name], "r", r) for name in ("scale", "outlier_scale", "zero", "outlier_zero")),
        *(wrong_shape(name, tensors[name], "o", o) for name in ("weight_scale", "bias", "weight_sum")),
        None if (outliers is None) == (outlier_scale is None) else "outliers and outlier_scale come together",
        None if outliers is None or (zero is None) == (outlier_zero is None) else "zero and outlier_zero come together",
        None if c <= LARGEST_K else f"{c} input channels, integer sums are exact up to {LARGEST_K}",
        None
        if activation is None or activation in ACTIVATIONS
        else f"unknown activation {activation!r}; known: {', '.join(ACTIVATIONS)}",
        None if dtype in DTYPES else f"dtype is {dtype}, expected one of {', '.join(map(str, DTYPES))}",
    )
    large = "the weight has 2^31 codes or more" if o * c >= 2**31 else None
    chosen = choose("quantized_linear", backend, tensors, invalid=invalid, unsupported=large)
    run = _triton if chosen == "triton" else reference
    return run(
        codes, scale, weight, weight_scale, bias, zero=zero, outliers=outliers, outlier_scale=outlier_scale,
        outlier_zero=outlier_zero, weight_sum=weight_sum, activation=activation, activated_from=activated_from,
        dtype=dtype,
    )  # fmt: skip


def reference(
    codes: Tensor,
    scale: Tensor,
    weight: Tensor,
    weight_scale: Tensor,
    bias: Tensor | None = None,
    *,
    zero: Tensor | None = None,
    outliers: Tensor | None = None,
    outlier_scale: Tensor | None = None,
    outlier_zero: Tensor | None = None,
    weight_sum: Tensor | None = None,
    activation: str | None = None,
    activated_from: int = 0,
    dtype: torch.dtype = torch.float16,
) -> Tensor:
    """The definition of `quantized_linear`, reckoned in float64, which is what comes back where the steps are float64.

    float64 holds every integer up to 2^53, so the sums of products of codes are exact.
    """
    columns = unpacked(weight, codes.shape[1]).double().T
    y = torch.zeros((), dtype=torch.float64, device=codes.device)
    for part, steps, origin in ((codes, scale, zero), (outliers, outlier_scale, outlier_zero)):
        if part is not None and steps is not None:
            distance = part.double() if origin is None else part.double() - origin.double()[:, None]
            y = y + steps.double()[:, None] * (distance @ columns)
    y = y * weight_scale.double()
    if bias is not None:
        y = y + bias.double()
    if activation is not None:
        y[:, activated_from:] = ACTIVATIONS[activation](y[:, activated_from:])
    return y if scale.dtype == torch.float64 else y.to(dtype)


def unpacked(weight: Tensor, columns: int) -> Tensor:
    """int8 codes [o c] of a weight that may hold two to a byte."""
    if weight.dtype != torch.uint8:
        return weight
    pairs = weight.view(torch.int8)
    # shifts of int8 keep the sign
    return torch.cat(((pairs << 4) >> 4, pairs >> 4), 1)[:, :columns]


def packed(weight: Tensor) -> Tensor:
    """int8 codes [o c] of 4 bits, two to a byte: the inverse of `unpacked`."""
    half = (weight.shape[1] + 1) // 2
    low, high = weight[:, :half], F.pad(weight[:, half:], (0, weight.shape[1] % 2))
    return ((low & 15) | (high << 4)).view(torch.uint8)


def _triton(
    codes: Tensor,
    scale: Tensor,
    weight: Tensor,
    weight_scale: Tensor,
    bias: Tensor | None,
    *,
    zero: Tensor | None,
    outliers: Tensor | None,
    outlier_scale: Tensor | None,
    outlier_zero: Tensor | None,
    weight_sum: Tensor | None,
    activation: str | None,
    activated_from: int,
    dtype: torch.dtype,
) -> Tensor:
    from ouro.kernels.quantized_linear.kernel import linear_tile

    (M, K), N = codes.shape, len(weight)
    y = codes.new_empty((M, N), dtype=dtype)
    two_to_a_byte = weight.dtype == torch.uint8
    newest = codes.is_cuda and torch.cuda.get_device_capability(codes.device) >= (9, 0)
    rows_aligned = K % (32 if two_to_a_byte else 16) == 0
    tile = tile_of(M, N, outliers is not None, newest, rows_aligned)
    # for packed weights a block is half as many bytes, and so is what has to be left over
    rest = K % tile["BLOCK_K"] if not two_to_a_byte else K % 2 or (K // 2) % (tile["BLOCK_K"] // 2)
    tiles = -(-M // tile["BLOCK_M"]) * -(-N // tile["BLOCK_N"])
    linear_tile[(tiles,)](
        codes, scale, zero, outliers, outlier_scale, outlier_zero,
        weight.view(torch.int8), weight_scale, weight_sum, bias, y,
        M, N, K, (K + 1) // 2, activated_from,
        PACKED=two_to_a_byte,
        EVEN=rest == 0,
        HAS_ZERO=zero is not None,
        HAS_OUTLIERS=outliers is not None,
        HAS_BIAS=bias is not None,
        ACTIVATION=activation or "",
        HARDWARE=not interpreted(),
        **tile,
    )  # fmt: skip
    return y


def tile_of(M: int, N: int, two_products: bool, newest: bool, aligned: bool = True) -> dict[str, int]:
    """Tile and warps by shape: large tiles where they fill a GPU, small ones where there are few rows or outputs.

    The first product of two waits in registers while the second is summed, so that a tile of two products is smaller.
    newest: Hopper and later, where half of the registers hold a large tile: two of them share a processor then, and one
    stores while the other multiplies. aligned: rows begin at multiples of 16 bytes; otherwise bytes come one by one.
    """
    if not aligned:
        return {"BLOCK_M": 32, "BLOCK_N": 64, "BLOCK_K": 64, "num_warps": 4, "num_stages": 2}
    if two_products or N <= 96:
        return {"BLOCK_M": 128, "BLOCK_N": 64, "BLOCK_K": 128, "num_warps": 4, "num_stages": 3}
    if M < 2048:
        return {"BLOCK_M": 64, "BLOCK_N": 64, "BLOCK_K": 128, "num_warps": 4, "num_stages": 4}
    large = {"BLOCK_M": 128, "BLOCK_N": 128, "BLOCK_K": 128, "num_warps": 8, "num_stages": 3}
    return large | ({"maxnreg": 128} if newest else {})
