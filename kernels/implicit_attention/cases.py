"""Shapes and awkward values of implicit attention, for its tests and its benchmark."""

from __future__ import annotations

from typing import Any

import torch

from ouro.kernels.launch import Build, Case, Floor
from ouro.kernels.selective_scan.cases import VIM_CHANNELS, operands


def _case(name: str, rows: list[int] | None = None, *, mean: bool = True, bench: bool = False, **sizes: Any) -> Case:
    def build(generator: torch.Generator, device: torch.device) -> dict[str, Any]:
        given = operands(generator, device, **sizes)
        wanted = None if rows is None else torch.tensor(rows, device=device)
        return {name: given[name] for name in ("delta", "A", "B", "C")} | {"rows": wanted, "mean": mean}

    plain = {key: value for key, value in sizes.items() if key in ("b", "e", "l", "n")}
    # entries that are not zero by definition
    return Case(name, build, bench, plain | {"entries": sum(i + 1 for i in rows or range(sizes["l"]))})


CASES = (
    _case("all-ones", b=1, e=1, l=1, n=1),
    _case("l3-e5-n3", mean=False, b=2, e=5, l=3, n=3),
    _case("l23-e40", [0, 15, 16, 22], b=1, e=40, l=23, n=16),
    _case("groups, rows in any order", [8, 0, 3, 3], b=2, e=20, l=9, n=2, groups=4),
    _case("groups, per channel", [8, 2], mean=False, b=1, e=70, l=9, n=2, groups=2),
    _case("zero-delta", b=1, e=5, l=7, n=4, delta="zero"),
    _case("tiny-delta", b=1, e=5, l=7, n=4, delta="tiny"),
    _case("huge-delta", b=1, e=5, l=7, n=4, delta="huge"),
    _case("mixed-delta", [22, 7], mean=False, b=1, e=5, l=23, n=4, delta="mixed"),
    _case("float16", [22], b=1, e=33, l=23, n=16, dtype=torch.float16),
    _case("vim-197, class token", [98], b=1, e=64, l=197, n=16),
    *(
        _case(f"{name} b={batch}, {what}", rows, bench=True, b=batch, e=channels, l=197, n=16, dtype=torch.float16)
        for name, channels in VIM_CHANNELS.items()
        for batch, what, rows in ((1, "class token", [98]), (1, "all rows", None), (32, "class token", [98]))
    ),
)


def floor(case: Case) -> Floor:
    """delta once in half precision, B and C in float32, the entries; an exponential per entry, channel, state."""
    b, e, l, n = (case.sizes[key] for key in "beln")  # noqa: E741
    entries = case.sizes["entries"]
    return Floor(bytes=b * l * (2 * e + 2 * 4 * n) + 4 * b * entries + 4 * e * n, exps=b * entries * e * n)


BUILDS = (
    Build(
        "channel mean",
        "ouro.kernels.implicit_attention.kernel:entries",
        dict.fromkeys(["L", "count", "blocks", "delta_b", "B_b", "B_g", "C_b", "C_g"], "i32")
        | {"delta_ptr": "*fp16:16", "time_ptr": "*fp64:16", "A_ptr": "*fp32", "rows_ptr": "*i64:16"}
        | dict.fromkeys(["B_ptr", "C_ptr", "out_ptr"], "*fp32:16"),
        {"E": 768, "N": 16, "BLOCK_N": 16, "BLOCK_E": 32, "BLOCK_L": 16, "GROUPS": 1, "VECTOR": 4, "MEAN": True}
        | {"delta_l": 768, "B_l": 56, "C_l": 56},
        elements=16 * 16,
        most={80: 5.8, 90: 5.8},
        num_warps=1,
        absent=("SHFL", "BAR"),
    ),
)
