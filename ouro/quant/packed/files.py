"""The file of a packed model: codes, steps and what stays in floating point; and the way back to a model."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace

import torch
from torch import Tensor, nn

from ouro.quant.apply import FORMAT, KEY, attach_calibration, check_dtype, from_tensors, to_tensors
from ouro.quant.packed.lower import install, is_packed, parameter_of
from ouro.quant.packed.modules import PackedLinear, PackedWeight
from ouro.quant.packed.storage import unpack_codes
from ouro.taps import taps
from ouro.types import Calibration
from ouro.vision import VisionModel

PACKED_FORMAT = "ouro packed 1"
FLOATS = {"fp32": torch.float32, "fp16": torch.float16}
"""How what stays in floating point may be stored; fp32 is exact."""
_CODES = f"{KEY}packed"


def packed_tensors(
    model: VisionModel, calibration: Calibration, floats: str = "fp32"
) -> tuple[dict[str, Tensor], dict[str, str]]:
    """(tensors, metadata) of a safetensors file from which `restore` makes the packed model again; on the CPU.

    Args:
        calibration: the one that was attached; its plan and provenance go into the header.
        floats: how parameters that stay in floating point are stored, a key of `FLOATS`; steps are always fp32.

    Raises:
        ValueError: the model is not packed, or floats is unknown or too narrow for a parameter.
    """
    if not is_packed(model):
        raise ValueError("the model is not packed; lower(model) first")
    if floats not in FLOATS:
        raise ValueError(f"floats is {floats!r}; known: {', '.join(FLOATS)}")
    hollow = {parameter_of(model, path)[0] for path in _packed_paths(model) if not _is_integer(model, path)}
    tensors = {}
    for key, tensor in model.state_dict().items():
        if key in hollow:
            continue
        stored = (tensor.to(FLOATS[floats]) if tensor.dtype == torch.float32 and KEY not in key else tensor).cpu()
        if not stored.isfinite().all():
            raise ValueError(f"{key!r} holds numbers that {floats} cannot; store it as fp32")
        tensors[key] = stored
    return tensors, to_tensors(calibration)[1] | {"format": PACKED_FORMAT, "floats": floats}


def restore(
    model: VisionModel, tensors: Mapping[str, Tensor], metadata: Mapping[str, str]
) -> tuple[VisionModel, Calibration]:
    """Makes a fresh model, whose weights do not matter, the packed one that `packed_tensors` took apart; in place.

    Raises:
        ValueError: they are no packed model, a damaged one, or that of another model.
    """
    if metadata.get("format") != PACKED_FORMAT:
        given = metadata.get("format")
        raise ValueError(f"this is no packed model: its format is {given!r}, expected {PACKED_FORMAT!r}")
    floats = metadata.get("floats")
    if floats not in FLOATS:
        raise ValueError(f"floats in its header is {floats!r}, expected {' or '.join(FLOATS)}; quantize again")
    sites = [key.removesuffix(_CODES) for key in tensors if key.endswith(_CODES)]
    foreign = tuple(f"{path}{KEY}" for path in sites)
    steps = {key: x for key, x in tensors.items() if KEY in key and not key.startswith(foreign)}
    calibration = from_tensors(steps, {**metadata, "format": FORMAT})
    plan, known, device = calibration.plan, dict(taps(model)), model.device
    for path in sites:
        if path not in known or path not in plan.sites:
            raise ValueError(f"{path!r} is no weight of {model.info.name}; was it packed from another model?")
    rest = {path: spec for path, spec in plan.sites.items() if path not in sites}
    attach_calibration(model, replace(calibration, plan=replace(plan, sites=rest), provenance={}))
    for path in sites:
        shape = parameter_of(model, path)[1].shape
        packed, scale = tensors[path + _CODES], tensors.get(f"{path}{KEY}scale")
        if scale is not None:
            check_dtype(f"{path}{KEY}scale", scale, torch.float32)
        if scale is None or scale.shape != shape[:1] or not (scale.isfinite() & (scale > 0)).all():
            raise ValueError(f"{path!r} lacks {shape[0]} steps that can be used; quantize again")
        if not packed.dim():
            raise ValueError(f"{path!r} has a single code in place of a row for each of {shape[0]} output channels")
        if len(packed) != shape[0]:
            raise ValueError(f"{path!r} has codes for {len(packed)} output channels, the model {shape[0]}")
        unpack_codes(packed, shape[1:].numel())
        install(model, path, PackedWeight(known[path], plan.sites[path], packed, scale, shape).to(device))
    hollow = {parameter_of(model, path)[0] for path in sites if not _is_integer(model, path)}
    own = {key: x for key, x in model.state_dict().items() if key not in hollow}
    for key in sorted(own.keys() ^ tensors.keys()):
        where = "file" if key in own else "model"
        raise ValueError(f"the {where} lacks {key!r}; was it packed from another model than {model.info.name}?")
    for key, x in own.items():
        check_dtype(key, tensors[key], FLOATS[floats] if x.dtype == torch.float32 and KEY not in key else x.dtype)
        if tensors[key].shape != x.shape:
            raise ValueError(f"{key!r} is {tuple(tensors[key].shape)} in the file, {tuple(x.shape)} in the model")
        if not tensors[key].isfinite().all():
            raise ValueError(f"{key!r} holds NaN or infinity; quantize again")
    model.load_state_dict(dict(tensors), strict=False)
    return model.eval().requires_grad_(False), calibration


def weighs(tensors: Mapping[str, Tensor]) -> dict[str, int]:
    """Bytes of a packed file's tensors by kind: {"codes", "steps" (of weights and everything else), "floats"}."""
    total = {"codes": 0, "steps": 0, "floats": 0}
    for key, tensor in tensors.items():
        kind = "codes" if key.endswith(_CODES) else "steps" if KEY in key else "floats"
        total[kind] += tensor.numel() * tensor.element_size()
    return total


def _packed_paths(model: nn.Module) -> list[str]:
    return [path for path, tap in taps(model) if isinstance(tap.quantizer, PackedWeight)]


def _is_integer(model: nn.Module, path: str) -> bool:
    """Whether the weight with this tap is multiplied as codes."""
    return isinstance(model.get_submodule(path.rpartition(".")[0]), PackedLinear)
