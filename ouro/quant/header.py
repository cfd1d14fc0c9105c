"""The header of a quantized file, read field by field: what `to_tensors` does not write is refused by its name."""

from __future__ import annotations

import json
import re
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from typing import Annotated, Any

from ouro.quant.bits import FLOAT, FLOAT_OUTLIERS, parse_bits
from ouro.quant.modules import GRANULARITIES
from ouro.quant.plan import SCOPES, make_method
from ouro.registry import MODELS, QUANTIZERS
from ouro.settings import Least, Most, brief, check_fields
from ouro.types import QuantPlan, QuantSpec

_DIGEST = re.compile("[0-9a-f]{16}")
_WIDTHS = (*range(2, 9),)


@dataclass(frozen=True, slots=True)
class Source:
    """Where a model's weights lie, and how it differs from its variant; see `ouro.jobs.inputs.provenance_of`."""

    weights: str = ""
    config: Mapping[str, Any] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class Provenance:
    """What a quantized file says of how it was made."""

    model: str
    weights: str
    images: Annotated[int, Least(1)] = 1
    requested_bits: str = ""
    blocks: tuple[Mapping[str, Any], ...] = ()
    source: Mapping[str, Any] = field(default_factory=dict)
    calib: str | None = None
    budget: Annotated[float, Least(0), Most(FLOAT)] | None = None


def read_header(metadata: Mapping[str, str]) -> tuple[QuantPlan, str, dict[str, Any]]:
    """(plan, digest of the calibration set, provenance) in the header of a quantized or packed file.

    Raises:
        ValueError: a field is missing or none of what may stand there; the message has its name, what it is and what was
            expected.
    """
    try:
        plan, provenance = _object(metadata, "plan"), _object(metadata, "provenance")
        check_fields(QuantPlan, plan, "plan.", complete=True)
        sites = {path: _spec(path, spec) for path, spec in plan["sites"].items()}
        _require(bool(sites), "plan.sites", {}, "the tensors that are rounded")
        made = replace(QuantPlan(**plan), sites=sites)
        _require(made.method in QUANTIZERS, "plan.method", made.method, f"one of {', '.join(QUANTIZERS)}")
        _require(made.scope in SCOPES, "plan.scope", made.scope, f"one of {', '.join(SCOPES)}")
        _checked("plan.bits", lambda: parse_bits(made.bits))
        _checked("plan.options", lambda: make_method(made.method, made.options))
        check_fields(Provenance, provenance, "provenance.")
        known, weights = provenance["model"], provenance["weights"]
        _require(known in MODELS, "provenance.model", known, "a model that `ouro models` lists")
        _require(_DIGEST.fullmatch(weights) is not None, "provenance.weights", weights, "16 hexadecimal digits")
        check_fields(Source, provenance.get("source", {}), "provenance.source.")
        digest = metadata.get("set_digest", "")
        _require(_DIGEST.fullmatch(digest) is not None, "set_digest", digest, "16 hexadecimal digits")
    except ValueError as error:
        raise ValueError(f"this quantized model's header is damaged: {error}; quantize again") from error
    return made, digest, provenance


def _spec(path: str, value: Any) -> QuantSpec:
    where = f"plan.sites.{path[:80]}"
    _require(isinstance(value, dict), where, value, "an object of names and values")
    # not mentioned where there are none
    value = {"channels": (), **value}
    check_fields(QuantSpec, value, f"{where}.", complete=True)
    channels = tuple((channel, bits) for channel, bits in value["channels"])
    spec = QuantSpec(**{**value, "channels": channels})
    _require(spec.bits in (*_WIDTHS, FLOAT), f"{where}.bits", spec.bits, f"2 to 8, or {FLOAT}")
    known = f"one of {', '.join(GRANULARITIES)}"
    _require(spec.granularity in GRANULARITIES, f"{where}.granularity", spec.granularity, known)
    outliers = spec.outlier_bits
    fits = outliers is None or outliers == FLOAT_OUTLIERS or (outliers in _WIDTHS and outliers >= spec.bits)
    allowed = f"nothing, {FLOAT_OUTLIERS}, or up to 8 and no fewer than bits"
    _require(fits, f"{where}.outlier_bits", outliers, allowed)
    apart = dict(channels)
    fits = len(apart) == len(channels) and all(bits in (*_WIDTHS, FLOAT) for bits in apart.values())
    _require(fits, f"{where}.channels", value["channels"], f"each channel once, with 2 to 8 bits or {FLOAT}")
    return spec


def _object(metadata: Mapping[str, str], name: str) -> dict[str, Any]:
    """The JSON object in a field of the header."""
    text = metadata.get(name)
    _require(text is not None, name, None, "a JSON object")
    assert text is not None
    try:
        value = json.loads(text)
    # lists in lists without end, or a number of too many digits
    except (ValueError, RecursionError):
        raise ValueError(f"{name} is {brief(text)}, expected a JSON object") from None
    _require(isinstance(value, dict), name, value, "a JSON object")
    return value


def _require(holds: bool, name: str, value: Any, expected: str) -> None:
    if not holds:
        raise ValueError(f"{name} is {brief(value)}, expected {expected}")


def _checked(name: str, check: Any) -> None:
    """Runs a check that does not know the field's name."""
    try:
        check()
    except ValueError as error:
        raise ValueError(f"{name}: {error}") from error
