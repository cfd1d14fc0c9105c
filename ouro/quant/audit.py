"""What every site of a quantized model really did in a forward, beside what it was asked to do.

A quantizer that is never called, that puts out more values than its bits allow, or whose rule the recurrence did not
follow is a hole: whatever the model's accuracy is, it is not that of the plan.
"""

from __future__ import annotations

from collections.abc import Mapping
from functools import partial
from typing import Any, cast

import torch
from torch import Tensor, nn

from ouro.quant.plan import is_rounded
from ouro.quant.quantizer import RECURRENT_SITES, Quantizer, ScaleGroups
from ouro.scan.companding import compand
from ouro.scan.discretize import discretize
from ouro.scan.reference import round_state
from ouro.taps import Tap, taps
from ouro.types import QuantPlan, ScanInputs
from ouro.vision import judging

_FOLLOWED = 0.05
"""How far, in steps of h (RMS), the recurrence may be from the one that carries rounded states; a few ties are decided
the other way, while states that are not rounded at all are 0.29 steps off."""


def audit(model: nn.Module, images: Tensor, plan: QuantPlan | None = None) -> dict[str, Any]:
    """Runs the images and looks at every quantizer: {"sites", "sealed", "failures", "rows"}.

    Args:
        plan: what the model was asked to round; a site of it without a quantizer is a failure too.

    Returns:
        sealed: every site was called, and no group of elements that share a step held more values than its bits allow.
        failures: path -> what is wrong. rows: path -> {"site", "bits", "calls", "values", "outlier_share"}, values
        being the most different ones in a group of inliers.
    """
    known = dict(taps(model))
    rounding = {path: tap for path, tap in known.items() if isinstance(tap.quantizer, Quantizer)}
    rows: dict[str, dict[str, Any]] = {
        path: {"site": tap.site, "bits": _quantizer(tap).spec.bits, "calls": 0, "values": 0, "outlier_share": 0.0}
        for path, tap in rounding.items()
    }
    failures: dict[str, str] = {}
    inside = {path: tap for path, tap in rounding.items() if tap.site in RECURRENT_SITES}
    handles = [
        _quantizer(tap).register_forward_hook(partial(_look, path, rows[path], failures))
        for path, tap in rounding.items()
        if path not in inside
    ]
    for scan in sorted({path.rpartition(".")[0] for path in inside}):
        handles += _watch(known, scan, rows, failures)
    try:
        with torch.no_grad(), judging(model):
            model(images.to(next(model.parameters()).device))
    finally:
        for handle in handles:
            handle.remove()
    for path, row in rows.items():
        if not row["calls"]:
            failures[path] = "was never called"
    for path, spec in (plan.sites if plan else {}).items():
        if is_rounded(spec) and path not in rounding:
            failures[path] = "is in the plan but has no quantizer"
    return {"sites": len(rounding), "sealed": bool(rounding) and not failures, "failures": failures, "rows": rows}


def require_sealed(model: nn.Module, images: Tensor, plan: QuantPlan) -> None:
    """Refuses to let a model be reported that is not what its plan says.

    Raises:
        RuntimeError: the audit has a hole; the message names the first site.
    """
    failures = audit(model, images, plan)["failures"]
    if failures:
        path, why = next(iter(failures.items()))
        raise RuntimeError(
            f"{len(failures)} of {len(plan.sites)} sites are not rounded as the plan says, first {path}: {why}; "
            "the accuracy of such a model is not reported"
        )


def _quantizer(tap: Tap) -> Quantizer:
    assert isinstance(tap.quantizer, Quantizer)
    return tap.quantizer


def _look(
    path: str,
    row: dict[str, Any],
    failures: dict[str, str],
    quantizer: Quantizer,
    inputs: tuple[Tensor],
    output: Tensor,
) -> None:
    """A forward hook of a quantizer; what it returned would replace the output."""
    row["calls"] += 1
    rest = quantizer.rest(inputs[0])
    inner = quantizer.inside(rest)
    codes = quantizer.rounded(inner)
    if not torch.equal(quantizer.with_kept(quantizer.outside(codes, rest), inputs[0]), output):
        failures[path] = "put out something else than what it rounds to"
    for number, groups in enumerate(quantizer.groups(inner)):
        values = _most_values(codes, groups)
        if number == 0:
            row["values"] = max(row["values"], values)
            row["outlier_share"] = (groups.group < 0).float().mean().item()
        if values > 2**groups.bits:
            failures[path] = f"{values} values in one group, {groups.bits} bits allow {2**groups.bits}"
    for channel, bits in quantizer.spec.channels:
        values = len(output.select(quantizer.channel_axis, channel).unique())
        if values > 2**bits:
            failures[path] = f"{values} values in channel {channel}, {bits} bits allow {2**bits}"


