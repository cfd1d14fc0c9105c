"""A model with a calibration attached -> one whose linear layers run on packed integer codes, and its file.

Every linear layer whose input and weight are both rounded becomes a `PackedLinear`. Other rounded weights are kept as
packed codes too and are turned into floats as they are used. Everything else stays attached as it was: the packed
model puts out what the simulated one does, but for the rounding of float32.
"""

from __future__ import annotations

import copy
from collections.abc import Mapping
from dataclasses import replace
from typing import cast

import torch
from torch import Tensor, nn

from ouro.quant import integer
from ouro.quant.apply import FORMAT, attach_calibration, from_tensors, to_tensors
from ouro.quant.grid import asymmetric
from ouro.quant.integer import Encoding
from ouro.quant.modules import (
    WEIGHT_SITES,
    ChannelQuantizer,
    ClusterQuantizer,
    Quantizer,
    StepQuantizer,
    TensorQuantizer,
    TokenQuantizer,
)
from ouro.quant.pack import pack_codes, unpack_codes
from ouro.quant.rotation import rotation
from ouro.taps import Tap, taps
from ouro.types import Calibration, QuantSpec
from ouro.vision import VisionModel

PACKED_FORMAT = "ouro packed 1"
FLOATS = {"fp32": torch.float32, "fp16": torch.float16}
"""How what stays in floating point may be stored; fp32 is exact."""
_KEY = ".quantizer."
_CODES = f"{_KEY}packed"


class PackedWeight(Quantizer):
    """Sits on a weight's tap: `packed` holds the codes (see `ouro.quant.pack`), `scale` [o] the steps.

    Called with anything it returns the weight of `shape` that they stand for.
    """

    learnable = ()
    packed: Tensor

    def __init__(self, tap: Tap, spec: QuantSpec, packed: Tensor, scale: Tensor, shape: torch.Size) -> None:
        # codes of a smoothed or rotated weight are what they are: the way there lies behind them
        super().__init__(tap, replace(spec, granularity="channel", rotate=False), {"packed": packed, "scale": scale})
        self.shape = shape
        self._totals: tuple[tuple[int, int], Tensor] | None = None

    def rounded(self, x: Tensor) -> Tensor:
        self.tally()
        return (self.codes() * self.scale[:, None]).view(self.shape)

    def codes(self) -> Tensor:
        """int8 [o c]; a view of what is stored where that has 8 bits."""
        columns = self.shape.numel() // self.shape[0]
        if self.packed.dtype == torch.uint8 and self.packed.device.type == "cpu":
            return integer.unpack(self.packed, columns)
        return unpack_codes(self.packed, columns)

    def totals(self, codes: Tensor) -> Tensor:
        """The sum of the codes of each output channel, int32 [o]; kept, because the codes hardly ever change."""
        state = self.packed.data_ptr(), self.packed._version
        if self._totals is None or self._totals[0] != state:
            self._totals = state, codes.sum(1, dtype=torch.int32)
        return self._totals[1]

    def tally(self) -> None:
        """Counts the weight, if somebody asked for that."""
        if self.counting:
            self.count(torch.zeros(()).expand(self.shape))


class PackedLinear(nn.Module):
    """A linear layer on integers: the input's quantizer on `tap_in` makes codes, the weight's on `tap_w` holds them.

    Neither is called: the codes of both are multiplied as they are, see `ouro.quant.integer`. There is no gradient.
    """

    def __init__(self, tap_in: Tap, tap_w: Tap, bias: nn.Parameter | None) -> None:
        super().__init__()
        self.tap_in, self.tap_w, self.bias = tap_in, tap_w, bias

    def forward(self, x: Tensor) -> Tensor:
        if x.requires_grad and torch.is_grad_enabled():
            raise ValueError("a packed model has no gradients; use the simulated one (attach_calibration) for them")
        quantizer, weight = self._quantizers()
        encoding = encoding_of(quantizer)
        assert encoding is not None, "lower() only packs what can be encoded"
        with torch.no_grad():
            inside = quantizer.inside(x)
            encoded = integer.encode(quantizer.rows(inside), encoding)
            codes = weight.codes()
            y = integer.linear(encoded, codes, weight.scale, self.bias, weight.totals(codes))
            if quantizer.counting:
                quantizer.count(inside, encoded.listed)
            weight.tally()
            if self.tap_in.recorded:
                values = quantizer.rows.back(integer.decode(encoded), inside)
                self.tap_in.observe(quantizer.outside(values, x))
            if self.tap_w.recorded:
                self.tap_w.observe(self.weight)
        return y.view(*x.shape[:-1], len(weight.scale)).to(x.dtype)

    @property
    def weight(self) -> Tensor:
        """The rounded weight [o c], in its own basis."""
        quantizer, packed = self._quantizers()
        weight = packed.rounded(packed.scale)
        if quantizer.spec.rotate:
            weight = weight @ rotation(weight.shape[1]).to(weight).T
        smooth = getattr(quantizer, "smooth", None)
        return weight if smooth is None else weight / smooth

    def extra_repr(self) -> str:
        outputs, inputs = self._quantizers()[1].shape
        return f"in_features={inputs}, out_features={outputs}, bias={self.bias is not None}"

    def _quantizers(self) -> tuple[Quantizer, PackedWeight]:
        return cast(Quantizer, self.tap_in.quantizer), cast(PackedWeight, self.tap_w.quantizer)


