"""A linear layer for either of Vim's two directions in one pass: x_proj, and dt_proj with softplus; for inference.

    y_f = x_f weight_f^T + bias_f, y_b = x_b weight_b^T + bias_b

Source: Zhu et al. 2024, alg. 1; both are as narrow as a state or a step size is, so that one alone fills no GPU.
"""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor
from torch.nn import functional as F

from ouro.kernels.launch import choose, first, interpreted, on, wrong_dtype, wrong_shape

NAME = "paired_linear"
FLOATS = (torch.float32, torch.float16, torch.bfloat16)
ACTIVATIONS = ("softplus",)


class Pair(NamedTuple):
    """Outputs [r o] of both directions."""

    y_f: Tensor
    y_b: Tensor


def paired_linear(
    x_f: Tensor,
    x_b: Tensor,
    weight_f: Tensor,
    weight_b: Tensor,
    bias_f: Tensor | None = None,
    bias_b: Tensor | None = None,
    *,
    activation: str | None = None,
    dtype: torch.dtype | None = None,
    backend: str = "auto",
) -> Pair:
    """Both layers; sums are float32.

    Args:
        x_f, x_b: [r c], float32, float16 or bfloat16, rounded to the weights' dtype. Rows may be apart in memory.
        weight_f, weight_b: [o c].
        bias_f, bias_b: [o], both or neither.
        activation: None or "softplus".
        dtype: of the outputs; None takes x_f's.
        backend: "auto", "triton" or "reference".

    Raises:
        KernelError: operands that do not fit together, or a backend that cannot serve them.
    """
    given = {"x_f": x_f, "x_b": x_b, "weight_f": weight_f, "weight_b": weight_b, "bias_f": bias_f, "bias_b": bias_b}
    dtype = x_f.dtype if dtype is None else dtype
    tracked = torch.is_grad_enabled() and any(t is not None and t.requires_grad for t in given.values())
    unsupported = first(
        wrong_dtype(given, *FLOATS),
        f"the weights are {weight_f.dtype} and {weight_b.dtype}, expected one dtype"
        if weight_f.dtype != weight_b.dtype
        else None,
        "it has no gradient" if tracked else None,
    )
    invalid = _misfit(given, activation, dtype)
    if choose(NAME, backend, given, invalid=invalid, unsupported=unsupported, strided=True) == "reference":
        return reference(x_f, x_b, weight_f, weight_b, bias_f, bias_b, activation=activation, dtype=dtype)
    return _launch(given, activation, dtype)


def reference(
    x_f: Tensor,
    x_b: Tensor,
    weight_f: Tensor,
    weight_b: Tensor,
    bias_f: Tensor | None = None,
    bias_b: Tensor | None = None,
    *,
    activation: str | None = None,
    dtype: torch.dtype | None = None,
) -> Pair:
    """The definition, in float32, or in float64 where x_f is float64, which then is what comes back."""
    real = torch.float64 if x_f.dtype == torch.float64 else torch.float32

    def one(x: Tensor, weight: Tensor, bias: Tensor | None) -> Tensor:
        y = F.linear(x.to(weight.dtype).to(real), weight.to(real), None if bias is None else bias.to(real))
        y = y if activation is None else F.softplus(y, threshold=50.0)
        return y if real == torch.float64 else y.to(dtype or x_f.dtype)

    return Pair(one(x_f, weight_f, bias_f), one(x_b, weight_b, bias_b))


def _misfit(given: dict[str, Tensor | None], activation: str | None, dtype: torch.dtype) -> str | None:
    x, weight = given["x_f"], given["weight_f"]
    assert x is not None and weight is not None
    if (wrong := wrong_dtype(given, *FLOATS, torch.float64)) is not None:
        return wrong
    if x.dim() != 2 or 0 in x.shape:
        return f"x_f is {tuple(x.shape)}, expected a non-empty (r, c)"
    if weight.dim() != 2 or weight.shape[1] != x.shape[1] or not len(weight):
        return f"weight_f is {tuple(weight.shape)}, expected (o, c) with c = {x.shape[1]}"
    return first(
        wrong_shape("x_b", given["x_b"], "r c", *x.shape),
        wrong_shape("weight_b", given["weight_b"], "o c", *weight.shape),
        *(wrong_shape(name, given[name], "o", len(weight)) for name in ("bias_f", "bias_b")),
        None if (given["bias_f"] is None) == (given["bias_b"] is None) else "bias_f and bias_b come together",
        None
        if activation is None or activation in ACTIVATIONS
        else f"unknown activation {activation!r}; known: {', '.join(ACTIVATIONS)}",
        None
        if dtype in (*FLOATS, torch.float64)
        else f"dtype is {dtype}, expected one of {', '.join(map(str, FLOATS))}",
    )


def tile_of(M: int, N: int, K: int) -> dict[str, int]:
    """Tile and warps by shape: all outputs of x_proj in one tile, all channels of dt_proj in one step."""
    block_k = min(64, max(16, 1 << (K - 1).bit_length()))
    tile = {"BLOCK_M": 64 if M >= 4096 else 16, "BLOCK_N": 64 if N <= 64 else 128, "BLOCK_K": block_k}
    return tile | {"num_warps": 4, "num_stages": 3}


def _pair(forward: Tensor, backward: Tensor) -> tuple[Tensor, Tensor]:
    """Both with the same strides and the numbers of a row side by side; copied only if they are not."""
    if forward.stride() == backward.stride() and forward.stride(1) == 1 and forward.dtype == backward.dtype:
        return forward, backward
    return forward.contiguous(), backward.to(forward.dtype).contiguous()


def _launch(given: dict[str, Tensor], activation: str | None, dtype: torch.dtype) -> Pair:
    from ouro.kernels.paired_linear.kernel import pair_tile

    x, weight = _pair(given["x_f"], given["x_b"]), [given[f"weight_{way}"].contiguous() for way in "fb"]
    bias = [None if (b := given[f"bias_{way}"]) is None else b.contiguous() for way in "fb"]
    (M, K), N = x[0].shape, len(weight[0])
    y = [torch.empty(M, N, dtype=dtype, device=x[0].device) for _ in range(2)]
    tile = tile_of(M, N, K)
    with on(x[0].device):
        pair_tile[-(-M // tile["BLOCK_M"]) * -(-N // tile["BLOCK_N"]), 2](
            *x, *weight, *bias, *y, M, N, K, x[0].stride(0),
            EVEN=K % tile["BLOCK_K"] == 0, SOFTPLUS=activation == "softplus", HARDWARE=not interpreted(), **tile,
        )  # fmt: skip
    return Pair(*y)
