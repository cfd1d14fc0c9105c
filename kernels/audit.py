"""Compiles every kernel for GPUs that need not be there and holds its machine code against the bounds beside it.

`python -m ouro.kernels.audit [KERNEL ...]` writes one JSON object; TRITON_INTERPRET must not be set. Its `builds` have the
machine code's figures, its `cases` what the compiler's first stage says to each launch of each test case.
"""

from __future__ import annotations

import json
import re
import sys
from collections.abc import Iterator
from typing import Any
from unittest.mock import patch

import torch

from ouro.kernels import NAMES, kernel
from ouro.kernels.assembly import Assembly, assembly, first_stage, load, specialized
from ouro.kernels.gate import inputs_of
from ouro.kernels.launch import Build


def audit(name: str) -> Iterator[dict[str, object]]:
    """One row per build of a kernel and capability: what was counted, and in `complaints` what is out of bounds."""
    for build in kernel(name).builds:
        for capability in build.most:
            code = assembly(
                load(build.function),
                build.signature,
                build.constexprs,
                capability,
                build.num_warps,
                build.num_stages,
                build.max_registers,
            )
            yield {
                "kernel": name,
                "build": build.name,
                "capability": capability,
                "registers": code.registers,
                "stack": code.stack,
                "spills": code.spills,
                "shared": code.shared,
                "per_element": per_element(build, code),
                "most": build.most[capability],
                "hottest": dict(code.hottest.most_common()),
                "complaints": list(complaints(build, capability, code)),
            }


def per_element(build: Build, code: Assembly) -> float:
    """Instructions of the hottest loop per element that one pass of it handles."""
    return code.hottest.total() / build.elements


def complaints(build: Build, capability: int, code: Assembly) -> Iterator[str]:
    """What the machine code does that its build does not allow."""
    if code.spills or code.stack:
        yield f"{code.spills} instructions on local memory, {code.stack} bytes of stack"
    if per_element(build, code) > build.most[capability]:
        yield f"{per_element(build, code):.2f} instructions per element, at most {build.most[capability]:g} expected"
    for opcode in build.absent:
        if code.hottest[opcode]:
            yield f"{code.hottest[opcode]} {opcode} in the hottest loop"
    for pattern in build.ptx.get(capability, ()):
        if not re.search(pattern, code.ptx):
            yield f"no {pattern} in the PTX"


def launches(name: str, capability: int = 90) -> Iterator[dict[str, object]]:
    """{kernel, case, complaint} per test case and per measured one of batch 1, its launches translated, not run."""
    from triton import CompilationError
    from triton.runtime.jit import JITFunction

    known: set[str] = set()

    def translate(function: Any, *args: Any, grid: Any, warmup: bool, **options: Any) -> None:
        given = dict(zip(function.arg_names, args, strict=False)) | options
        defaults = {p.name: p.default for p in function.params if p.has_default}
        signature, constexprs = specialized(function, defaults | given)
        key = f"{function.fn.__qualname__} {signature} {constexprs}"
        if key not in known:
            first_stage(function, signature, constexprs, capability)
            known.add(key)

    with patch.object(JITFunction, "run", translate), patch("ouro.kernels.launch.can_run", lambda device: None):
        for case in kernel(name).cases:
            if case.bench and "b=1" not in case.name.split():
                continue
            complaint = None
            try:
                kernel(name).op(**inputs_of(case, torch.device("cpu")), backend="triton")
            except CompilationError as error:
                complaint = str(error)
            yield {"kernel": name, "case": case.name, "complaint": complaint}


def main(names: list[str]) -> int:
    """Writes the rows of the named kernels, or of all; 1 where one of them complains."""
    chosen = names or NAMES
    builds = [row for name in chosen for row in audit(name)]
    cases = [row for name in chosen for row in launches(name)]
    json.dump({"builds": builds, "cases": cases}, sys.stdout)
    return int(any(row["complaints"] for row in builds) or any(row["complaint"] for row in cases))


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
