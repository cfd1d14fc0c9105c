"""Compiles a kernel for a GPU that need not be there, and counts what its machine code does.

The assembler and disassembler come with Triton. Instructions are counted as they stand, not as often as they run.
"""

from __future__ import annotations

import re
import subprocess
import tempfile
from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass
from importlib import import_module
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

_TYPES = {
    torch.float64: "fp64",
    torch.float32: "fp32",
    torch.float16: "fp16",
    torch.bfloat16: "bf16",
    torch.int64: "i64",
    torch.int32: "i32",
    torch.int8: "i8",
    torch.uint8: "u8",
}
_INSTRUCTION = re.compile(r"^\s+/\*([0-9a-f]{4,})\*/\s+(.*?);")
_LABEL = re.compile(r"^\s*(\.L[_\w]*):")
_JUMP = re.compile(r"BRA.*?`\((\.L[_\w]*)\)")
_PREDICATE = re.compile(r"^@!?U?P[T\d]+\s+")


@dataclass(frozen=True, slots=True)
class Assembly:
    """One compiled kernel: its texts, registers per thread, bytes of local memory, and instructions by opcode.

    total: the whole program. loops: the innermost loops, longest first.
    """

    ptx: str
    sass: str
    registers: int
    stack: int
    shared: int
    total: Counter[str]
    loops: tuple[Counter[str], ...]

    @property
    def spills(self) -> int:
        """Instructions that read or write local memory."""
        return self.total["LDL"] + self.total["STL"]

    @property
    def hottest(self) -> Counter[str]:
        """Instructions of the longest innermost loop, or of the program where it has no loop."""
        return self.loops[0] if self.loops else self.total


def assembly(
    kernel: Any,
    signature: Mapping[str, str],
    constexprs: Mapping[str, Any],
    capability: int,
    num_warps: int = 4,
    num_stages: int = 3,
    max_registers: int | None = None,
) -> Assembly:
    """Compiles a @triton.jit function, not an interpreted one, for a capability such as 80 or 90.

    Args:
        signature: argument -> type, such as "*fp16" or "i32"; a trailing ":16" says that it is divisible by 16.
        constexprs: the remaining arguments and their values.
    """
    import triton
    from triton.backends.compiler import GPUTarget

    options = {"num_warps": num_warps, "num_stages": num_stages, "maxnreg": max_registers}
    source = _source(kernel, signature, constexprs)
    compiled = triton.compile(source, target=GPUTarget("cuda", capability, 32), options=options)
    tools = Path(triton.__file__).parent / "backends" / "nvidia" / "bin"
    with tempfile.TemporaryDirectory() as folder:
        cubin = Path(folder) / "kernel.cubin"
        cubin.write_bytes(compiled.asm["cubin"])
        sass = _run(tools / "nvdisasm", "-c", cubin)
        usage = _run(tools / "cuobjdump", "-res-usage", cubin)
    registers, stack = (int(re.search(rf"{word}:(\d+)", usage)[1]) for word in ("REG", "STACK"))  # type: ignore[index]
    total, loops = count(sass)
    return Assembly(compiled.asm["ptx"], sass, registers, stack, compiled.metadata.shared, total, loops)


def first_stage(kernel: Any, signature: Mapping[str, str], constexprs: Mapping[str, Any], capability: int) -> str:
    """A kernel in Triton's own intermediate language: cheap, and sees what the interpreter does not, such as types.

    Raises:
        triton.CompilationError: the function is not one that Triton compiles for these arguments.
    """
    from triton._C.libtriton import ir
    from triton.backends.compiler import GPUTarget
    from triton.compiler.compiler import make_backend

    target = GPUTarget("cuda", capability, 32)
    backend = make_backend(target)
    options, context = backend.parse_options({}), ir.context()
    ir.load_dialects(context)
    backend.load_dialects(context)
    source = _source(kernel, signature, constexprs)
    generators = backend.get_codegen_implementation(options)
    return str(source.make_ir(target, options, generators, backend.get_module_map(), context))


def specialized(kernel: Any, arguments: Mapping[str, Any]) -> tuple[dict[str, str], dict[str, Any]]:
    """(signature, constexprs) that a launch with these arguments, by name, compiles for."""
    signature, constexprs = {}, {}
    for parameter in kernel.params:
        value = arguments[parameter.name]
        # None and 1 are built in, as are what the kernel itself declares constant
        if parameter.is_constexpr or value is None or isinstance(value, bool) or (type(value) is int and value == 1):
            constexprs[parameter.name] = value
            continue
        if isinstance(value, Tensor):
            kind, number = f"*{_TYPES[value.dtype]}", value.data_ptr()
        elif isinstance(value, int):
            kind, number = "i32" if -(2**31) <= value < 2**31 else "i64", value
        else:
            kind, number = "fp32", 1
        signature[parameter.name] = f"{kind}:16" if number % 16 == 0 else kind
    return signature, constexprs


def count(sass: str) -> tuple[Counter[str], tuple[Counter[str], ...]]:
    """Instructions by opcode of a program in nvdisasm's notation, and of each of its innermost loops, longest first."""
    program, labels, waiting = [], {}, []
    for line in sass.splitlines():
        if label := _LABEL.match(line):
            waiting.append(label[1])
        elif instruction := _INSTRUCTION.match(line):
            address = int(instruction[1], 16)
            labels.update(dict.fromkeys(waiting, address))
            waiting.clear()
            program.append((address, instruction[2]))
    spans = []
    for address, text in program:
        jump = _JUMP.search(text)
        # a program ends with a jump to itself
        if jump and labels.get(jump[1], address) < address:
            spans.append((labels[jump[1]], address))
    inner = [s for s in spans if not any(s != t and s[0] <= t[0] and t[1] <= s[1] for t in spans)]
    loops = [_histogram(text for address, text in program if start <= address <= end) for start, end in inner]
    loops.sort(key=lambda loop: -loop.total())
    return _histogram(text for _, text in program), tuple(loops)


def _source(kernel: Any, signature: Mapping[str, str], constexprs: Mapping[str, Any]) -> Any:
    from triton.compiler import ASTSource

    names = kernel.arg_names
    types = {name: signature.get(name, "constexpr").split(":")[0] for name in names}
    aligned = {(i,): [["tt.divisibility", 16]] for i, n in enumerate(names) if signature.get(n, "").endswith(":16")}
    values = {(names.index(name),): value for name, value in constexprs.items()}
    return ASTSource(fn=kernel, signature=types, constexprs=values, attrs=aligned)


def load(path: str) -> Any:
    """The function that "module:attribute" names."""
    module, attribute = path.split(":")
    return getattr(import_module(module), attribute)


def _histogram(texts) -> Counter[str]:
    counts = Counter(_PREDICATE.sub("", text).split()[0].split(".")[0] for text in texts)
    del counts["NOP"]
    return counts


def _run(tool: Path, *arguments: str | Path) -> str:
    # a fixed tool of Triton's on a file of our own
    return subprocess.run([tool, *arguments], capture_output=True, text=True, check=True).stdout
