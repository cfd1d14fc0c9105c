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

from ouro.quant.bits import FLOAT, check_width, parse_bits
from ouro.quant.method import Method
from ouro.quant.quantizer import has_channels
from ouro.registry import QUANTIZERS
from ouro.settings import check_count, check_options
from ouro.streams import check_seed
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
    channels: Mapping[str, Mapping[int, int]] | None = None,
) -> tuple[Method, QuantPlan]:
    """The method, and what it does to every tap of the model in this scope; `plan.bits` leaves out an idle o-part.

    Args:
        site_bits: tap path -> width, where it is not what `bits` says.
        channels: tap path -> {channel: width} of those that are rounded apart from the others.

    Raises:
        ValueError: unknown method, bits, scope or option, no seed, a width that a tensor cannot have, a model without a tap
            in this scope, a path in `site_bits` or `channels` that is none of them, or channels of what has none or stays
            in floating point.
    """
    if scope not in SCOPES:
        raise ValueError(f"unknown scope {scope!r}; known: {', '.join(SCOPES)}")
    method, widths = make_method(name, options), parse_bits(bits)
    seed = check_seed(seed)
    if not method.has_outliers:
        widths = replace(widths, outliers=None)
    sites = {
        path: method.spec(tap, widths.wide if tap.site in _FULL - _REC else widths)
        for path, tap in taps(model)
        if tap.site in SCOPES[scope]
    }
    if not sites:
        raise ValueError(f"the model has no tensor of scope {scope!r}, nothing to quantize")
    for path in (*(site_bits or {}), *(channels or {})):
        if path not in sites:
            raise ValueError(f"{path!r} is no site of scope {scope!r} in this model, such as {next(iter(sites))!r}")
    for path, width in (site_bits or {}).items():
        check_width(width, repr(path))
        sites[path] = _with_bits(sites[path], width)
    known = dict(taps(model))
    for path, kept in (channels or {}).items():
        if not has_channels(known[path]):
            activation = next((f", such as {site!r}" for site in sites if has_channels(known[site])), "")
            raise ValueError(
                f"{path!r} is a {known[path].site}; give channels of activations outside the recurrence{activation}"
            )
        if not is_rounded(sites[path]):
            raise ValueError(f"{path!r} stays in floating point; give channels of tensors that are rounded")
        for channel, width in kept.items():
            check_width(width, f"channel {channel!r} of {path!r}")
            check_count(f"a channel of {path!r}", channel, least=0)
        sites[path] = replace(sites[path], channels=tuple(sorted(kept.items())))
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


Rule = tuple[str, int]
"""What gets other bits: a regular expression of sites, or one with channels of these, as in "in_proj.tap_in:61,17"."""
_WITH_CHANNELS = re.compile(r"(.+):([^)\]]*)")
"""No path has a colon, and what follows one of a regular expression, as in (?:a|b), is closed by a bracket."""


def split_rule(text: str) -> tuple[str, tuple[int, ...]]:
    """(regular expression, channels) of what is to be kept; no channels: the whole tensors.

    Raises:
        ValueError: behind the colon are no whole numbers with commas, or one is there twice.
    """
    match = _WITH_CHANNELS.fullmatch(text)
    if match is None:
        return text, ()
    expression, named = match.groups()
    if not re.fullmatch(r"[0-9]+(,[0-9]+)*", named):
        raise ValueError(
            f"{text!r} names {named!r} as channels, expected whole numbers with commas, as in '{expression}:61,17'"
        )
    channels = tuple(map(int, named.split(",")))
    if twice := [channel for channel in channels if channels.count(channel) > 1]:
        raise ValueError(f"{text!r} names channel {twice[0]} twice; name each channel once")
    return expression, channels


def kept_sites(sites: Sequence[str], keep: Sequence[Rule]) -> dict[str, int]:
    """Path -> width of the sites that rules (regular expression, bits) single out; of two rules the last one counts.

    Raises:
        ValueError: an expression that cannot be read or is found in no path, or a width that a site cannot have.
    """
    found = ((_found(sites, text, width), width) for text, width in keep)
    return {path: width for (paths, channels), width in found if not channels for path in paths}


def kept_channels(sites: Sequence[str], keep: Sequence[Rule]) -> dict[str, dict[int, int]]:
    """Path -> {channel: width} of the channels that rules with channels single out; of two rules the last one counts.

    Raises:
        ValueError: as for `kept_sites`, or channels that cannot be read.
    """
    kept: dict[str, dict[int, int]] = {}
    for text, width in keep:
        paths, channels = _found(sites, text, width)
        for path in paths if channels else ():
            kept[path] = kept.get(path, {}) | dict.fromkeys(channels, width)
    return kept


def _found(sites: Sequence[str], text: str, width: int) -> tuple[list[str], tuple[int, ...]]:
    """(paths, channels) that a rule singles out."""
    check_width(width, repr(text))
    expression, channels = split_rule(text)
    try:
        found = [path for path in sites if re.search(expression, path)]
    except re.error as error:
        raise ValueError(f"{expression!r} is no regular expression: {error}") from error
    if not found:
        hint = "; name channels behind a colon, as in ':61,17'" if expression.endswith("]") else ""
        example = next(iter(sites), "")
        raise ValueError(f"{expression!r} is found in none of {len(sites)} sites, such as {example!r}{hint}")
    return found, channels


def _with_bits(spec: QuantSpec, width: int) -> QuantSpec:
    """The spec at another width; outliers never get fewer bits than inliers."""
    if spec.outlier_bits is not None and width != FLOAT:
        return replace(spec, bits=width, outlier_bits=max(width, spec.outlier_bits))
    return replace(spec, bits=width)


def is_rounded(spec: QuantSpec) -> bool:
    """False for a tensor that the plan leaves in floating point."""
    return spec.bits < FLOAT
