"""Shapes and awkward values of the bidirectional scan, for its tests and its benchmark."""

from __future__ import annotations

from typing import Any

import torch

from ouro.kernels.launch import Build, Case, Floor
from ouro.kernels.selective_scan.cases import BATCHES, VIM_CHANNELS
from ouro.kernels.selective_scan.cases import operands as one_way


def operands(
    generator: torch.Generator,
    device: torch.device,
    b: int,
    e: int,
    l: int,  # noqa: E741  (the glossary's letter)
    n: int,
    dtype: torch.dtype = torch.float32,
    delta: str = "usual",
) -> dict[str, Any]:
    """What a Vim mixer hands to its two scans; z is half of a wider tensor."""
    both = [one_way(generator, device, b, e, l, n, dtype=dtype, delta=delta) for _ in range(2)]
    given = {
        f"{name}_{way}": x.transpose(1, 2) if x.dim() == 3 else x
        for name in both[0]
        for way, x in zip("fb", (both[0][name], both[1][name]), strict=True)
    }
    xz = torch.randn((b, l, 2 * e), generator=generator, device=generator.device).to(device, dtype)
    return given | {"z": xz[..., e:]}


def _case(name: str, bench: bool = False, options: dict[str, Any] | None = None, **sizes: Any) -> Case:
    def build(generator: torch.Generator, device: torch.device) -> dict[str, Any]:
        return operands(generator, device, **sizes) | (options or {})

    return Case(name, build, bench, {key: value for key, value in sizes.items() if key in ("b", "e", "l", "n")})


CASES = (
    _case("all-ones", b=1, e=1, l=1, n=1),
    _case("l3-e5-n3", b=2, e=5, l=3, n=3, options={"scale": 1.0}),
    _case("l23-e40", b=1, e=40, l=23, n=16, options={"chunks": 1}),
    _case("l23-e40 in chunks", b=1, e=40, l=23, n=16, options={"chunks": 3}),
    _case("gate is ready", b=1, e=8, l=9, n=4, options={"silu": False, "chunks": 9}),
    _case("zero-delta", b=1, e=8, l=9, n=4, delta="zero", options={"chunks": 2}),
    _case("mixed-delta", b=2, e=34, l=23, n=16, delta="mixed"),
    _case("float16", b=1, e=32, l=23, n=16, dtype=torch.float16),
    _case("bfloat16", b=1, e=32, l=9, n=8, dtype=torch.bfloat16),
    _case("vim-197", b=1, e=48, l=197, n=16, options={"chunks": 1}),
    _case("vim-197 in chunks", b=1, e=32, l=197, n=16),
    *(
        _case(f"{name} b={batch}", bench=True, b=batch, e=channels, l=197, n=16, dtype=torch.float16)
        for name, channels in VIM_CHANNELS.items()
        for batch in BATCHES
    ),
)


def floor(case: Case) -> Floor:
    """u, delta of both directions, z and y once in half precision, B and C in float32; an exponential per state."""
    b, e, l, n = (case.sizes[key] for key in "beln")  # noqa: E741
    return Floor(bytes=b * l * (6 * 2 * e + 4 * 4 * n) + 2 * 4 * e * (n + 1), exps=2 * b * e * l * n)


_INPUTS = dict.fromkeys(["L", "chunk", "u_b", "delta_b", "B_b"], "i32")
_INPUTS |= dict.fromkeys(["u_f_ptr", "u_b_ptr", "delta_f_ptr", "delta_b_ptr"], "*fp16:16")
_INPUTS |= dict.fromkeys(["B_f_ptr", "B_b_ptr"], "*fp32:16") | {"A_f_ptr": "*fp32", "A_b_ptr": "*fp32"}
_OUTPUTS = {"C_b": "i32", "z_b": "i32", "scale": "fp32", "z_ptr": "*fp16:16", "y_ptr": "*fp16:16"}
_OUTPUTS |= dict.fromkeys(["C_f_ptr", "C_b_ptr", "D_f_ptr", "D_b_ptr"], "*fp32:16")
_SIZES = {"E": 768, "N": 16, "BLOCK_N": 16, "BLOCK_E": 32, "VECTOR": 4, "UNROLL": 4}
_SIZES |= {"u_l": 768, "delta_l": 768, "B_l": 56}
_BOTH = {"C_l": 56, "z_l": 1536}
_SCAN = "ouro.kernels.bidirectional_scan.kernel:scan"
_ENDS = {"h_ptr": "*fp32", "sum_ptr": "*fp32:16"}

BUILDS = tuple(
    Build(name, function, signature, constexprs, 4 * 16, most, num_warps=1, absent=("SHFL", "BAR"))
    for name, function, signature, constexprs, most in (
        (
            "throughput",
            _SCAN,
            _INPUTS | _OUTPUTS,
            _SIZES | _BOTH | {"SILU": False, "h_ptr": None, "sum_ptr": None},
            {80: 7.3, 90: 7.3},
        ),
        (
            "small batch, ends",
            "ouro.kernels.bidirectional_scan.kernel:ends",
            _INPUTS | _ENDS,
            _SIZES,
            {80: 6.5, 90: 6.5},
        ),
        ("small batch, scan", _SCAN, _INPUTS | _OUTPUTS | _ENDS, _SIZES | _BOTH | {"SILU": True}, {80: 7.8, 90: 7.8}),
    )
)