def encoding_of(quantizer: nn.Module | None) -> Encoding | None:
    """How the quantizer of a linear layer's input makes codes; None where no step is common to a whole row."""
    if isinstance(quantizer, TokenQuantizer):
        return Encoding(asymmetric(quantizer.spec.bits))
    if isinstance(quantizer, TensorQuantizer):
        return Encoding(quantizer.grid, quantizer.scale, None if quantizer.spec.signed else quantizer.zero)
    if isinstance(quantizer, StepQuantizer):
        if quantizer.rule is not None and quantizer.rule.per_channel:
            return None
        zero, theta = None if quantizer.spec.signed else quantizer.zero, getattr(quantizer, "theta", None)
        return Encoding(quantizer.grid, quantizer.scale, zero, quantizer.rule, theta)
    if isinstance(quantizer, ClusterQuantizer) and quantizer.spec.granularity == "step clusters":
        return Encoding(quantizer.grid, quantizer.scale[quantizer.labels])
    return None


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
            _install(packed, path, weight)
    return packed


def is_packed(model: nn.Module) -> bool:
    """Whether `lower` or `restore` made it."""
    return any(isinstance(tap.quantizer, PackedWeight) for _, tap in taps(model))


def packed_tensors(
    model: VisionModel, calibration: Calibration, floats: str = "fp32"
) -> tuple[dict[str, Tensor], dict[str, str]]:
    """(tensors, metadata) of a safetensors file from which `restore` makes the packed model again.

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
    hollow = {_parameter_of(model, path)[0] for path in _packed_paths(model) if not _is_integer(model, path)}
    tensors = {}
    for key, tensor in model.state_dict().items():
        if key in hollow:
            continue
        stored = tensor.to(FLOATS[floats]) if tensor.dtype == torch.float32 and _KEY not in key else tensor
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
        found = metadata.get("format")
        raise ValueError(f"this is no packed model: its format is {found!r}, expected {PACKED_FORMAT!r}")
    sites = [key.removesuffix(_CODES) for key in tensors if key.endswith(_CODES)]
    foreign = tuple(f"{path}{_KEY}" for path in sites)
    steps = {key: x for key, x in tensors.items() if _KEY in key and not key.startswith(foreign)}
    calibration = from_tensors(steps, {**metadata, "format": FORMAT})
    plan, known = calibration.plan, dict(taps(model))
    for path in sites:
        if path not in known or path not in plan.sites:
            raise ValueError(f"{path!r} is no weight of {model.info.name}; was it packed from another model?")
    rest = {path: spec for path, spec in plan.sites.items() if path not in sites}
    attach_calibration(model, replace(calibration, plan=replace(plan, sites=rest), provenance={}))
    for path in sites:
        shape = _parameter_of(model, path)[1].shape
        packed, scale = tensors[path + _CODES], tensors.get(f"{path}{_KEY}scale")
        if scale is None or scale.shape != shape[:1] or not (scale.isfinite() & (scale > 0)).all():
            raise ValueError(f"{path!r} lacks {shape[0]} steps that can be used; quantize again")
        if len(packed) != shape[0]:
            raise ValueError(f"{path!r} has codes for {len(packed)} output channels, the model {shape[0]}")
        unpack_codes(packed, shape[1:].numel())
        _install(model, path, PackedWeight(known[path], plan.sites[path], packed, scale, shape))
    hollow = {_parameter_of(model, path)[0] for path in sites if not _is_integer(model, path)}
    own = {key: x for key, x in model.state_dict().items() if key not in hollow}
    for key in sorted(own.keys() ^ tensors.keys()):
        where = "file" if key in own else "model"
        raise ValueError(f"the {where} lacks {key!r}; was it packed from another model than {model.info.name}?")
    for key, x in own.items():
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
        kind = "codes" if key.endswith(_CODES) else "steps" if _KEY in key else "floats"
        total[kind] += tensor.numel() * tensor.element_size()
    return total


def _packed_paths(model: nn.Module) -> list[str]:
    return [path for path, tap in taps(model) if isinstance(tap.quantizer, PackedWeight)]


def _is_integer(model: nn.Module, path: str) -> bool:
    """Whether the weight with this tap is multiplied as codes."""
    return isinstance(model.get_submodule(path.rpartition(".")[0]), PackedLinear)


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
    weight = _parameter_of(model, path)[1]
    with torch.no_grad():
        rounded = quantizer.rounded(quantizer.inside(weight)).flatten(1)
    # what the quantizer puts out are the codes, however it found them
    codes = (rounded / quantizer.scale.detach()[:, None]).round()
    packed = pack_codes(codes, quantizer.spec.bits)
    return PackedWeight(tap, quantizer.spec, packed, quantizer.scale.detach(), weight.shape).to(weight.device)


def _install(model: nn.Module, path: str, weight: PackedWeight) -> None:
    """Puts the codes on the weight's tap; its layer becomes a packed one if it can, else its weight is emptied."""
    place = path.rpartition(".")[0]
    parent, _, name = place.rpartition(".")
    owner, tap = model.get_submodule(place), cast(Tap, model.get_submodule(path))
    tap.quantizer = weight
    if (tap_in := _input_tap(owner)) is not None:
        bias = cast("nn.Parameter | None", owner.bias)
        setattr(model.get_submodule(parent), name, PackedLinear(tap_in, tap, bias))
        return
    key, parameter = _parameter_of(model, path)
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


def _parameter_of(model: nn.Module, path: str) -> tuple[str, nn.Parameter]:
    """(key, parameter) of the weight that passes this tap: the one matrix or kernel of the tap's owner."""
    place = path.rpartition(".")[0]
    found = {
        f"{place}.{key}": x
        for key, x in model.get_submodule(place).named_parameters()
        if x.dim() > 1 and _KEY not in f".{key}"
    }
    assert len(found) == 1, f"{place} has {len(found)} weights, its tap stands for one"
    return next(iter(found.items()))


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
