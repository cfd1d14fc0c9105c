"""A packed model computes what the simulated one does, and its file brings it back bit for bit."""

import copy
import re
from dataclasses import replace

import pytest
import torch

from ouro.models import create_model
from ouro.quant import attach_calibration, quantize
from ouro.quant.apply import counting, effective_bits
from ouro.quant.lower import (
    PackedLinear,
    PackedWeight,
    is_packed,
    lower,
    packed_tensors,
    restore,
    weighs,
)
from ouro.quant.modules import build
from ouro.store import read_tensors, write_tensors
from ouro.taps import attach, detach, record, taps
from ouro.types import QuantSpec

CASES = {
    "minmax w8a8": {"method": "minmax", "bits": "w8a8"},
    "dynamic w4a8": {"method": "dynamic", "bits": "w4a8"},
    "ouro w4a8": {"method": "ouro", "bits": "w4a8", "steps_per_block": 1},
    "ouro w4a4o8": {"method": "ouro", "bits": "w4a4o8", "steps_per_block": 1},
    "ouro w3a5o16": {"method": "ouro", "bits": "w3a5o16", "theta": "calibrated", "steps_per_block": 0},
    "smoothquant w6a8": {"method": "smoothquant", "bits": "w6a8"},
    "ouro w4a4o8, ssm": {"method": "ouro", "bits": "w4a4o8", "scope": "ssm", "steps_per_block": 0},
    "minmax w4a8, full": {"method": "minmax", "bits": "w4a8", "scope": "full"},
}


@pytest.fixture(scope="module", params=CASES, ids=str)
def quantized(request, tiny_model, images):
    """(simulated model, calibration) of each case."""
    float_model = copy.deepcopy(detach(tiny_model))
    calibration = quantize(float_model, images, **CASES[request.param])
    return attach_calibration(float_model, calibration).eval(), calibration


@pytest.fixture(scope="module")
def small(tiny_model, images):
    """(simulated model, calibration), the quickest case."""
    float_model = copy.deepcopy(detach(tiny_model))
    calibration = quantize(float_model, images, method="minmax", bits="w4a8")
    return attach_calibration(float_model, calibration).eval(), calibration


def fresh():
    return create_model("vim_nano", width=32, depth=2, image=28)


def layers_of(model):
    return {path: module for path, module in model.named_modules() if isinstance(module, PackedLinear)}


@torch.no_grad()
def layer_errors(simulated, packed, images):
    """Path -> error of a packed layer on the simulated one's input, relative to the largest output."""
    layers, errors = layers_of(packed), {}

    def compare(path):
        def hook(_module, inputs, output):
            gap = (layers[path](inputs[0]) - output).abs().max() / output.abs().max()
            errors[path] = max(errors.get(path, 0.0), gap.item())

        return hook

    handles = [simulated.get_submodule(path).register_forward_hook(compare(path)) for path in layers]
    simulated(images)
    for handle in handles:
        handle.remove()
    return errors


def test_every_packed_layer_equals_its_simulation(quantized, images):
    simulated, calibration = quantized
    packed = lower(simulated)
    errors = layer_errors(simulated, packed, images)
    # 2 blocks of in_proj, out_proj and, in either direction, x_proj and dt_proj; the head belongs to scope "full"
    assert len(errors) == 12 + (calibration.plan.scope == "full")
    assert max(errors.values()) < 3e-6, errors


@torch.no_grad()
def test_logits_differ_no_more_than_under_rounding_of_the_input(quantized, images):
    simulated, _ = quantized
    packed = lower(simulated)
    wanted, found = simulated(images), packed(images)
    noise = torch.randn(images.shape, generator=torch.Generator().manual_seed(2))
    moved = simulated(images * (1 + 1e-6 * noise))
    size = wanted.abs().max()
    # a float beside the border of two codes takes either, and the blocks behind carry that on
    assert (found - wanted).abs().max() <= 4 * (moved - wanted).abs().max() + 0.05 * size
    assert torch.equal(found, packed(images)) and torch.equal(wanted, simulated(images))


@torch.no_grad()
def test_effective_bits_are_those_of_the_simulation(quantized, images):
    simulated, _ = quantized
    packed = lower(simulated)
    means = []
    for model in (simulated, packed):
        with counting(model):
            model(images)
        means.append(effective_bits(model))
    assert means[0] == pytest.approx(means[1], rel=5e-3)


