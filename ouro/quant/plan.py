"""What is to be quantized and how: scopes, the contract of a method, and the plan the two make for a model."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, fields
from typing import Any, Protocol

from torch import Tensor, nn

from ouro.quant.bits import FLOAT, Bits, parse_bits
from ouro.quant.modules import Quantizer
from ouro.registry import QUANTIZERS
from ouro.taps import Tap, taps
from ouro.types import QuantPlan, QuantSpec

_LIN = frozenset({"linear.in", "linear.weight"})
_SSM = _LIN | {"scan.u", "scan.delta_raw", "scan.A", "scan.B", "scan.C", "scan.D"}
_REC = _SSM | {"scan.h", "scan.y"}
_FULL = _REC | {
    "conv.in", "conv.weight", "gate", "norm.out", "embed.in", "embed.weight", "head.in", "head.weight",
    "downsample.in", "downsample.weight", "block.in", "block.weight", "attention.q", "attention.k", "attention.v",
}  # fmt: skip

SCOPES = {"lin": _LIN, "ssm": _SSM, "rec": _REC, "full": _FULL}
"""Scope -> sites whose tensors are rounded; each scope holds the one before it."""

READY = ("lin", "ssm")
"""Scopes that can be calibrated."""


@dataclass(frozen=True, slots=True)
class Learning:
    """How the step sizes of one block learn, see `ouro.quant.calibrate.learn`; 0 steps: not at all.

    The rates are relative: 0.01 changes a step size by 1 % at a time. The official 5e-4 is absolute, which is about
    as much for the 4-bit weights of an official Vim, but more than a whole step for 8-bit ones.
    """

    steps: int = 0
    lr_weights: float = 0.01
    lr_activations: float = 0.01
    clip: float = 2.0


class Method(Protocol):
    """A quantization method: a frozen dataclass whose fields are its options."""

    @property
    def has_outliers(self) -> bool:
        """Whether the o-part of the bits means anything to it."""
        ...

    @property
    def learning(self) -> Learning: ...

    def spec(self, site: str, bits: Bits) -> QuantSpec:
        """How a tensor of this site is rounded."""
        ...

    def fit(self, tap: Tap, spec: QuantSpec, chunks: Sequence[Tensor]) -> dict[str, Tensor]:
        """The quantizer's state, from what the tap saw of the calibration images (a weight: the weight itself)."""
        ...

    def build(self, tap: Tap, spec: QuantSpec, state: Mapping[str, Tensor]) -> Quantizer:
        """The quantizer in this state."""
        ...


def make_method(name: str, options: Mapping[str, Any]) -> Method:
    """The registered method with these options.

    Raises:
        ValueError: unknown method, or an option it does not have or refuses.
    """
    chosen = QUANTIZERS.get(name)
    known = [field.name for field in fields(chosen)]
    for option in options:
        if option not in known:
            raise ValueError(f"method {name!r} has no option {option!r}; known: {', '.join(known) or 'none'}")
    return chosen(**options)


def make_plan(
    model: nn.Module, name: str, bits: str, scope: str, seed: int, options: Mapping[str, Any]
) -> tuple[Method, QuantPlan]:
    """The method, and what it does to every tap of the model in this scope; `plan.bits` leaves out an idle o-part.

    Raises:
        ValueError: unknown method, bits, scope or option, or a model without a tap in this scope.
    """
    if scope not in SCOPES:
        raise ValueError(f"unknown scope {scope!r}; known: {', '.join(SCOPES)}")
    if scope not in READY:
        raise ValueError(f"scope {scope!r} cannot be calibrated yet; use {' or '.join(READY)}")
    method, widths = make_method(name, options), parse_bits(bits)
    if not method.has_outliers:
        widths = Bits(widths.weights, widths.activations)
    sites = {path: method.spec(tap.site, widths) for path, tap in taps(model) if tap.site in SCOPES[scope]}
    if not sites:
        raise ValueError(f"the model has no tensor of scope {scope!r}, nothing to quantize")
    # fields of the method, so that the plan also says which defaults were in force
    return method, QuantPlan(name, str(widths), scope, seed, sites, asdict(method))  # type: ignore[call-overload]


def is_rounded(spec: QuantSpec) -> bool:
    """False for a tensor that the plan leaves in floating point."""
    return spec.bits < FLOAT
