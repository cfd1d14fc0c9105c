"""Shapes and awkward values of the selective scan, for its tests and its benchmark."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor
from torch.nn import functional as F

from ouro.kernels.launch import Build, Case, Floor

VIM_CHANNELS = {"Vim-T": 384, "Vim-S": 768, "Vim-B": 1536}
BATCHES = (1, 8, 32, 128)


def operands(
    generator: torch.Generator,
    device: torch.device,
    b: int,
    e: int,
    l: int,  # noqa: E741  (the glossary's letter)
    n: int,
    groups: int | None = None,
    dtype: torch.dtype = torch.float32,
    delta: str = "usual",
    skip: bool = True,
) -> dict[str, Any]:
    """u, delta, A, B, C, D as a model makes them: channels-last in memory, A near -1, -2, .. -n.

    delta: "usual" step sizes, all "zero", "tiny" (1e-6), "huge" (1e3), or "mixed": each step one of them.
    """

    def draw(*shape: int) -> Tensor:
        return torch.randn(shape, generator=generator, device=generator.device).to(device)

    usual = F.softplus(draw(b, l, e) - 2)
    scales = {"usual": 1.0, "zero": 0.0, "tiny": 1e-6, "huge": 1e3}
    if delta == "mixed":
        factor = torch.tensor(list(scales.values()), device=device)[torch.arange(l, device=device) % len(scales)]
        usual = usual * factor[:, None]
    else:
        usual = usual * scales[delta]
    rows = (b, l, n) if groups is None else (b, groups, l, n)
    A = -torch.exp(0.3 * draw(e, n)) * torch.arange(1, n + 1, device=device)
    B, C = (draw(*rows).to(dtype).transpose(-1, -2) for _ in range(2))
    u = draw(b, l, e).to(dtype).transpose(1, 2)
    return {"u": u, "delta": usual.to(dtype).transpose(1, 2), "A": A, "B": B, "C": C, "D": draw(e) if skip else None}


def _case(name: str, bench: bool = False, **sizes: Any) -> Case:
    reverse = sizes.pop("reverse", False)

    def build(generator: torch.Generator, device: torch.device) -> dict[str, Any]:
        return operands(generator, device, **sizes) | {"reverse": reverse}

    return Case(name, build, bench, {key: value for key, value in sizes.items() if key in ("b", "e", "l", "n")})


CASES = (
    _case("all-ones", b=1, e=1, l=1, n=1),
    _case("l3-e5-n3", b=2, e=5, l=3, n=3),
    _case("l23-e40", b=1, e=40, l=23, n=16, reverse=True),
    _case("l23-n1-no-skip", b=2, e=33, l=23, n=1, skip=False),
    _case("four-groups", b=2, e=20, l=9, n=8, groups=4),
    _case("n20", b=1, e=7, l=6, n=20),
    _case("zero-delta", b=1, e=8, l=7, n=4, delta="zero"),
    _case("mixed-delta", b=1, e=34, l=23, n=16, delta="mixed"),
    _case("float16", b=1, e=32, l=23, n=16, dtype=torch.float16),
    _case("bfloat16", b=1, e=32, l=9, n=16, dtype=torch.bfloat16),
    _case("vim-197", b=1, e=64, l=197, n=16),
    *(
        _case(f"{name} b={batch}", bench=True, b=batch, e=channels, l=197, n=16, dtype=torch.float16)
        for name, channels in VIM_CHANNELS.items()
        for batch in BATCHES
    ),
)


def floor(case: Case) -> Floor:
    """The forward pass: u, delta and y once in half precision, B and C once in float32; an exponential per state."""
    b, e, l, n = (case.sizes[key] for key in "beln")  # noqa: E741
    return Floor(bytes=b * l * (3 * 2 * e + 2 * 4 * n) + 4 * e * (n + 1), exps=b * e * l * n)


_INTS = dict.fromkeys(["L", "u_b", "delta_b", "B_b", "B_g", "C_b", "C_g"], "i32")
_OPERANDS = dict.fromkeys(("u_ptr", "delta_ptr"), "*fp16:16") | dict.fromkeys(("B_ptr", "C_ptr", "D_ptr"), "*fp32:16")
_SIZES = {"E": 768, "N": 16, "BLOCK_N": 16, "BLOCK_E": 32, "GROUPS": 1, "VECTOR": 4, "REVERSE": False}
_SIZES |= {"u_l": 768, "delta_l": 768, "B_l": 56, "C_l": 56}

BUILDS = (
    Build(
        "forward",
        "ouro.kernels.selective_scan.kernel:forward",
        _INTS | _OPERANDS | {"A_ptr": "*fp32", "y_ptr": "*fp16:16"},
        _SIZES | {"UNROLL": 4, "h_ptr": None},
        elements=4 * 16,
        most={80: 6.6, 90: 6.6},
        num_warps=1,
        absent=("SHFL", "BAR"),
    ),
    Build(
        "checkpoints",
        "ouro.kernels.selective_scan.kernel:forward",
        _INTS | _OPERANDS | {"A_ptr": "*fp32", "h_ptr": "*fp32"},
        _SIZES | {"UNROLL": 4, "y_ptr": None},
        elements=4 * 16,
        most={80: 5.4, 90: 5.4},
        num_warps=1,
        absent=("SHFL", "BAR"),
    ),
    Build(
        "backward",
        "ouro.kernels.selective_scan.kernel:backward",
        _INTS
        | _OPERANDS
        | dict.fromkeys(("dy_ptr", "du_ptr", "ddelta_ptr"), "*fp16:16")
        | dict.fromkeys(("A_ptr", "h_ptr", "dA_ptr", "dB_ptr", "dC_ptr", "dD_ptr"), "*fp32:16"),
        _SIZES | {"EVERY": 4},
        elements=4 * 16,
        most={80: 28.0, 90: 28.0},
        num_warps=1,
    ),
)
