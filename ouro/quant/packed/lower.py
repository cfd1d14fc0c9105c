"""A model with a calibration attached -> one whose linear layers run on packed integer codes.

Every linear layer whose input and weight are both rounded becomes a `PackedLinear`. Other rounded weights are kept as
packed codes too and are turned into floats as they are used. Everything else stays attached as it was: the packed
model puts out what the simulated one does, but for the rounding of float32.
"""

from __future__ import annotations

import copy
from typing import cast

import torch
from torch import nn

from ouro.quant.apply import KEY
from ouro.quant.modules import ChannelQuantizer
from ouro.quant.packed.codes import Encoding
from ouro.quant.packed.modules import PackedLinear, PackedWeight, encoding_of
from ouro.quant.packed.storage import pack_codes
from ouro.quant.quantizer import WEIGHT_SITES, Quantizer
from ouro.taps import Tap, taps
from ouro.vision import VisionModel


def lower(model: VisionModel) -> VisionModel:
    """A packed copy of a model with a calibration attached; the model itself stays as it is.

    Raises:
        ValueError: no quantizer is attached, the model is packed already, or a zero point is no code.
    """
    attached = {path: tap for path, tap in taps(model) if isinstance(tap.quantizer, Quantizer)}
    if not attached:
        raise ValueError(
            "the model has no quantizers, so there is nothing to pack; attach_calibration(model, ...) first"
        )
    if is_packed(model):
        raise ValueError("the model is packed already; lower the one that attach_calibration made")
    packed = copy.deepcopy(model).eval().requires_grad_(False)
    for path, tap in attached.items():
        weight = _packed_weight(packed, path) if tap.site in WEIGHT_SITES else None
        if weight is not None:
            install(packed, path, weight)
    return packed


def is_packed(model: nn.Module) -> bool:
    """Whether `lower`, or `ouro.quant.packed.files.restore`, made it."""
    return any(isinstance(tap.quantizer, PackedWeight) for _, tap in taps(model))


def _packed_weight(model: nn.Module, path: str) -> PackedWeight | None:
    """The weight with this tap as codes; None where it has no step per output channel, or they mean nothing alone."""
    tap = cast(Tap, model.get_submodule(path))
    owner = model.get_submodule(path.rpartition(".")[0])
    quantizer = tap.quantizer
    if not isinstance(quantizer, ChannelQuantizer):
        return None
    if (tap_in := _input_tap(owner)) is not None:
        other = cast(Quantizer, tap_in.quantizer)
        if not _same_basis(quantizer, other):
            return None
        _check_zero(path, encoding_of(other))
    elif quantizer.spec.rotate or getattr(quantizer, "smooth", None) is not None:
        return None
    weight = parameter_of(model, path)[1]
    with torch.no_grad():
        codes = quantizer.codes(quantizer.inside(weight)).flatten(1)
    packed = pack_codes(codes, quantizer.spec.bits)
    return PackedWeight(tap, quantizer.spec, packed, quantizer.scale.detach(), weight.shape).to(weight.device)


def install(model: nn.Module, path: str, weight: PackedWeight) -> None:
    """Puts the codes on the weight's tap; its layer becomes a packed one if it can, else its weight is emptied."""
    place = path.rpartition(".")[0]
    parent, _, name = place.rpartition(".")
    owner, tap = model.get_submodule(place), cast(Tap, model.get_submodule(path))
    tap.quantizer = weight
    if (tap_in := _input_tap(owner)) is not None:
        bias = cast("nn.Parameter | None", owner.bias)
        setattr(model.get_submodule(parent), name, PackedLinear(tap_in, tap, bias))
        return
    key, parameter = parameter_of(model, path)
    holder, _, last = key.rpartition(".")
    # the shape without the memory
    setattr(
        model.get_submodule(holder),
        last,
        nn.Parameter(torch.zeros((), device=parameter.device).expand(parameter.shape), requires_grad=False),
    )


def _input_tap(owner: nn.Module) -> Tap | None:
    """The tap on the input of a linear layer if that can be encoded; None for every other module."""
    tap = getattr(owner, "tap_in", None)
    if isinstance(owner, nn.Linear) and isinstance(tap, Tap) and encoding_of(tap.quantizer) is not None:
        return tap
    return None


def parameter_of(model: nn.Module, path: str) -> tuple[str, nn.Parameter]:
    """(key, parameter) of the weight that passes this tap: the one matrix or kernel of the tap's owner."""
    place = path.rpartition(".")[0]
    weights = {
        f"{place}.{key}": x
        for key, x in model.get_submodule(place).named_parameters()
        if x.dim() > 1 and KEY not in f".{key}"
    }
    assert len(weights) == 1, f"{place} has {len(weights)} weights, its tap stands for one"
    return next(iter(weights.items()))


def _same_basis(one: Quantizer, other: Quantizer) -> bool:
    first, second = (getattr(quantizer, "smooth", None) for quantizer in (one, other))
    if (first is None) != (second is None) or one.spec.rotate != other.spec.rotate:
        return False
    return first is None or second is None or torch.equal(first, second)


def _check_zero(path: str, encoding: Encoding | None) -> None:
    """A zero point outside the grid would not fit the integers; methods make none."""
    assert encoding is not None
    if encoding.zero is not None:
        inside = (encoding.zero >= encoding.grid.low) & (encoding.zero <= encoding.grid.high)
        if not (inside & (encoding.zero == encoding.zero.round())).all():
            raise ValueError(
                f"the input of {path!r} has zero points outside {encoding.grid.low}..{encoding.grid.high}, or not whole; "
                "calibrate it with one of the registered methods"
            )
