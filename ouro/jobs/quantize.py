"""Model + calibration set -> a quantized file, which `evaluate` and everything else takes in the model's place."""

from __future__ import annotations

import copy
import logging
import os
import time
from collections.abc import Generator, Sequence
from dataclasses import dataclass, field, fields, replace
from typing import Any

import torch

from ouro.evaluate.sensitivity import GROUPINGS, divergence
from ouro.evaluate.widths import damages_by_width
from ouro.jobs.calibration import calibration_set
from ouro.jobs.inputs import identity, open_model, open_quantized, provenance_of, source_of
from ouro.jobs.pack import packed_values
from ouro.jobs.provenance import run_info
from ouro.progress import staged
from ouro.quant.apply import (
    attach_calibration,
    counting,
    effective_bits,
    to_tensors,
)
from ouro.quant.audit import audit
from ouro.quant.calibrate import CHUNK, calibrating, check_channels
from ouro.quant.packed.files import FLOATS, packed_tensors
from ouro.quant.packed.lower import lower
from ouro.quant.plan import Rule, kept_channels, kept_sites, make_plan, scope_sites, split_rule
from ouro.quant.search.budget import WIDTHS, Allocation, allocate, check_budget
from ouro.store import Store, check_writable, write_tensors
from ouro.tasks import task_of
from ouro.types import ModelSource, Progress, Report
from ouro.vision import VisionModel

_AUDITED = 2
_PART_OF = {"widths": "budget", "by": "budget", "floats": "packed"}
"""Field of a spec -> the field without which it says nothing."""
_log = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class QuantizeSpec:
    """What a quantized model depends on; `options` go to the method, `calib` is read by `ouro.jobs.calibration.calibration_set`.

    out: file to write; by default tensors.safetensors in the run's folder.
    budget: mean bits, of weights and of activations alike, that a search may spend: every site, or group of the same
        kind in a block (`by`), outside the recurrence gets one of `widths`. None: `bits` says it all. What `bits` leave
        in floating point stays there; outliers have their own bits, beyond the budget.
    packed: write integer codes in place of the weights, see `ouro.quant.packed.lower`; `floats` (fp32 or fp16) is how
        parameters that stay in floating point are stored there.
    keep: (regular expression, bits) of sites that get other bits than `bits` says, 32 to leave them in floating point;
        it is looked for in the paths of taps, and of two that are found in one the last counts. With channels behind it,
        as in "in_proj.tap_in:61,17", it is about these channels of activations alone, which the method then leaves out.
    """

    model: ModelSource
    method: str = "ouro"
    bits: str = "w4a4o8"
    calib: str = "real:128"
    scope: str = "lin"
    seed: int = 0
    out: str | None = None
    options: tuple[tuple[str, Any], ...] = ()
    budget: float | None = None
    widths: tuple[int, ...] = WIDTHS
    by: str = "site"
    packed: bool = False
    floats: str = "fp32"
    device: str = "auto"
    keep: tuple[tuple[str, int], ...] = field(default=(), metadata={"late": True})

    def __post_init__(self) -> None:
        object.__setattr__(self, "model", source_of(self.model))


