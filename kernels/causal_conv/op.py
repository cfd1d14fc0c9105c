"""The causal depthwise convolutions and SiLU in front of Vim's two scans, in one pass; for inference.

    u_f[l] = SiLU(bias_f + sum_k weight_f[k] x[l - K + 1 + k])
    u_b[l] = SiLU(bias_b + sum_k weight_b[k] x[l + K - 1 - k])

u_b is the convolution of the flipped tokens, flipped back. Tokens outside are zero.
Source: Zhu et al. 2024, alg. 1; agrees with conv1d and conv1d_b of hustvl/Vim.
"""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor
from torch.nn import functional as F

from ouro.kernels import rounding
from ouro.kernels.launch import choose, first, on, wrong_dtype, wrong_shape

NAME = "causal_conv"
FLOATS = (torch.float32, torch.float16, torch.bfloat16)
WIDEST = 8
BLOCK_E, BLOCK_L = 128, 16


class Convolved(NamedTuple):
    """What both scans read, [b l e] in the order of the tokens."""

    u_f: Tensor
    u_b: Tensor


def causal_conv(
    x: Tensor,
    weight_f: Tensor,
    weight_b: Tensor,
    bias_f: Tensor | None = None,
    bias_b: Tensor | None = None,
    *,
    backend: str = "auto",
) -> Convolved:
    """Both directions in x's dtype; sums are float32.

    Args:
        x: [b l e], float32, float16 or bfloat16. Rows may be apart in memory (the first half of in_proj's output).
        weight_f, weight_b: [e k], k from 1 to 8; a view of a contiguous [k e] saves a copy.
        bias_f, bias_b: [e] or None.
        backend: "auto", "triton" or "reference".

    Raises:
        KernelError: operands that do not fit together, or a backend that cannot serve them.
    """
    given = {"x": x, "weight_f": weight_f, "weight_b": weight_b, "bias_f": bias_f, "bias_b": bias_b}
    tracked = torch.is_grad_enabled() and any(t is not None and t.requires_grad for t in given.values())
    unsupported = first(
        wrong_dtype(given, *FLOATS),
        f"weight_f spans {weight_f.shape[-1]} tokens, expected at most {WIDEST}"
        if weight_f.shape[-1] > WIDEST
        else None,
        "it has no gradient" if tracked else None,
    )
    invalid = _misfit(given)
    if choose(NAME, backend, given, invalid=invalid, unsupported=unsupported, strided=True) == "reference":
        return reference(x, weight_f, weight_b, bias_f, bias_b)
    return _launch(x, weight_f, weight_b, bias_f, bias_b)


def reference(
    x: Tensor,
    weight_f: Tensor,
    weight_b: Tensor,
    bias_f: Tensor | None = None,
    bias_b: Tensor | None = None,
) -> Convolved:
    """The definition: a padded conv1d, and the same between two flips, in float32 or float64."""
    real = torch.float64 if x.dtype == torch.float64 else torch.float32
    given = [None if t is None else t.to(real) for t in (x, weight_f, weight_b, bias_f, bias_b)]
    return Convolved(*(F.silu(sums).to(x.dtype) for sums in _sums(*given)))


def bounds(
    x: Tensor,
    weight_f: Tensor,
    weight_b: Tensor,
    bias_f: Tensor | None = None,
    bias_b: Tensor | None = None,
) -> dict[str, Tensor]:
    """How far float32 may be from the definition, per element."""
    given = [None if t is None else t.double() for t in (x, weight_f, weight_b, bias_f, bias_b)]
    sums, magnitudes = _sums(*given), _sums(*(None if t is None else t.abs() for t in given))
    roundings = (weight_f.shape[-1] + 2) * rounding.HALF
    # SiLU is nowhere steeper than 1.1
    return {
        name: 1.1 * roundings * magnitude + rounding.silu(value).error
        for name, value, magnitude in zip(Convolved._fields, sums, magnitudes, strict=True)
    }


def _sums(
    x: Tensor, weight_f: Tensor, weight_b: Tensor, bias_f: Tensor | None, bias_b: Tensor | None
) -> tuple[Tensor, Tensor]:
    """Both directions before SiLU, [b l e]."""
    L, E = x.shape[1:]
    tokens = F.pad(x.transpose(1, 2), (weight_f.shape[-1] - 1,) * 2)
    forward = F.conv1d(tokens, weight_f.unsqueeze(1), bias_f, groups=E)[..., :L]
    backward = F.conv1d(tokens.flip(-1), weight_b.unsqueeze(1), bias_b, groups=E)[..., :L].flip(-1)
    return forward.transpose(1, 2), backward.transpose(1, 2)


def _misfit(given: dict[str, Tensor | None]) -> str | None:
    x, weight = given["x"], given["weight_f"]
    assert x is not None and weight is not None
    if (dtype := wrong_dtype(given, *FLOATS, torch.float64)) is not None:
        return dtype
    if x.dim() != 3 or 0 in x.shape:
        return f"x is {tuple(x.shape)}, expected a non-empty (b, l, e)"
    E = x.shape[2]
    if weight.dim() != 2 or weight.shape[0] != E or weight.shape[1] < 1:
        return f"weight_f is {tuple(weight.shape)}, expected (e, k) with e = {E}"
    return first(
        wrong_shape("weight_b", given["weight_b"], "e k", *weight.shape),
        *(wrong_shape(name, given[name], "e", E) for name in ("bias_f", "bias_b")),
    )


def _launch(x: Tensor, weight_f: Tensor, weight_b: Tensor, bias_f: Tensor | None, bias_b: Tensor | None) -> Convolved:
    from ouro.kernels.causal_conv import kernel

    x = x if x.stride(2) == 1 else x.contiguous()
    batch, L, E = x.shape
    u_f, u_b = (torch.empty(x.shape, dtype=x.dtype, device=x.device) for _ in range(2))
    bias_f, bias_b = (None if bias is None else bias.contiguous() for bias in (bias_f, bias_b))
    with on(x.device):
        kernel.both[-(-E // BLOCK_E) * -(-L // BLOCK_L), batch](
            x, weight_f.t().contiguous(), weight_b.t().contiguous(), bias_f, bias_b, u_f, u_b, L, x.stride(0),
            x_l=x.stride(1), E=E, WIDTH=weight_f.shape[1], BLOCK_E=BLOCK_E, BLOCK_L=BLOCK_L, num_warps=1,
        )  # fmt: skip
    return Convolved(u_f, u_b)
