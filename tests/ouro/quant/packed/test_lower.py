"""A packed model computes what the simulated one does."""

import re
from dataclasses import replace

import pytest
import torch

from ouro.models import create_model
from ouro.quant.apply import counting, effective_bits
from ouro.quant.modules import build
from ouro.quant.packed.lower import is_packed, lower
from ouro.quant.packed.modules import PackedLinear, PackedWeight
from ouro.taps import attach, record, taps
from ouro.types import QuantSpec


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
    wanted, actual = simulated(images), packed(images)
    noise = torch.randn(images.shape, generator=torch.Generator().manual_seed(2))
    moved = simulated(images * (1 + 1e-6 * noise))
    size = wanted.abs().max()
    # a float beside the border of two codes takes either, and the blocks behind carry that on
    assert (actual - wanted).abs().max() <= 4 * (moved - wanted).abs().max() + 0.05 * size
    assert torch.equal(actual, packed(images)) and torch.equal(wanted, simulated(images))


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
    simulated, _ = small
    missing = "the model has no quantizers, so there is nothing to pack; attach_calibration(model, ...) first"
    refuses(missing, lambda: lower(fresh()))
    packed = lower(simulated)
    twice = "the model is packed already; lower the one that attach_calibration made"
    refuses(twice, lambda: lower(packed))
