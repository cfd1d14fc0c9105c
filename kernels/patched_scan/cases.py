"""Shapes and awkward values of the patched scan, for its tests and its benchmark."""

from __future__ import annotations

from typing import Any

import torch

from ouro.kernels.launch import Build, Case, Floor
from ouro.kernels.selective_scan.cases import VIM_CHANNELS
from ouro.kernels.selective_scan.cases import operands as plain


def operands(
    generator: torch.Generator,
    device: torch.device,
    grid: tuple[int, int],
    size: int,
    extra: int = 1,
    shuffled: bool = False,
    **sizes: Any,
) -> dict[str, Any]:
    """A scan over the cells of a grid and `extra` other steps in the middle, in raster order or shuffled."""
    cells = grid[0] * grid[1]
    given = plain(generator, device, l=cells + extra, **sizes)
    steps = torch.arange(cells)
    steps[cells // 2 :] += extra
    if shuffled:
        steps = torch.randperm(cells + extra, generator=generator, device=generator.device).cpu()[:cells]
    weights = torch.rand(sizes["b"], cells + extra, generator=generator, device=generator.device).to(device)
    return given | {"weights": weights, "steps": steps.to(device), "grid": grid, "size": size}


def _case(name: str, bench: bool = False, **sizes: Any) -> Case:
    reverse = sizes.pop("reverse", False)

    def build(generator: torch.Generator, device: torch.device) -> dict[str, Any]:
        return operands(generator, device, **sizes) | {"reverse": reverse}

    cells = sizes["grid"][0] * sizes["grid"][1]
    numbers = {key: sizes[key] for key in ("b", "e", "n")}
    return Case(name, build, bench, numbers | {"l": cells + sizes.get("extra", 1), "cells": cells})


CASES = (
    _case("one cell", grid=(1, 1), size=1, extra=0, b=1, e=1, n=1),
    _case("3x4 in 3x3", grid=(3, 4), size=3, b=2, e=5, n=3),
    _case("shuffled, five others", grid=(4, 3), size=3, extra=5, shuffled=True, b=1, e=34, n=4),
    _case("wider than the grid", grid=(2, 3), size=7, b=1, e=3, n=2, reverse=True),
    _case("groups, no skip", grid=(2, 2), size=3, extra=0, b=2, e=6, n=2, groups=3, skip=False),
    _case("mixed-delta", grid=(3, 3), size=3, b=1, e=5, n=16, delta="mixed"),
    _case("float16", grid=(3, 3), size=3, b=1, e=5, n=4, dtype=torch.float16),
    *(
        _case(f"{name} b={batch}", True, grid=(14, 14), size=3, b=batch, e=channels, n=16, dtype=torch.float16)
        for name, channels in VIM_CHANNELS.items()
        for batch in (1, 32)
    ),
)


def floor(case: Case) -> Floor:
    """u, delta, y once in half precision, B and C once and y_p three times in float32; an exponential per state."""
    b, e, l, n = (case.sizes[key] for key in "beln")  # noqa: E741
    moved = b * l * (3 * 2 * e + 2 * 4 * n) + 3 * 4 * b * e * case.sizes["cells"] + 4 * e * (n + 1)
    return Floor(bytes=moved, exps=b * e * l * n)


BUILDS = (
    Build(
        "window of 3",
        "ouro.kernels.patched_scan.kernel:forward",
        dict.fromkeys(["L", "u_b", "delta_b", "B_b", "B_g", "C_b", "C_g", "weight_b", "weight_l"], "i32")
        | dict.fromkeys(["u_ptr", "delta_ptr", "y_ptr"], "*fp16:16")
        | dict.fromkeys(["B_ptr", "C_ptr", "D_ptr", "weight_ptr", "y_p_ptr"], "*fp32:16")
        | {"A_ptr": "*fp32", "cell_ptr": "*i32:16", "step_ptr": "*i32:16"},
        {"u_l": 768, "delta_l": 768, "B_l": 56, "C_l": 56, "E": 768, "N": 16, "BLOCK_N": 16, "BLOCK_E": 32}
        | {"GROUPS": 1, "VECTOR": 4, "REVERSE": False, "HEIGHT": 14, "WIDTH": 14, "HALF": 1},
        elements=16,
        most={80: 33.0, 90: 33.0},
        num_warps=1,
        absent=("SHFL",),
    ),
)
