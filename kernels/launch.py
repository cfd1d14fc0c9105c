"""What every kernel shares: which backend serves a call and the one error it raises, and the record a kernel registers.

A call names its backend: "triton", "reference" (plain torch, the definition) or "auto", which is Triton on CUDA devices
that can run it and the reference everywhere else. With TRITON_INTERPRET=1 Triton runs on CPU tensors, for tests.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass, field
from importlib.util import find_spec
from typing import Any

import torch
from torch import Tensor

BACKENDS = ("triton", "reference")
OLDEST = (8, 0)
"""Compute capability that the kernels are written for and compiled against in the tests."""


class KernelError(ValueError):
    """A kernel cannot serve a call: what was given and allowed, and per tried backend why it was refused."""


def require(condition: bool, message: str) -> None:
    """Raises KernelError(message) unless the condition holds."""
    if not condition:
        raise KernelError(message)


def interpreted() -> bool:
    """Whether Triton runs kernels in its interpreter: decided by TRITON_INTERPRET when a kernel is first imported."""
    if find_spec("triton") is None:
        return False
    from triton import knobs

    return bool(knobs.runtime.interpret)


def can_run(device: torch.device) -> str | None:
    """Why Triton cannot run on tensors of this device, or None if it can."""
    if find_spec("triton") is None:
        return "triton is not installed"
    if interpreted():
        return None if device.type == "cpu" else f"its interpreter takes CPU tensors, the inputs are on {device}"
    if device.type != "cuda":
        return f"it runs on CUDA devices, the inputs are on {device}"
    capability = torch.cuda.get_device_capability(device)
    if capability < OLDEST:
        actual, oldest = (".".join(map(str, version)) for version in (capability, OLDEST))
        return f"{device} has compute capability {actual}, it needs {oldest} or newer"
    return None


def choose(
    kernel: str,
    backend: str,
    tensors: Mapping[str, Tensor | None],
    *,
    invalid: str | None = None,
    unsupported: str | None = None,
    strided: bool = False,
) -> str:
    """The backend that serves a call.

    Args:
        kernel: name, for messages.
        backend: "auto" or one of `BACKENDS`.
        tensors: all operands; those that are there have to share a device and, for Triton, be contiguous or `strided`.
        invalid: what is wrong with the call, whoever serves it.
        unsupported: what Triton does not do.
        strided: the kernel takes operands of any memory layout.

    Raises:
        KernelError: nobody serves it; the message has every backend that was tried and why it refused.
    """
    require(
        backend in ("auto", *BACKENDS), f"{kernel}: unknown backend {backend!r}; known: auto, {', '.join(BACKENDS)}"
    )
    given = {name: x for name, x in tensors.items() if x is not None}
    device = next(iter(given.values())).device
    invalid = invalid or _mixed(given)
    scattered = None if strided else _scattered(given)
    refused = {"triton": invalid or can_run(device) or unsupported or scattered, "reference": invalid}
    names = BACKENDS if backend == "auto" else (backend,)
    for name in names:
        # the interpreter is for tests: only who asks for it gets it
        if refused[name] is None and not (backend == "auto" and name == "triton" and interpreted()):
            return name
    raise KernelError(f"{kernel} cannot run; tried " + "; ".join(f"{name}: {refused[name]}" for name in names))


def on(device: torch.device) -> AbstractContextManager[Any]:
    """A context in which kernels are launched on this device; without it Triton takes the current one."""
    return torch.cuda.device(device) if device.type == "cuda" else nullcontext()


def wrong_dtype(tensors: Mapping[str, Tensor | None], *allowed: torch.dtype) -> str | None:
    """Which of the tensors has none of the allowed dtypes, as a sentence; None if all are fine."""
    for name, x in tensors.items():
        if x is not None and x.dtype not in allowed:
            return f"{name} is {_short(x.dtype)}, expected {' or '.join(map(_short, allowed))}"
    return None


def wrong_shape(name: str, x: Tensor | None, axes: str, *expected: int) -> str | None:
    """Says that x is not of the expected shape, whose axes are named as in "b l c"; None if it is, or is not there."""
    if x is None or tuple(x.shape) == expected:
        return None
    return f"{name} is {tuple(x.shape)}, expected ({', '.join(axes.split())}) = {expected}"


def first(*complaints: str | None) -> str | None:
    """The first complaint that there is."""
    return next((complaint for complaint in complaints if complaint is not None), None)


def divided(x: Tensor, number: int) -> Tensor:
    """The exact quotient on every device: CUDA multiplies by the inverse of a Python number, but divides by a tensor."""
    return x / x.new_full((), number)


def _mixed(tensors: Mapping[str, Tensor]) -> str | None:
    devices = {str(x.device): name for name, x in tensors.items()}
    if len(devices) == 1:
        return None
    return "operands on different devices: " + ", ".join(f"{name} on {device}" for device, name in devices.items())


def _scattered(tensors: Mapping[str, Tensor]) -> str | None:
    names = [name for name, x in tensors.items() if not x.is_contiguous()]
    return f"{', '.join(names)} not contiguous; call .contiguous()" if names else None


def _short(dtype: torch.dtype) -> str:
    return str(dtype).removeprefix("torch.")


@dataclass(frozen=True, slots=True)
class Case:
    """One call: `build(generator, device)` makes the keyword arguments that op and reference share.

    bench: measured by the benchmark, and too large for the interpreter; otherwise checked by the tests.
    sizes: what `floor` reckons with.
    """

    name: str
    build: Callable[[torch.Generator, torch.device], dict[str, Any]]
    bench: bool = False
    sizes: Mapping[str, int] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class Floor:
    """The least a call has to do: bytes to and from memory, exponentials, multiply-adds times two by kind."""

    bytes: int
    exps: int = 0
    int8_ops: int = 0
    half_ops: int = 0


@dataclass(frozen=True, slots=True)
class Build:
    """One compilation without a GPU, and what its machine code has to keep to.

    function: "module:attribute" of the @triton.jit function. signature: argument -> Triton type, constexprs left out.
    elements: how many elements one pass of the hottest loop handles, per warp and lane; 0 reckons with the whole program.
    most: bound on instructions per element. absent: opcodes that the hottest loop must not have.
    ptx: capability -> patterns that have to occur in the PTX.
    """

    name: str
    function: str
    signature: Mapping[str, str]
    constexprs: Mapping[str, Any]
    elements: float
    most: Mapping[int, float]
    num_warps: int = 4
    num_stages: int = 3
    max_registers: int | None = None
    absent: tuple[str, ...] = ()
    ptx: Mapping[int, tuple[str, ...]] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class Kernel:
    """A kernel as tests and benchmark see it.

    op, reference: same signature but for the op's `backend`; both return a tensor or a named tuple of tensors.
    tolerances: output -> (relative, absolute); "" is every other floating point output, whole numbers are equal else.
    bounds: takes the op's arguments; output -> the error that float32 arithmetic may make of each element, instead of a
        tolerance (see `ouro.kernels.rounding`). Writing the result in its own dtype comes on top.
    widen: the reference gets its floating point operands as float64. Not for rules that decide about float32 values.
    strided: the kernel takes operands of any memory layout.
    """

    name: str
    op: Callable[..., Any]
    reference: Callable[..., Any]
    cases: tuple[Case, ...]
    floor: Callable[[Case], Floor]
    builds: tuple[Build, ...]
    tolerances: Mapping[str, tuple[float, float]] = field(default_factory=dict)
    bounds: Callable[..., Mapping[str, Tensor]] | None = None
    widen: bool = True
    strided: bool = False