@pytest.mark.parametrize("floats", ["fp32", "fp16"])
def test_the_file_brings_the_model_back(quantized, images, tmp_path, floats):
    simulated, calibration = quantized
    packed = lower(simulated)
    path = write_tensors(tmp_path / "packed.safetensors", *packed_tensors(packed, calibration, floats))
    tensors, metadata = read_tensors(path)
    found, again = restore(fresh(), tensors, metadata)
    assert again.plan == calibration.plan and again.provenance == calibration.provenance
    with torch.no_grad():
        logits = found(images)
        if floats == "fp32":
            assert torch.equal(logits, packed(images))
    assert logits.isfinite().all() and all(not p.requires_grad for p in found.parameters())
    rewritten, header = packed_tensors(found, again, floats)
    assert header == metadata and all(torch.equal(tensors[key], rewritten[key]) for key in tensors.keys() | rewritten)


def test_no_weight_is_stored_in_floating_point_beside_its_codes(quantized):
    simulated, calibration = quantized
    tensors, _ = packed_tensors(lower(simulated), calibration)
    codes = {key.removesuffix(".tap_w.quantizer.packed") for key in tensors if key.endswith(".packed")}
    rounded = [path for path, spec in calibration.plan.sites.items() if path.endswith("tap_w") and spec.bits < 32]
    assert len(codes) == len(rounded) >= 12
    for owner in codes:
        assert f"{owner}.weight" not in tensors and f"{owner}.proj.weight" not in tensors
        assert not any(key.startswith(f"{owner}.tap_w.quantizer.rounding") for key in tensors)
    parts = weighs(tensors)
    assert sum(parts.values()) == sum(x.numel() * x.element_size() for x in tensors.values())
    weights = {path: simulated.get_submodule(path.removesuffix(".tap_w")) for path in rounded}
    count = sum(
        sum(p.numel() for name, p in owner.named_parameters() if p.dim() > 1 and "quantizer" not in name)
        for owner in weights.values()
    )
    width = max(spec.bits for path, spec in calibration.plan.sites.items() if path in rounded)
    assert parts["codes"] <= count * (1 if width > 4 else 0.6)


def test_lowering_leaves_the_simulated_model_as_it_was(small, images):
    simulated, _ = small
    before = {key: x.clone() for key, x in simulated.state_dict().items()}
    packed = lower(simulated)
    after = simulated.state_dict()
    assert before.keys() == after.keys() and all(torch.equal(before[key], after[key]) for key in before)
    assert is_packed(packed) and not is_packed(simulated)


def linear_with(tap_in, tap_w, *, rounding=None, smooth=None):
    """A simulated model of which one layer has these quantizers."""
    model = fresh().eval()
    path = "layers.0.mixer.in_proj"
    known, weight = dict(taps(model)), model.get_submodule(path).weight
    scale = (weight.detach().abs().amax(1) / 7).clamp(min=1e-3)
    state = {"scale": scale}
    if rounding is not None:
        state["rounding"] = rounding(weight)
    given, steps = {}, {} if tap_in.granularity == "token" else {"scale": torch.tensor([0.05])}
    if not tap_in.signed and tap_in.granularity != "token":
        steps["zero"] = torch.tensor([100.0])
    if smooth is not None:
        state["smooth"], steps["smooth"] = smooth, smooth
    given[f"{path}.tap_w"] = build(known[f"{path}.tap_w"], tap_w, state)
    given[f"{path}.tap_in"] = build(known[f"{path}.tap_in"], tap_in, steps)
    return attach(model, given), path


WEIGHT = QuantSpec(4, granularity="channel")
INPUT = QuantSpec(8, signed=False, granularity="tensor")


@pytest.mark.parametrize("granularity", ["tensor", "token"])
def test_smoothed_and_rotated_layers_are_packed(images, granularity):
    smooth = torch.rand(32, generator=torch.Generator().manual_seed(3)) + 0.5
    for factor, rotate in ((smooth, False), (None, True), (smooth, True)):
        specs = [replace(spec, rotate=rotate) for spec in (INPUT, WEIGHT)]
        model, path = linear_with(replace(specs[0], granularity=granularity), specs[1], smooth=factor)
        packed = lower(model)
        assert list(layers_of(packed)) == [path]
        assert max(layer_errors(model, packed, images).values()) < 3e-6
        owner = model.get_submodule(path)
        torch.testing.assert_close(packed.get_submodule(path).weight, owner.tap_w(owner.weight), rtol=1e-4, atol=1e-5)


