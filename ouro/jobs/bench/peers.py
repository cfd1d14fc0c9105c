"""What each kernel is measured beside: torch in half precision, torch.compile, and the packages of others.

A peer does the same work on the same operands, prepared in the layout it wants. What differs is in its note.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import cache, partial
from importlib import import_module
from importlib.metadata import PackageNotFoundError, version
from importlib.util import find_spec
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from ouro.kernels import kernel
from ouro.kernels.quantized_linear import unpacked

Call = Callable[[], object]
Inputs = Mapping[str, Any]


@dataclass(frozen=True, slots=True)
class Peer:
    """make: sets of operands of a kernel's call -> calls that do the same; None where it cannot, such as an odd size.

    module: has to be installed for it to run.
    """

    name: str
    kernels: tuple[str, ...]
    make: Callable[[Sequence[Inputs]], list[Call] | None]
    note: str = ""
    module: str | None = None

    @property
    def missing(self) -> str | None:
        """Why it cannot run here, or None."""
        if self.module is None or find_spec(self.module) is not None:
            return None
        return f"{self.module} is not installed"

    @property
    def version(self) -> str:
        """Of the package it belongs to."""
        package = (self.module or "torch").split(".")[0].replace("_", "-")
        try:
            return version(package)
        except PackageNotFoundError:
            return "unknown"


def peers_of(name: str) -> list[Peer]:
    """All peers of a kernel, whether installed or not."""
    return [peer for peer in PEERS if name in peer.kernels]


def _definition(sets: Sequence[Inputs], name: str) -> list[Call]:
    return [partial(kernel(name).reference, **inputs) for inputs in sets]


@cache
def _compiled(name: str) -> Callable[..., Any]:
    return torch.compile(kernel(name).reference)


def _compiled_definition(sets: Sequence[Inputs], name: str) -> list[Call]:
    return [partial(_compiled(name), **inputs) for inputs in sets]


def _floats(inputs: Inputs, dtype: torch.dtype) -> tuple[Tensor, Tensor, Tensor | None]:
    """Rows, weight and bias that the codes of a linear layer stand for."""
    codes, bias = inputs["codes"], inputs["bias"]
    x = codes.float() * inputs["scale"][:, None]
    if inputs.get("outliers") is not None:
        x += inputs["outliers"].float() * inputs["outlier_scale"][:, None]
    weight = unpacked(inputs["weight"], codes.shape[1]).float() * inputs["weight_scale"][:, None]
    return x.to(dtype), weight.to(dtype), None if bias is None else bias.to(dtype)


def _linear(sets: Sequence[Inputs], dtype: torch.dtype) -> list[Call]:
    return [partial(F.linear, *_floats(inputs, dtype)) for inputs in sets]


def _linear_pairs(sets: Sequence[Inputs]) -> list[Call]:
    def one(inputs: Inputs, way: str) -> Call:
        x, weight, bias = (inputs[f"{name}_{way}"] for name in ("x", "weight", "bias"))
        x, weight, bias = x.half(), weight.half(), None if bias is None else bias.half()
        if inputs["activation"] == "softplus":
            return lambda: F.softplus(F.linear(x, weight, bias))
        return lambda: F.linear(x, weight, bias)

    def both(inputs: Inputs) -> Call:
        forward, backward = one(inputs, "f"), one(inputs, "b")
        return lambda: (forward(), backward())

    return [both(inputs) for inputs in sets]


def _two_ways(inputs: Inputs) -> bool:
    return inputs.get("outliers") is not None


def _int_mm(sets: Sequence[Inputs]) -> list[Call] | None:
    (rows, channels), outputs = sets[0]["codes"].shape, len(sets[0]["weight"])
    # what cuBLAS asks of its operands
    if rows <= 16 or channels % 8 or outputs % 8 or _two_ways(sets[0]):
        return None

    def scaled(inputs: Inputs) -> Call:
        weight = unpacked(inputs["weight"], channels).contiguous()
        row, column = inputs["scale"][:, None], inputs["weight_scale"][None]
        return lambda: (torch._int_mm(inputs["codes"], weight.T) * row * column).to(inputs["dtype"])

    return [scaled(inputs) for inputs in sets]


def _layer(sets: Sequence[Inputs], dtype: torch.dtype) -> tuple[list[Tensor], nn.Linear] | None:
    """Rows of all sets and the first one's layer, where its weight has 8 bits: preparing a peer's own takes seconds."""
    if _two_ways(sets[0]) or sets[0]["weight"].dtype != torch.int8:
        return None
    (_, weight, bias), rows = _floats(sets[0], dtype), [_floats(inputs, dtype)[0] for inputs in sets]
    layer = nn.Linear(weight.shape[1], weight.shape[0], bias is not None, device=weight.device, dtype=dtype)
    layer.weight.data.copy_(weight)
    if bias is not None:
        layer.bias.data.copy_(bias)
    return rows, layer.requires_grad_(False)


def _torchao(sets: Sequence[Inputs]) -> list[Call] | None:
    if (prepared := _layer(sets, torch.bfloat16)) is None:
        return None
    quantization = import_module("torchao.quantization")
    model = nn.Sequential(prepared[1])
    quantization.quantize_(model, quantization.Int8DynamicActivationInt8WeightConfig())
    # layers share their code, of which dynamo compiles a few only
    torch._dynamo.reset()
    compiled = torch.compile(model, dynamic=False)
    return [partial(compiled, x) for x in prepared[0]]


def _gemlite(sets: Sequence[Inputs]) -> list[Call] | None:
    if (prepared := _layer(sets, torch.float16)) is None:
        return None
    rows, layer = prepared
    processor = import_module("gemlite.helper").A8W8_int8_dynamic(device=str(rows[0].device), dtype=torch.float16)
    quantized = processor.from_linear(layer)
    return [partial(quantized, x) for x in rows]


def _mamba(sets: Sequence[Inputs]) -> list[Call] | None:
    if sets[0].get("reverse"):
        return None
    scan = import_module("mamba_ssm.ops.selective_scan_interface").selective_scan_fn
    names = ("u", "delta", "A", "B", "C", "D")
    # its layout has time last
    return [partial(scan, *(None if s[n] is None else s[n].contiguous() for n in names)) for s in sets]


def _mamba_both_ways(sets: Sequence[Inputs]) -> list[Call]:
    scan = import_module("mamba_ssm.ops.selective_scan_interface").selective_scan_fn

    def both(inputs: Inputs) -> Call:
        def operands(way: str) -> dict[str, Tensor]:
            turned = {n: inputs[f"{n}_{way}"].transpose(1, 2).contiguous() for n in ("u", "delta", "B", "C")}
            return turned | {n: inputs[f"{n}_{way}"] for n in "AD"}

        f, b, z = operands("f"), operands("b"), inputs["z"].transpose(1, 2).contiguous()

        def call() -> Tensor:
            flipped = {n: b[n].flip(-1) for n in ("u", "delta", "B", "C")}
            return (scan(**f, z=z) + scan(**b | flipped, z=z.flip(-1)).flip(-1)) / 2

        return call

    return [both(inputs) for inputs in sets]


def _conv_both_ways(sets: Sequence[Inputs]) -> list[Call]:
    convolve = import_module("causal_conv1d").causal_conv1d_fn

    def both(inputs: Inputs) -> Call:
        x = inputs["x"].transpose(1, 2).contiguous()
        f, b = ((inputs[f"weight_{way}"].to(x.dtype).contiguous(), inputs[f"bias_{way}"]) for way in "fb")
        return lambda: (convolve(x, *f, activation="silu"), convolve(x.flip(-1), *b, activation="silu").flip(-1))

    return [both(inputs) for inputs in sets]


_ROWS = ("norm_quantize", "outlier_quantizer", "causal_conv")
_SCANS = ("selective_scan", "bidirectional_scan")
_WITH_CODES = "makes the codes of its rows itself, on every call; one weight for all sets"

PEERS = (
    Peer("torch fp16", ("quantized_linear",), partial(_linear, dtype=torch.float16)),
    Peer("torch bf16", ("quantized_linear",), partial(_linear, dtype=torch.bfloat16)),
    Peer("torch fp16", ("paired_linear",), _linear_pairs, "one after the other, softplus in a pass of its own"),
    Peer("torch._int_mm", ("quantized_linear",), _int_mm, "and the steps by torch, in passes of their own"),
    Peer("torchao int8", ("quantized_linear",), _torchao, f"bfloat16, compiled; {_WITH_CODES}", "torchao"),
    Peer("gemlite A8W8", ("quantized_linear",), _gemlite, _WITH_CODES, "gemlite"),
    Peer("mamba-ssm", ("selective_scan",), _mamba, "", "selective_scan_cuda"),
    Peer("mamba-ssm", ("bidirectional_scan",), _mamba_both_ways, "two scans with the gate, flips and their mean",
         "selective_scan_cuda"),
    Peer("causal-conv1d", ("causal_conv",), _conv_both_ways, "two convolutions and two flips", "causal_conv1d"),
    *(Peer("torch", (name,), partial(_definition, name=name), "the definition, step by step")
      for name in (*_ROWS, *_SCANS)),
    *(Peer("torch.compile", (name,), partial(_compiled_definition, name=name), "the definition") for name in _ROWS),
)  # fmt: skip
