"""Channels that are kept apart: in float all of them are the tensor, in more bits nothing of them is lost to the others."""

from __future__ import annotations

import copy

import pytest
import torch

from ouro.fused.projections import Projection
from ouro.kernels.launch import KernelError
from ouro.onnx import refusal
from ouro.quant import quantize
from ouro.quant.apply import attach_calibration, counting, effective_bits, from_tensors, to_tensors
from ouro.quant.audit import audit
from ouro.quant.modules import build
from ouro.quant.packed.files import packed_tensors, restore
from ouro.quant.packed.lower import lower
from ouro.quant.packed.modules import PackedLinear
from ouro.quant.plan import kept_channels, kept_sites, split_rule
from ouro.registry import QUANTIZERS
from ouro.taps import Tap, detach, record
from ouro.types import QuantSpec
from tests.testing import QUICK, assert_close

SITES = ("layers.0.mixer.in_proj.tap_in", "layers.1.mixer.out_proj.tap_in")
"""One that is smoothed by some methods, and one that is rotated by another."""
KEPT = {SITES[0]: {1: 8, 0: 32, 7: 4}, SITES[1]: {5: 8}}


@pytest.fixture(scope="module")
def calibrations(tiny_model, images):
    """What calibrates a method once, with channels kept apart, on the tiny model."""
    detach(tiny_model)
    made = {}

    def get(method, bits="w4a4o8"):
        if (method, bits) not in made:
            made[method, bits] = quantize(
                tiny_model, images, method=method, bits=bits, channels=KEPT, **QUICK.get(method, {})
            )
        return made[method, bits]

    return get


@torch.no_grad()
def tensor_of(model, path, images):
    """What a tap puts out."""
    with record(model, path) as trace:
        model(images)
    return trace.tensors[path]


@torch.no_grad()
def fed(model, path, images):
    """(what the quantizer of a tap is given, what it makes of that)."""
    tap = model.get_submodule(path)
    quantizer, tap.quantizer = tap.quantizer, None
    x = tensor_of(model, path, images)
    tap.quantizer = quantizer
    return x, quantizer(x)


@pytest.mark.parametrize("method", list(QUANTIZERS))
def test_all_channels_in_float_are_the_tensor(model, images, method):
    sizes = [tensor_of(model, path, images).shape[-1] for path in SITES]
    everything = {path: dict.fromkeys(range(size), 32) for path, size in zip(SITES, sizes, strict=True)}
    calibration = quantize(model, images, method=method, channels=everything, **QUICK.get(method, {}))
    attach_calibration(model, calibration)
    for path in SITES:
        x, y = fed(model, path, images)
        assert torch.equal(x, y)


@pytest.mark.parametrize("method", list(QUANTIZERS))
def test_kept_channels_have_grids_of_their_own_and_the_rest_is_rounded_as_if_they_were_zero(
    model, images, calibrations, method
):
    attach_calibration(model, calibrations(method))
    for path, channels in KEPT.items():
        x, y = fed(model, path, images)
        quantizer = model.get_submodule(path).quantizer
        for step, (channel, bits) in zip(quantizer.kept, quantizer.spec.channels, strict=True):
            exact, rounded, high = x[..., channel], y[..., channel], 2 ** (bits - 1) - 1
            # what comes before the first site is not rounded, so that calibration saw the very same
            assert path != SITES[0] or torch.equal(step, exact.abs().amax() / high)
            expected = exact if bits == 32 else (exact / step).round().clamp(-high, high) * step
            assert torch.equal(rounded, expected)
        others = [channel for channel in range(x.shape[-1]) if channel not in channels]
        louder = x.clone()
        louder[..., list(channels)] *= 100
        assert torch.equal(quantizer(louder)[..., others], y[..., others])