def test_learned_rounding_gives_the_codes(images):
    model, path = linear_with(
        INPUT,
        replace(WEIGHT, granularity="learned rounding"),
        rounding=lambda weight: torch.randn(weight.shape, generator=torch.Generator().manual_seed(4)),
    )
    packed = lower(model)
    owner = model.get_submodule(path)
    assert torch.equal(packed.get_submodule(path).weight, owner.tap_w(owner.weight))
    assert max(layer_errors(model, packed, images).values()) < 3e-6


def test_layers_with_one_rounded_side_stay_simulated(images):
    model, path = linear_with(INPUT, WEIGHT)
    model.get_submodule(path).tap_in.quantizer = None
    packed = lower(model)
    assert not layers_of(packed)
    owner = packed.get_submodule(path)
    assert isinstance(owner, torch.nn.Linear) and isinstance(owner.tap_w.quantizer, PackedWeight)
    with torch.no_grad():
        assert torch.equal(packed(images), model(images))
    model.get_submodule(path).tap_w.quantizer = None
    attach(model, {f"{path}.tap_in": build(owner.tap_in, INPUT, {"scale": torch.ones(1), "zero": torch.zeros(1)})})
    packed = lower(model)
    assert not layers_of(packed) and not is_packed(packed)


def test_recording_sees_what_the_simulation_does(small, images):
    simulated, _ = small
    packed = lower(simulated)
    path = "layers.0.mixer.in_proj"
    names = (f"{path}.tap_in", f"{path}.tap_w")
    seen = []
    for model in (simulated, packed):
        with torch.no_grad(), record(model, *names) as trace:
            model(images)
        seen.append(trace.tensors)
    for name in names:
        torch.testing.assert_close(seen[0][name], seen[1][name], rtol=1e-5, atol=1e-5)


def test_gradients_are_refused(small, images):
    packed = lower(small[0])
    message = "a packed model has no gradients; use the simulated one (attach_calibration) for them"
    with pytest.raises(ValueError, match=f"^{re.escape(message)}$"):
        packed(images.clone().requires_grad_())
    packed(images[:1])


def refuses(message, call):
    with pytest.raises(ValueError, match=f"^{re.escape(message)}$"):
        call()


def test_a_float_model_and_a_packed_one_are_refused(small):
    simulated, calibration = small
    missing = "the model has no quantizers, so there is nothing to pack; attach_calibration(model, ...) first"
    refuses(missing, lambda: lower(fresh()))
    packed = lower(simulated)
    twice = "the model is packed already; lower the one that attach_calibration made"
    refuses(twice, lambda: lower(packed))
    refuses("the model is not packed; lower(model) first", lambda: packed_tensors(simulated, calibration))
    refuses("floats is 'bf16'; known: fp32, fp16", lambda: packed_tensors(packed, calibration, "bf16"))


def test_damaged_files_and_other_models_are_refused(small):
    simulated, calibration = small
    tensors, metadata = packed_tensors(lower(simulated), calibration)
    found = "this is no packed model: its format is None, expected 'ouro packed 1'"
    refuses(found, lambda: restore(fresh(), tensors, {}))
    path = "layers.0.mixer.in_proj.tap_w"
    gone = {key: x for key, x in tensors.items() if key != f"{path}.quantizer.scale"}
    refuses(f"'{path}' lacks 128 steps that can be used; quantize again", lambda: restore(fresh(), gone, metadata))
    gone = {key: x for key, x in tensors.items() if key != "pos_embed"}
    message = "the file lacks 'pos_embed'; was it packed from another model than vim_nano?"
    refuses(message, lambda: restore(fresh(), gone, metadata))
    lost = tensors | {"pos_embed": tensors["pos_embed"] * torch.nan}
    refuses("'pos_embed' holds NaN or infinity; quantize again", lambda: restore(fresh(), lost, metadata))
    shallow = create_model("vim_nano", width=32, depth=1, image=28)
    message = "'layers.1.mixer.in_proj.tap_w' is no weight of vim_nano; was it packed from another model?"
    refuses(message, lambda: restore(shallow, tensors, metadata))
    wide = create_model("vim_nano", width=64, depth=2, image=28)
    message = f"'{path}' lacks 256 steps that can be used; quantize again"
    refuses(message, lambda: restore(wide, tensors, metadata))
