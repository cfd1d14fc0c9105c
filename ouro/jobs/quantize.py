"""Model + calibration set -> a quantized file, which `evaluate` and everything else takes in the model's place."""

from __future__ import annotations

import copy
import json
import logging
import os
import time
from collections.abc import Generator
from dataclasses import asdict, dataclass, replace
from typing import Any

import torch
from torch import Tensor

from ouro.data import normalize
from ouro.evaluate.images import open_data
from ouro.evaluate.sensitivity import GROUPINGS, divergence, staged
from ouro.evaluate.widths import damages_by_width
from ouro.gen.synthesize import finish
from ouro.jobs.pack import open_packed, packed_values
from ouro.jobs.provenance import run_info
from ouro.jobs.synthesize import SynthesisSpec, synthesize
from ouro.models import create_model, variant
from ouro.quant.apply import (
    attach_calibration,
    counting,
    effective_bits,
    from_tensors,
    to_tensors,
    weights_digest,
)
from ouro.quant.audit import audit
from ouro.quant.calibrate import CHUNK, calibrating, check_images
from ouro.quant.packed.files import FLOATS, PACKED_FORMAT, packed_tensors
from ouro.quant.packed.lower import lower
from ouro.quant.plan import make_plan
from ouro.quant.search.budget import WIDTHS, Allocation, allocate, check_budget
from ouro.store import Store, check_writable, read_tensors, write_tensors
from ouro.types import Calibration, CalibrationSet, ModelInfo, Progress, Report
from ouro.vision import VisionModel

_AUDITED = 2
_log = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class QuantizeSpec:
    """What a quantized model depends on; `options` go to the method, `calib` is read by `calibration_set`.

    out: file to write; by default tensors.safetensors in the run's folder.
    budget: mean bits, of weights and of activations alike, that a search may spend: every site, or group of the same
        kind in a block (`by`), outside the recurrence gets one of `widths`. None: `bits` says it all. What `bits` leave
        in floating point stays there; outliers have their own bits, beyond the budget.
    packed: write integer codes in place of the weights, see `ouro.quant.packed.lower`; `floats` (fp32 or fp16) is how
        parameters that stay in floating point are stored there.
    """

    model: str
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


def quantize(spec: QuantizeSpec, *, root: str | os.PathLike[str] | None = None) -> Generator[Progress, None, Report]:
    """Calibrates, writes the file, and audits what was written.

    The report has {model, method, bits, scope, calib, n, effective_bits, path, bytes, seconds, seed,
    audit: {sites, sealed}}; effective bits are measured on calibration images. With a budget it also has {budget,
    mean_bits: {weights, activations}, predicted_kl, measured_kl}: bits as chosen, the sum of the sites' damages alone,
    and the damage of the model that came out, in nats on the first 32 calibration images. A packed one has {packed:
    {ratio, parts, load_seconds, agreement, max_error}}, see `ouro.jobs.pack.packed_values`.

    Args:
        root: where runs are stored; `ouro.store.default_root()` by default.

    Raises:
        ValueError: unknown names, bits or options, a budget below the smallest width, or a calibration set that does
            not fit the model.
        WriteError: the file cannot be written.
    """
    started = time.perf_counter()
    if spec.out is not None:
        check_writable(spec.out)
    if spec.floats not in FLOATS:
        raise ValueError(f"floats is {spec.floats!r}; known: {', '.join(FLOATS)}")
    if spec.budget is not None:
        check_budget(spec.budget, spec.widths)
        if spec.by not in GROUPINGS:
            raise ValueError(f"by is {spec.by!r}; known: {', '.join(GROUPINGS)}")
    model = create_model(spec.model, pretrained=True)
    options = dict(spec.options)
    make_plan(model, spec.method, spec.bits, spec.scope, spec.seed, options)
    yield Progress(0, len(model.blocks()), f"calibration set {spec.calib}")
    images = calibration_set(spec.calib, spec.model, model.info, spec.seed, root=root).images
    run = Store(root).open(asdict(spec) | {"out": None, "options": options, "weights": weights_digest(model)})
    how: dict[str, Any] = {"method": spec.method, "bits": spec.bits, "scope": spec.scope, "seed": spec.seed, **options}
    chosen: Allocation | None = None
    if spec.budget is None:
        calibration = yield from calibrating(model, images, **how)
    else:
        search = damages_by_width(model, images[:CHUNK], spec.widths, by=spec.by, **how)
        items = yield from staged(search, 0, 0.85, f"budget of {spec.budget:g} bits")
        chosen = allocate(items, spec.budget)
        last = calibrating(model, images, site_bits=chosen.site_bits, **how)
        calibration = yield from staged(last, 0.85, 1, "calibration")
    calibration = replace(
        calibration, provenance={**calibration.provenance, "calib": spec.calib, "budget": spec.budget}
    )
    tensors, metadata = to_tensors(calibration)
    simulated: VisionModel | None = None
    if spec.packed:
        simulated = attach_calibration(copy.deepcopy(model), calibration)
        tensors, metadata = packed_tensors(lower(simulated), calibration, spec.floats)
    path = run.save_tensors(tensors, metadata=metadata)
    if spec.out is not None:
        path = write_tensors(spec.out, tensors, metadata)
    # from the file, so that what is audited is what others will load
    quantized, _ = load_quantized(path)
    with torch.no_grad(), counting(quantized):
        logits = quantized(images[:CHUNK])
    # a packed model never calls the quantizers whose codes it multiplies
    found = audit(simulated or quantized, images[:_AUDITED], calibration.plan)
    for site, failure in found["failures"].items():
        _log.warning("%s %s", site, failure)
    values = {
        "model": spec.model,
        "method": spec.method,
        "bits": calibration.plan.bits,
        "scope": spec.scope,
        "calib": spec.calib,
        "n": len(images),
        "effective_bits": effective_bits(quantized),
        "path": str(path),
        "bytes": path.stat().st_size,
        "seconds": round(time.perf_counter() - started, 2),
        "seed": spec.seed,
        "audit": {"sites": found["sites"], "sealed": found["sealed"]},
    }
    if simulated is not None:
        values["packed"] = packed_values(model, simulated, logits, images[:CHUNK], path)
    if chosen is not None:
        with torch.no_grad():
            measured = divergence(model(images[:CHUNK]), logits)
        values |= {"budget": spec.budget, "mean_bits": dict(chosen.mean_bits)}
        values |= {"predicted_kl": chosen.predicted, "measured_kl": measured}
    run.save_report(values)
    blocks = calibration.provenance["blocks"]
    arrays = {"block_error": torch.tensor([block["error"] for block in blocks])}
    if all(block["losses"] for block in blocks):
        arrays["losses"] = torch.tensor([block["losses"] for block in blocks])
    return Report("quantize", values, run_info(spec.seed, started), arrays)