def quantize(spec: QuantizeSpec, *, root: str | os.PathLike[str] | None = None) -> Generator[Progress, None, Report]:
    """Calibrates, writes the file, and audits what was written.

    The report has {model, method, bits, scope, calib, n, effective_bits, path, bytes, seconds, seed,
    audit: {sites, sealed}}; effective bits are measured on calibration images. With a budget it also has {budget,
    mean_bits: {weights, activations}, predicted_kl, measured_kl}: bits as chosen, the sum of the sites' damages alone,
    and the damage of the model that came out, in nats on the first 32 calibration images. With `keep` it has {keep: [{sites,
    bits, count}]}, count of the sites that an expression is found in, and channels where it names some. A packed one has {packed:
    {ratio, parts, load_seconds, agreement, max_error}}, see `ouro.jobs.pack.packed_values`.

    Args:
        root: where runs are stored; `ouro.store.default_root()` by default.

    Raises:
        ValueError: unknown names, bits or options, settings of a budget or of packing without these, a budget below the
            smallest width or above the largest, channels that are not there, or a calibration set that does not fit the
            model.
        WriteError: the file cannot be written.
    """
    started = time.perf_counter()
    if spec.out is not None:
        check_writable(spec.out)
    if spec.floats not in FLOATS:
        raise ValueError(f"floats is {spec.floats!r}; known: {', '.join(FLOATS)}")
    _check_idle(spec)
    if spec.budget is not None:
        check_budget(spec.budget, spec.widths)
        if spec.keep:
            raise ValueError("budget and keep both choose the bits of single sites; give one of them")
        if spec.by not in GROUPINGS:
            raise ValueError(f"by is {spec.by!r}; known: {', '.join(GROUPINGS)}")
    model = open_model(spec.model, spec.device)
    options = dict(spec.options)
    there = scope_sites(model, spec.scope)
    kept, channels = kept_sites(there, spec.keep), kept_channels(there, spec.keep)
    _, plan = make_plan(model, spec.method, spec.bits, spec.scope, spec.seed, options, kept, channels)
    if channels:
        # before images are made, which can take long
        blank = torch.zeros(1, *model.info.input_size), *task_of(model).conditions(model.info, 1, 0)
        check_channels(model, plan, *blank)
    yield Progress(0, len(model.blocks()), f"calibration set {spec.calib}")
    made = calibration_set(spec.calib, spec.model, model, spec.seed, root=root, device=spec.device)
    images, conditions = made.images, made.conditions
    run = Store(root).open(identity(spec, model, job="quantize", options=options), needed=spec.out is None)
    how: dict[str, Any] = {"method": spec.method, "bits": spec.bits, "scope": spec.scope, "seed": spec.seed, **options}
    chosen: Allocation | None = None
    if spec.budget is None:
        calibration = yield from calibrating(
            model, images, conditions=conditions, site_bits=kept, channels=channels, **how
        )
    else:
        few = [tensor[:CHUNK] for tensor in conditions]
        search = damages_by_width(model, images[:CHUNK], spec.widths, conditions=few, by=spec.by, **how)
        items = yield from staged(search, 0, 0.85, f"budget of {spec.budget:g} bits")
        chosen = allocate(items, spec.budget)
        last = calibrating(model, images, conditions=conditions, site_bits=chosen.site_bits, **how)
        calibration = yield from staged(last, 0.85, 1, "calibration")
    made_from = {"model": spec.model.name, "source": provenance_of(spec.model, model)}
    known = {**calibration.provenance, **made_from, "calib": spec.calib, "budget": spec.budget}
    calibration = replace(calibration, provenance=known)
    tensors, metadata = to_tensors(calibration)
    simulated: VisionModel | None = None
    if spec.packed:
        simulated = attach_calibration(copy.deepcopy(model), calibration)
        tensors, metadata = packed_tensors(lower(simulated), calibration, spec.floats)
    path = run.save_tensors(tensors, metadata=metadata)
    if spec.out is not None:
        path = write_tensors(spec.out, tensors, metadata)
    # from the file, so that what is audited is what others will load
    quantized, _, _ = open_quantized(path, spec.model.weights, spec.device)
    shown = [tensor[:CHUNK].to(model.device) for tensor in (images, *conditions)]
    with torch.no_grad(), counting(quantized):
        logits = quantized(*shown)
    # a packed model never calls the quantizers whose codes it multiplies
    verdict = audit(simulated or quantized, shown[0][:_AUDITED], calibration.plan)
    for site, failure in verdict["failures"].items():
        _log.warning("%s %s", site, failure)
    values = {
        "model": spec.model.name,
        "method": spec.method,
        "bits": calibration.plan.bits,
        "scope": spec.scope,
        "calib": spec.calib,
        "n": calibration.provenance["images"],
        "effective_bits": effective_bits(quantized),
        "path": str(path),
        "bytes": path.stat().st_size,
        "seconds": round(time.perf_counter() - started, 2),
        "seed": spec.seed,
        "audit": {"sites": verdict["sites"], "sealed": verdict["sealed"]},
    }
    if spec.keep:
        values["keep"] = [_told(there, rule) for rule in spec.keep]
    if simulated is not None:
        values["packed"] = packed_values(model, simulated, logits, shown, path)
    if chosen is not None:
        with torch.no_grad():
            measured = divergence(task_of(model), model(*shown), logits)
        values |= {"budget": spec.budget, "mean_bits": dict(chosen.mean_bits)}
        values |= {"predicted_kl": chosen.predicted, "measured_kl": measured}
    run.save_report(values)
    blocks = calibration.provenance["blocks"]
    arrays = {"block_error": torch.tensor([block["error"] for block in blocks])}
    if all(block["losses"] for block in blocks):
        arrays["losses"] = torch.tensor([block["losses"] for block in blocks])
    return Report("quantize", values, run_info(spec.seed, started, model.device), arrays)


def _check_idle(spec: QuantizeSpec) -> None:
    """Refuses a setting that would do nothing, since what it is a part of was not asked for.

    Raises:
        ValueError: as said.
    """
    usual = {each.name: each.default for each in fields(spec)}
    for name, whole in _PART_OF.items():
        value = getattr(spec, name)
        if value != usual[name] and getattr(spec, whole) is usual[whole]:
            given = ",".join(map(str, value)) if isinstance(value, tuple) else repr(value)
            raise ValueError(
                f"{name} is {given}, which does nothing without {whole}; give {whole} too, or leave {name} out"
            )


def _told(sites: Sequence[str], rule: Rule) -> dict[str, Any]:
    """A rule of `keep` as the report has it."""
    expression, channels = split_rule(rule[0])
    told = {"sites": expression, "bits": rule[1], "count": len(kept_sites(sites, [(expression, rule[1])]))}
    return told | ({"channels": list(channels)} if channels else {})
