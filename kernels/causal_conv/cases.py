"""Shapes and awkward values of the causal convolution, for its tests and its benchmark."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from ouro.kernels.launch import Build, Case, Floor
from ouro.kernels.selective_scan.cases import BATCHES, VIM_CHANNELS


def _case(
    name: str,
    b: int,
    l: int,  # noqa: E741  (the glossary's letter)
    e: int,
    k: int = 4,
    *,
    dtype: torch.dtype = torch.float32,
    bias: bool = True,
    size: float = 1.0,
    bench: bool = False,
) -> Case:
    def build(generator: torch.Generator, device: torch.device) -> dict[str, Any]:
        def draw(*shape: int) -> Tensor:
            return torch.randn(shape, generator=generator, device=generator.device).to(device)

        # half of a wider tensor, as in_proj writes it
        x = (size * draw(b, l, 2 * e)).to(dtype)[..., :e]
        weights = {f"weight_{way}": draw(e, k) for way in "fb"}
        return {"x": x, **weights, **{f"bias_{way}": draw(e) if bias else None for way in "fb"}}

    return Case(name, build, bench, {"b": b, "e": e, "l": l, "k": k})


CASES = (
    _case("all-ones", 1, 1, 1),
    _case("l3-e5", 2, 3, 5),
    _case("l23-e130", 1, 23, 130),
    _case("k1-no-bias", 1, 7, 9, 1, bias=False),
    _case("k3", 2, 17, 5, 3),
    _case("k8 on short rows", 1, 5, 5, 8),
    _case("large", 1, 9, 5, size=1e3),
    _case("tiny", 1, 9, 5, size=1e-6, bias=False),
    _case("float16", 1, 23, 33, dtype=torch.float16),
    _case("bfloat16", 1, 23, 33, dtype=torch.bfloat16),
    _case("vim-197", 1, 197, 96),
    *(
        _case(f"{name} b={batch}", batch, 197, channels, dtype=torch.float16, bench=True)
        for name, channels in VIM_CHANNELS.items()
        for batch in BATCHES
    ),
)


def floor(case: Case) -> Floor:
    """x read and both results written once in half precision; two SiLUs, an exponential and a reciprocal each."""
    b, l, e, k = (case.sizes[key] for key in "blek")  # noqa: E741
    return Floor(bytes=3 * 2 * b * l * e + 2 * 4 * e * (k + 1), exps=2 * 2 * b * l * e)


BUILDS = (
    Build(
        "both",
        "ouro.kernels.causal_conv.kernel:both",
        dict.fromkeys(("x_ptr", "u_f_ptr", "u_b_ptr"), "*fp16:16")
        | dict.fromkeys(("weight_f_ptr", "weight_b_ptr", "bias_f_ptr", "bias_b_ptr"), "*fp32:16")
        | {"L": "i32", "x_b": "i32:16"},
        {"x_l": 1536, "E": 768, "WIDTH": 4, "BLOCK_E": 128, "BLOCK_L": 16},
        # a lane's channels x tokens; there is no loop
        elements=4 * 16,
        most={80: 32.0, 90: 32.0},
        num_warps=1,
        absent=("SHFL", "BAR"),
    ),
)
