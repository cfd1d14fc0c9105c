"""Putting a calibration on a model and taking it off, counting what it rounds there, and its form on disk."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import asdict
from hashlib import sha256
from statistics import fmean
from typing import Any

import torch
from torch import Tensor, nn

from ouro.quant.bits import FLOAT
from ouro.quant.header import read_header
from ouro.quant.modules import WHOLE
from ouro.quant.plan import is_rounded, make_method
from ouro.quant.quantizer import RECURRENT_SITES, WEIGHT_SITES, Quantizer
from ouro.taps import attach, detach, taps
from ouro.types import Calibration, QuantPlan
from ouro.vision import VisionModel

__all__ = [
    "add_counts", "attach_calibration", "check_weights", "counting", "counts", "detach", "effective_bits", "from_tensors",
    "to_tensors", "weights_digest",
]  # fmt: skip

FORMAT = "ouro calibration 1"
KEY = ".quantizer."
"""Between a tap's path and the name of its quantizer's tensor."""


def attach_calibration(model: VisionModel, calibration: Calibration) -> VisionModel:
    """Puts the calibration's quantizers on the model's taps, in place, and returns the model; `detach` undoes it.

    Raises:
        ValueError: the model has other weights than the calibrated one, other taps, or quantizers already.
    """
    plan = calibration.plan
    method, known = make_method(plan.method, plan.options), dict(taps(model))
    check_weights(model, calibration)
    quantizers = {}
    for path, spec in plan.sites.items():
        if path not in known:
            raise ValueError(f"{path!r} is no tap of this model; was it calibrated for another one?")
        if is_rounded(spec):
            quantizers[path] = method.build(known[path], spec, calibration.state.get(path, {}))
    device = model.device
    attach(model, {path: quantizer.to(device) for path, quantizer in quantizers.items()})
    return model


def check_weights(model: nn.Module, calibration: Calibration) -> None:
    """Refuses a float model that is not the one that a calibration was made for; one that does not say passes.

    Raises:
        ValueError: the model has other weights than the calibrated one.
    """
    wanted, actual = calibration.provenance.get("weights"), weights_digest(model)
    if wanted not in (None, actual):
        name = calibration.provenance.get("model", "a model")
        raise ValueError(
            f"this calibration is of {name} with weights {wanted}, the model has {actual}; calibrate again"
        )


def weights_digest(model: nn.Module) -> str:
    """First 16 hex digits of the SHA-256 of the model's own weights, quantizers left out."""
    foreign = tuple(path + KEY for path, tap in taps(model) if tap.quantizer is not None)
    total = sha256()
    for key, tensor in sorted(model.state_dict().items()):
        if not key.startswith(foreign):
            # as bytes, because numpy knows no bfloat16
            total.update(key.encode() + tensor.cpu().contiguous().reshape(-1).view(torch.uint8).numpy().tobytes())
    return total.hexdigest()[:16]


@contextmanager
def counting(model: nn.Module) -> Iterator[None]:
    """While it lasts, every quantizer counts what it rounds, from 0 on; `effective_bits` reads the counts."""
    quantizers = [quantizer for _, quantizer in _quantizers(model)]
    for quantizer in quantizers:
        quantizer.counts.zero_()
        quantizer.counting = True
    try:
        yield
    finally:
        for quantizer in quantizers:
            quantizer.counting = False


def counts(model: nn.Module) -> dict[str, Tensor]:
    """What every quantizer counted, by tap path; on the CPU."""
    return {path: quantizer.counts.clone().cpu() for path, quantizer in _quantizers(model)}


def add_counts(model: nn.Module, counted: Mapping[str, Tensor]) -> None:
    """Adds what a copy of the model counted over other images to what this one did."""
    for path, quantizer in _quantizers(model):
        quantizer.counts += counted[path].to(quantizer.counts.device)