def _watch(known: Mapping[str, Tap], scan: str, rows: dict[str, dict[str, Any]], failures: dict[str, str]) -> list[Any]:
    """Hooks that follow one scan's recurrence step by step, from its operands to its states."""
    seen: dict[str, Tensor] = {}

    def keep(name: str, _tap: nn.Module, _inputs: object, output: Tensor) -> None:
        seen[name] = output

    def check(_tap: nn.Module, _inputs: object, _output: Tensor) -> None:
        _check_recurrence(known, scan, seen, rows, failures)
        seen.clear()

    names = ("u", "delta", "A", "B", "C", "A_bar", "B_bar", "h")
    handles = [known[f"{scan}.tap_{name}"].register_forward_hook(partial(keep, name)) for name in names]
    # y is the first tap behind the recurrence
    return [*handles, known[f"{scan}.tap_y"].register_forward_hook(check)]


def _check_recurrence(
    known: Mapping[str, Tap], scan: str, seen: Mapping[str, Tensor], rows: dict[str, dict[str, Any]],
    failures: dict[str, str],
) -> None:  # fmt: skip
    """Whether h_l = A_bar_l Q(h_{l-1}) + B_bar_l u_l, with all three rounded by the rules that are attached."""
    h, u = seen["h"], seen["u"]
    attached = {name: known[f"{scan}.tap_{name}"].quantizer for name in ("A_bar", "B_bar", "h")}
    rules = {name: cast(Any, quantizer).rule() for name, quantizer in attached.items() if quantizer is not None}
    system = ScanInputs(*(seen[name] for name in ("u", "delta", "A", "B", "C")))
    exact = dict(zip(("A_bar", "B_bar"), discretize(system), strict=True))
    drives: dict[str, Tensor] = {}
    for name, x in exact.items():
        drives[name] = compand(x, rules[name]) if name in rules else x
        if name in rules:
            values = len(drives[name].unique())
            widths = 1 if rules[name].high.numel() == 1 else x.shape[-1]
            _note(rows, failures, f"{scan}.tap_{name}", values, widths * 2 ** rules[name].bits)
    carried = h
    if "h" in rules:
        carried = torch.stack([round_state(h[:, :, step], rules["h"], step) for step in range(h.shape[2])], dim=2)
        scale = _scale(rules["h"], h)
        _note(rows, failures, f"{scan}.tap_h", len((carried / scale).round().unique()), 2 ** rules["h"].bits)
        unit = scale[:, :, 1:]
    else:
        unit = h.abs().amax().clamp(min=1e-12) / 127
    expected = drives["A_bar"][:, :, 1:] * carried[:, :, :-1] + (drives["B_bar"] * u[..., None])[:, :, 1:]
    off = ((h[:, :, 1:] - expected) / unit).square().mean().sqrt().item() if h.shape[2] > 1 else 0.0
    if not off < _FOLLOWED:
        for name in rules:
            failures[f"{scan}.tap_{name}"] = f"the recurrence is {off:.2f} steps away from the one with rounded states"


def _scale(rule: Any, h: Tensor) -> Tensor:
    """The step of every element of h [b e l n], [1 e l n]."""
    step = rule.step.expand(h.shape[2]) if rule.step.numel() == 1 else rule.step
    return (step[None, :, None] * rule.channel[:, None, None] * rule.state)[None]


def _note(rows: dict[str, dict[str, Any]], failures: dict[str, str], path: str, values: int, allowed: int) -> None:
    rows[path]["calls"] += 1
    rows[path]["values"] = max(rows[path]["values"], values)
    if values > allowed:
        failures[path] = f"{values} values, its bits allow {allowed}"


def _most_values(x: Tensor, groups: ScaleGroups) -> int:
    """The greatest number of different values of x in one group."""
    taking_part = groups.group >= 0
    if not taking_part.any():
        return 0
    # adding 0 makes one zero of the two that floats have
    bits = (x[taking_part].float() + 0.0).view(torch.int32).long() & 0xFFFFFFFF
    pairs = torch.unique((groups.group[taking_part].long() << 32) | bits)
    return int(torch.unique(pairs >> 32, return_counts=True)[1].max())
