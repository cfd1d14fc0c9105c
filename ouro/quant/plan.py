"""What is to be quantized and how: scopes, and the plan that a method and a model make together.

Scopes hold one another: "lin" are the linear layers, "ssm" adds the scan's operands, "rec" what lives inside the
recurrence and the scan's output, "full" everything else that has a tap, at 8 bits.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import asdict, replace
from typing import Any

from torch import nn

from ouro.quant.bits import FLOAT, parse_bits
from ouro.quant.method import Method
from ouro.registry import QUANTIZERS
from ouro.settings import check_options
from ouro.taps import taps
from ouro.types import QuantPlan, QuantSpec

_LIN = frozenset({"linear.in", "linear.weight"})
_SSM = _LIN | {"scan.u", "scan.delta_raw", "scan.A", "scan.B", "scan.C", "scan.D"}
_REC = _SSM | {"scan.A_bar", "scan.B_bar", "scan.h", "scan.y"}
_FULL = _REC | {
    "scan.delta", "conv.in", "conv.weight", "gate", "embed.in", "embed.weight", "head.in", "head.weight",
    "downsample.in", "downsample.weight", "block.in", "block.weight", "block.out", "attention.q", "attention.k",
    "attention.v", "decoder.in", "decoder.weight",
}  # fmt: skip

SCOPES = {"lin": _LIN, "ssm": _SSM, "rec": _REC, "full": _FULL}
"""Scope -> sites whose tensors are rounded; each scope holds the one before it."""


def make_method(name: str, options: Mapping[str, Any]) -> Method:
    """The registered method with these options.

    Raises:
        ValueError: unknown method, or an option it does not have or refuses.
    """
    chosen = QUANTIZERS.get(name)
    check_options("method", name, chosen, options)
    return chosen(**options)


def make_plan(
    model: nn.Module,
    name: str,
    bits: str,
    scope: str,
    seed: int,
    options: Mapping[str, Any],
    site_bits: Mapping[str, int] | None = None,
) -> tuple[Method, QuantPlan]:
    """The method, and what it does to every tap of the model in this scope; `plan.bits` leaves out an idle o-part.

    Args:
        site_bits: tap path -> width, where it is not what `bits` says.

    Raises:
        ValueError: unknown method, bits, scope or option, a model without a tap in this scope, or a path in
            `site_bits` that is none of them.
    """
    if scope not in SCOPES:
        raise ValueError(f"unknown scope {scope!r}; known: {', '.join(SCOPES)}")
    method, widths = make_method(name, options), parse_bits(bits)
    if not method.has_outliers:
        widths = replace(widths, outliers=None)
    sites = {
        path: method.spec(tap, widths.wide if tap.site in _FULL - _REC else widths)
        for path, tap in taps(model)
        if tap.site in SCOPES[scope]
    }
    if not sites:
        raise ValueError(f"the model has no tensor of scope {scope!r}, nothing to quantize")
    for path, width in (site_bits or {}).items():
        if path not in sites:
            raise ValueError(f"{path!r} is no site of scope {scope!r} in this model, such as {next(iter(sites))!r}")
        sites[path] = _with_bits(sites[path], width)
    # fields of the method, so that the plan also says which defaults were in force
    options = asdict(method)  # type: ignore[call-overload]
    return method, QuantPlan(name, str(widths), scope, seed, sites, options)


def scope_sites(model: nn.Module, scope: str) -> list[str]:
    """Paths of all taps that a scope rounds, in the order of the model.

    Raises:
        ValueError: unknown scope.
    """
    if scope not in SCOPES:
        raise ValueError(f"unknown scope {scope!r}; known: {', '.join(SCOPES)}")
    return [path for path, tap in taps(model) if tap.site in SCOPES[scope]]


def kept_sites(sites: Sequence[str], keep: Sequence[tuple[str, int]]) -> dict[str, int]:
    """Path -> width of the sites that rules (regular expression, bits) single out; of two rules the last one counts.

    Raises:
        ValueError: an expression that cannot be read or is found in no path, or a width that a site cannot have.
    """
    chosen: dict[str, int] = {}
    for expression, width in keep:
        if not isinstance(width, int) or not (width == FLOAT or 2 <= width <= 8):
            raise ValueError(f"{expression!r} is to be kept at {width!r} bits, expected 2 to 8, or {FLOAT} for float")
        try:
            found = [path for path in sites if re.search(expression, path)]
        except re.error as error:
            raise ValueError(f"{expression!r} is no regular expression: {error}") from error
        if not found:
            raise ValueError(
                f"{expression!r} is found in none of {len(sites)} sites, such as {next(iter(sites), '')!r}"
            )
        chosen |= dict.fromkeys(found, width)
    return chosen


def _with_bits(spec: QuantSpec, width: int) -> QuantSpec:
    """The spec at another width; outliers never get fewer bits than inliers."""
    if spec.outlier_bits is not None and width != FLOAT:
        return replace(spec, bits=width, outlier_bits=max(width, spec.outlier_bits))
    return replace(spec, bits=width)


def is_rounded(spec: QuantSpec) -> bool:
    """False for a tensor that the plan leaves in floating point."""
    return spec.bits < FLOAT