@pytest.mark.parametrize("method", ["minmax", "clipped", "percentile", "smoothquant", "ptq4vm", "kscale"])
def test_others_gain_where_outliers_are_kept_apart(model, images, method):
    path, loud = SITES[0], [0, 1]
    errors = []
    for channels in (None, {path: dict.fromkeys(loud, 8)}):
        made = quantize(model, images, method=method, bits="w8a4", channels=channels, **QUICK.get(method, {}))
        attach_calibration(model, made)
        x, y = fed(model, path, images)
        errors.append((x - y).square().mean((0, 1)))
        detach(model)
    before, after = errors
    assert (after[loud] <= before[loud]).all() and after.sum() < before.sum() / 4
    assert after[2:].sum() < before[2:].sum() or method in ("smoothquant", "ptq4vm")


@pytest.mark.parametrize("method", list(QUANTIZERS))
def test_file_form_brings_the_same_logits(model, images, calibrations, method):
    calibration = calibrations(method)
    again = from_tensors(*to_tensors(calibration))
    assert again.plan == calibration.plan
    assert again.plan.sites[SITES[0]].channels == ((0, 32), (1, 8), (7, 4))
    fresh = copy.deepcopy(model)
    attach_calibration(model, calibration)
    attach_calibration(fresh, again)
    with torch.no_grad():
        assert torch.equal(model(images), fresh(images))
    assert audit(model, images[:2], calibration.plan)["sealed"]


@pytest.mark.parametrize("method", list(QUANTIZERS))
def test_batch_mates_do_not_matter(model, images, calibrations, method):
    attach_calibration(model, calibrations(method))
    for path in SITES:
        x, y = fed(model, path, images)
        quantizer = model.get_submodule(path).quantizer
        with torch.no_grad():
            assert torch.equal(torch.cat([quantizer(row[None]) for row in x]), y)


def test_a_file_without_channels_does_not_mention_them(model, images):
    assert "channels" not in to_tensors(quantize(model, images, method="minmax"))[1]["plan"]


def test_they_are_counted_with_their_own_bits(model, images, calibrations):
    attach_calibration(model, calibrations("minmax", "w4a4"))
    with counting(model), torch.no_grad():
        model(images)
    counts = [model.get_submodule(path).quantizer.counts.tolist() for path in SITES]
    tokens = len(images) * 50
    assert counts[0] == [tokens * 29, 0, tokens * 3] and counts[1] == [tokens * 63, 0, tokens]
    total = sum(
        sum(tap.quantizer.counts.tolist())
        for _, tap in model.named_modules()
        if isinstance(tap, Tap) and tap.quantizer and tap.site == "linear.in"
    )
    extra = tokens * ((8 - 4) + (32 - 4) + 0 + (8 - 4))
    bits = torch.tensor(effective_bits(model)["activations"])
    assert_close(bits, torch.tensor(4 + extra / total), name="activation bits")


@pytest.mark.parametrize("method", ["minmax", "smoothquant", "ouro"])
def test_a_packed_model_leaves_their_layers_to_the_simulation(model, images, calibrations, method):
    calibration = calibrations(method)
    fresh = copy.deepcopy(model)
    simulated = attach_calibration(model, calibration)
    packed = lower(simulated)
    layers = [path.removesuffix(".tap_in") for path in SITES]
    assert not any(isinstance(packed.get_submodule(path), PackedLinear) for path in layers)
    restored, _ = restore(fresh, *packed_tensors(packed, calibration))
    with torch.no_grad():
        assert torch.equal(restored(images), packed(images))
    for path in SITES:
        quantizers = [one.get_submodule(path).quantizer for one in (simulated, packed)]
        x = fed(simulated, path, images)[0]
        assert torch.equal(quantizers[0](x), quantizers[1](x))


def test_what_cannot_run_them_says_so(model, images, calibrations):
    attach_calibration(model, calibrations("minmax"))
    why = "keeps channels apart, which no node of ONNX does; quantize it again without them"
    assert refusal(model) == f"{SITES[0]} {why}"
    layer = lower(model).get_submodule("layers.0.mixer.in_proj")
    why = "^the input of in_proj keeps channels apart, which no kernel does; quantize it again without them$"
    with pytest.raises(KernelError, match=why):
        Projection("in_proj", layer, 50, torch.float32, mode="exact", backend="reference")