def load_quantized(path: str | os.PathLike[str]) -> tuple[VisionModel, Calibration]:
    """The quantized model in a file that `quantize` wrote, and its calibration.

    Raises:
        FileNotFoundError: there is no such file.
        ValueError: it is truncated, no quantized model, or one of a model that is not known (or not the same) here.
    """
    try:
        tensors, metadata = read_tensors(path)
        if metadata.get("format") == PACKED_FORMAT:
            return open_packed(tensors, metadata)
        calibration = from_tensors(tensors, metadata)
        model = create_model(str(calibration.provenance.get("model")), pretrained=True)
        return attach_calibration(model, calibration), calibration
    except ValueError as error:
        raise ValueError(f"cannot load {path}: {error}") from error


def calibration_set(
    calib: str, name: str, info: ModelInfo, seed: int, *, root: str | os.PathLike[str] | None = None
) -> CalibrationSet:
    """Images in model space, from what `calib` says.

    "real:N" or "real:N:DATA": N images drawn by the seed from the calibration split of the data set that the model
    was trained on, or of DATA ("scenes", "folder:PATH"). "noise" or "noise:N": Gaussian, 128 if N is left out.
    "synthetic:N": what `ouro generate` makes for this seed, generated if it is not among the runs in `root`. Anything
    else is the path of a synthesized set.

    Raises:
        FileNotFoundError: no such file.
        ValueError: a count or a set that cannot be used; images that do not fit the model.
    """
    kind, _, rest = calib.partition(":")
    if kind == "real":
        count, _, data = rest.partition(":")
        images = _real_images(_count(calib, count), data or variant(name).data, name, info, seed)
    elif kind == "noise":
        generator = torch.Generator().manual_seed(seed)
        images = torch.randn(_count(calib, rest or "128"), *info.input_size, generator=generator)
    elif kind == "synthetic":
        made = finish(synthesize(SynthesisSpec(name, num=_count(calib, rest), seed=seed), root=root))
        return CalibrationSet(made.arrays["images"], made.arrays["labels"], {"calib": calib, "seed": seed})
    else:
        return _stored_set(calib, name, info)
    return CalibrationSet(images, None, {"calib": calib, "seed": seed})


def _count(calib: str, text: str) -> int:
    if not text.isdecimal() or int(text) < 1:
        raise ValueError(
            f"calibration set {calib!r} lacks a count; write real:128, noise:128, synthetic:128 or the path of a set"
        )
    return int(text)


def _real_images(count: int, data: str, name: str, info: ModelInfo, seed: int) -> Tensor:
    dataset = open_data(data, "calib", name, info)
    if count > len(dataset):
        raise ValueError(f"{count} calibration images were asked for, {data} has {len(dataset)}")
    chosen = torch.randperm(len(dataset), generator=torch.Generator().manual_seed(seed))[:count].tolist()
    pixels = torch.cat([dataset.images(index, 1)[0] for index in chosen])
    return normalize(pixels, info.mean, info.std)


def _stored_set(path: str, name: str, info: ModelInfo) -> CalibrationSet:
    if not os.path.isfile(path):
        raise FileNotFoundError(f"there is no calibration set {path!r}; write real:N, noise:N or the path of a set")
    tensors, metadata = read_tensors(path)
    if "images" not in tensors:
        raise ValueError(f"{path} holds no images but {', '.join(tensors) or 'nothing'}; is it a calibration set?")
    images = tensors["images"]
    # images that one model dreamed up in its own pixel scale say little about another
    made_by = json.loads(metadata.get("spec", "{}")).get("model", name)
    if made_by != name:
        sizes = f"images {tuple(images.shape[1:])}, {name} takes {info.input_size}"
        raise ValueError(f"{path} was made by {made_by} for itself, not for {name} ({sizes}); generate one with {name}")
    try:
        check_images(images, info.input_size)
    except ValueError as error:
        raise ValueError(f"{path}: {error}") from error
    return CalibrationSet(images.float(), tensors.get("labels"), {"calib": path, **metadata})