def effective_bits(model: nn.Module) -> dict[str, float]:
    """Mean bits per element over what was counted: {"weights", "activations", "outlier_share" (of activations), "states"}.

    Weights or activations that the calibration leaves in floating point have 32, all of them together; single sites that
    are kept in floating point count nothing, so this is the mean of what is rounded. Channels that are kept apart count
    with their own bits, 32 in floating point. "states" is the mean width inside the recurrence, over its sites that are
    rounded there, 32 if none is.

    Raises:
        RuntimeError: nothing was counted.
    """
    sums = {"weights": torch.zeros(2, dtype=torch.float64), "activations": torch.zeros(2, dtype=torch.float64)}
    outliers, states = 0, []
    sites = {path: tap.site for path, tap in taps(model)}
    for path, quantizer in _quantizers(model):
        if sites[path] in RECURRENT_SITES:
            states.append(quantizer.spec.bits)
            continue
        small, large, kept = quantizer.counts.tolist()
        total = small + large + kept
        if total == 0:
            raise RuntimeError(f"the quantizer of {path!r} counted nothing; run images inside `with counting(model)`")
        bits = small * quantizer.spec.bits + large * (quantizer.spec.outlier_bits or 0)
        if kept:
            # every channel has as many elements
            bits += kept * fmean(width for _, width in quantizer.spec.channels)
        kind = "weights" if sites[path] in WEIGHT_SITES else "activations"
        sums[kind] += torch.tensor([bits, total], dtype=torch.float64)
        outliers += large
    means = {kind: (bits / count).item() if count else float(FLOAT) for kind, (bits, count) in sums.items()}
    share = outliers / max(1.0, sums["activations"][1].item())
    return {**means, "outlier_share": share, "states": sum(states) / len(states) if states else float(FLOAT)}


def to_tensors(calibration: Calibration) -> tuple[dict[str, Tensor], dict[str, str]]:
    """(tensors, metadata) of a safetensors file that holds the calibration."""
    tensors = {f"{path}{KEY}{name}": x for path, state in calibration.state.items() for name, x in state.items()}
    return tensors, {
        "format": FORMAT,
        "plan": json.dumps(_plain(calibration.plan)),
        "set_digest": calibration.set_digest,
        "provenance": json.dumps(dict(calibration.provenance)),
    }


def _plain(plan: QuantPlan) -> dict[str, Any]:
    """A plan as its header has it; sites without channels that are kept apart do not mention them."""
    plain = asdict(plan)
    for spec in plain["sites"].values():
        if not spec["channels"]:
            del spec["channels"]
    return plain


_MOST_AXES = 4
"""Axes of a convolution's weight, the largest there is."""


def from_tensors(tensors: Mapping[str, Tensor], metadata: Mapping[str, str]) -> Calibration:
    """The calibration that `to_tensors` took apart.

    Raises:
        ValueError: they are no calibration, or one that cannot be used.
    """
    if metadata.get("format") != FORMAT:
        raise ValueError(f"this is no quantized model: its format is {metadata.get('format')!r}, expected {FORMAT!r}")
    plan, set_digest, provenance = read_header(metadata)
    sites = plan.sites
    state: dict[str, dict[str, Tensor]] = {path: {} for path, spec in sites.items() if is_rounded(spec)}
    for key, tensor in tensors.items():
        path, _, name = key.rpartition(KEY)
        if path not in state:
            raise ValueError(f"tensor {key!r} belongs to no site of the plan; quantize again")
        check_dtype(key, tensor, torch.int64 if name in WHOLE else torch.float32)
        # a list of steps, but for a rounding, which is one of each of its weight's elements
        most = _MOST_AXES if name == "rounding" else 1
        if tensor.dim() > most:
            raise ValueError(f"tensor {key!r} has {tensor.dim()} axes, expected {most} at most; quantize again")
        if not tensor.isfinite().all() or (name in ("scale", "clip", "smooth", "kept") and not (tensor > 0).all()):
            raise ValueError(f"tensor {key!r} holds steps that cannot be used (NaN, infinite or not positive)")
        state[path][name] = tensor
    return Calibration(plan, state, set_digest, provenance)


def check_dtype(key: str, tensor: Tensor, *allowed: torch.dtype) -> None:
    """Refuses a tensor of a file that is stored as another type: its bits would be read as other numbers.

    Raises:
        ValueError: the message names the tensor.
    """
    if tensor.dtype not in allowed:
        given, *expected = (str(dtype).removeprefix("torch.") for dtype in (tensor.dtype, *allowed))
        raise ValueError(f"tensor {key!r} is stored as {given}, expected {' or '.join(expected)}; quantize again")


def _quantizers(model: nn.Module) -> Iterator[tuple[str, Quantizer]]:
    for path, tap in taps(model):
        if isinstance(tap.quantizer, Quantizer):
            yield path, tap.quantizer