def test_a_rule_is_an_expression_and_maybe_channels():
    assert split_rule(r"layers\.0\..*tap_in") == (r"layers\.0\..*tap_in", ())
    assert split_rule("a.tap_in:61,17") == ("a.tap_in", (61, 17))
    # colons of an expression itself
    assert split_rule("(?:a|b)") == ("(?:a|b)", ()) and split_rule("[a:]") == ("[a:]", ())
    assert split_rule("(?:a|b):3") == ("(?:a|b)", (3,))


def test_of_two_rules_for_a_channel_the_last_one_counts():
    sites = ["a.tap_in", "b.tap_in"]
    rules = [("tap_in:1,2", 8), ("a.tap_in:2", 32), ("b", 6)]
    assert kept_channels(sites, rules) == {"a.tap_in": {1: 8, 2: 32}, "b.tap_in": {1: 8, 2: 8}}
    assert kept_sites(sites, rules) == {"b.tap_in": 6}


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("a:", "'a:' names '' as channels, expected whole numbers with commas, as in 'a:61,17'"),
        ("a:1,,2", "'a:1,,2' names '1,,2' as channels, expected whole numbers with commas, as in 'a:61,17'"),
        ("a:-1", "'a:-1' names '-1' as channels, expected whole numbers with commas, as in 'a:61,17'"),
        ("a:3,1,3", "'a:3,1,3' names channel 3 twice; name each channel once"),
        ("a[61,17]", "'a[61,17]' is found in none of 1 sites, such as 'a.tap_in'; name channels behind a colon, as in "
                     "':61,17'"),
        ("b:1", "'b' is found in none of 1 sites, such as 'a.tap_in'"),
    ],
)  # fmt: skip
def test_a_rule_that_cannot_be_read_is_one_line(text, words):
    with pytest.raises(ValueError) as caught:
        kept_channels(["a.tap_in"], [(text, 8)])
    assert str(caught.value) == words


@pytest.mark.parametrize(
    ("settings", "words"),
    [
        ({"channels": {SITES[0]: {32: 8}}}, f"'{SITES[0]}' has channels 0 to 31, channel 32 is to be kept"),
        ({"channels": {"layers.0.mixer.in_proj.tap_w": {1: 8}}},
         f"'layers.0.mixer.in_proj.tap_w' is a linear.weight; give channels of activations outside the recurrence, such as "
         f"'{SITES[0]}'"),
        ({"channels": {SITES[0]: {1: 8}}, "bits": "w4a32"},
         f"'{SITES[0]}' stays in floating point; give channels of tensors that are rounded"),
        ({"channels": {"nowhere": {1: 8}}}, f"'nowhere' is no site of scope 'lin' in this model, such as '{SITES[0]}'"),
        ({"channels": {"layers.0.mixer.scans.0.tap_h": {1: 8}}, "scope": "rec"},
         f"'layers.0.mixer.scans.0.tap_h' is a scan.h; give channels of activations outside the recurrence, such as "
         f"'{SITES[0]}'"),
    ],
)  # fmt: skip
def test_channels_that_are_not_there_are_refused(model, images, settings, words):
    with pytest.raises(ValueError) as caught:
        quantize(model, images, method="minmax", **settings)
    assert str(caught.value) == words


def test_a_file_that_names_wrong_channels_is_refused():
    state = {"scale": torch.ones(1), "zero": torch.zeros(1)}
    spec = QuantSpec(4, False, channels=((9, 8),))
    with pytest.raises(ValueError, match="needs kept and scale and zero"):
        build(Tap("linear.in", "b l c"), spec, state)
    with pytest.raises(ValueError, match=r"1 channels are kept apart with steps of shape \(2,\), expected \(1,\)"):
        build(Tap("linear.in", "b l c"), spec, {**state, "kept": torch.ones(2)})
    with pytest.raises(ValueError, match=r"of activations outside the recurrence, scan\.D is none of them"):
        build(Tap("scan.D", "e"), spec, {**state, "kept": torch.ones(1)})
    quantizer = build(Tap("linear.in", "b l c"), spec, {**state, "kept": torch.ones(1)})
    with pytest.raises(ValueError, match=r"^channel 9 is to be kept apart, the tensor has channels 0 to 4$"):
        quantizer(torch.zeros(1, 2, 5))
