"""Compiles every kernel for GPUs that need not be there and holds its machine code against the bounds beside it.

`python -m ouro.kernels.audit [KERNEL ...]` writes one JSON list; TRITON_INTERPRET must not be set.
"""

from __future__ import annotations

import json
import re
import sys
from collections.abc import Iterator

from ouro.kernels import NAMES, kernel
from ouro.kernels.assembly import Assembly, assembly, load
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


def main(names: list[str]) -> None:
    """Writes the rows of the named kernels, or of all."""
    json.dump([row for name in names or NAMES for row in audit(name)], sys.stdout)


if __name__ == "__main__":
    main(sys.argv[1:])
