"""Attaching refuses the wrong model and damaged files; the audit finds what is not quantized."""

import copy
import json
import re

import pytest
import torch

from ouro.quant import quantize
from ouro.quant.apply import (
    add_counts,
    attach_calibration,
    counting,
    counts,
    effective_bits,
    from_tensors,
    to_tensors,
    weights_digest,
)
from ouro.quant.audit import audit
from ouro.taps import detach, taps


@pytest.fixture(scope="module")
def calibration(tiny_model, images):
    detach(tiny_model)
    return quantize(tiny_model, images, method="minmax")


def test_attach_refuses_other_weights(model, calibration):
    other = copy.deepcopy(model)
    with torch.no_grad():
        other.head.bias[0] += 1
    message = (
        f"this calibration is of vim_nano with weights {weights_digest(model)}, the model has {weights_digest(other)}; "
        "calibrate again"
    )
    with pytest.raises(ValueError, match=f"^{re.escape(message)}$"):
        attach_calibration(other, calibration)


def test_attach_refuses_a_second_time(model, calibration):
    attach_calibration(model, calibration)
    with pytest.raises(ValueError, match=r"already has a quantizer; detach\(model\) first$"):
        attach_calibration(model, calibration)


def test_weights_digest_does_not_see_quantizers(model, calibration):
    before = weights_digest(model)
    assert weights_digest(attach_calibration(model, calibration)) == before


def test_another_image_size_is_refused(model, images):
    attach_calibration(model, quantize(model, images, method="ouro", steps_per_block=0))
    tap = next(tap for _, tap in taps(model) if tap.quantizer is not None)
    message = (
        "the input has 17 time steps, its quantizer was calibrated for 50; "
        "calibrate at the size of the images that are to be seen"
    )
    with pytest.raises(ValueError, match=f"^{re.escape(message)}$"):
        tap(torch.zeros(1, 17, 32))


def test_audit_finds_a_quantizer_that_is_bypassed_and_one_that_does_nothing(model, images, calibration):
    attach_calibration(model, calibration)
    first, second = "layers.0.mixer.in_proj.tap_in", "layers.1.mixer.in_proj.tap_in"
    idle = model.get_submodule(first).quantizer
    idle.forward = lambda x: x
    bypassed = model.get_submodule(second)
    bypassed.forward = lambda x: x
    try:
        report = audit(model, images[:1])
    finally:
        del bypassed.forward
    assert not report["sealed"] and set(report["failures"]) == {first, second}
    assert report["failures"][second] == "was never called"
    assert report["failures"][first] == "put out something else than what it rounds to"


def test_effective_bits_need_a_count(model, calibration):
    attach_calibration(model, calibration)
    with pytest.raises(RuntimeError, match=r"counted nothing; run images inside `with counting\(model\)`$"):
        effective_bits(model)


def test_counts_of_two_copies_add_up(model, images):
    calibration = quantize(model, images, method="ouro", bits="w4a4o8", steps_per_block=0)
    one, other = (attach_calibration(copy.deepcopy(model), calibration) for _ in range(2))
    with torch.no_grad(), counting(one):
        for batch in (images[:3], images[3:]):
            one(batch)
    whole, wanted = effective_bits(one), counts(one)
    with torch.no_grad(), counting(one), counting(other):
        one(images[:3])
        other(images[3:])
    assert effective_bits(one) != whole
    add_counts(one, counts(other))
    assert effective_bits(one) == whole
    assert all(torch.equal(count, wanted[path]) for path, count in counts(one).items())


HEADER = "this quantized model's header is damaged:"
SCALE = "layers.0.mixer.in_proj.tap_in.quantizer.scale"


def test_file_form_is_tensors_and_json(calibration):
    tensors, metadata = to_tensors(calibration)
    assert tensors["layers.0.mixer.in_proj.tap_in.quantizer.scale"].shape == (1,)
    assert all(isinstance(value, str) for value in metadata.values())
    assert json.loads(metadata["provenance"])["model"] == "vim_nano"


def test_a_file_without_all_of_its_tensors_is_refused(model, calibration):
    tensors, metadata = to_tensors(calibration)
    del tensors["layers.0.mixer.in_proj.tap_in.quantizer.zero"]
    message = "a quantizer per tensor needs scale and zero of one shape, its state holds scale (1,); quantize again"
    with pytest.raises(ValueError, match=f"^{re.escape(message)}$"):
        attach_calibration(model, from_tensors(tensors, metadata))


@pytest.mark.parametrize(
    ("damage", "message"),
    [
        (lambda t, m: m.clear(), "this is no quantized model: its format is None, expected 'ouro calibration 1'"),
        (lambda t, m: m.pop("plan"), f"{HEADER} plan is None, expected a JSON object; quantize again"),
        (lambda t, m: m.update(plan="{"), f"{HEADER} plan is '{{', expected a JSON object; quantize again"),
        (lambda t, m: m.update(plan="[]"), f"{HEADER} plan is [], expected a JSON object; quantize again"),
        (
            lambda t, m: t.update({SCALE: t[SCALE].view(torch.uint32)}),
            f"tensor '{SCALE}' is stored as uint32, expected float32; quantize again",
        ),
        (
            lambda t, m: t.update({SCALE: t[SCALE].view((1,) * 64)}),
            f"tensor '{SCALE}' has 64 axes, expected 1 at most; quantize again",
        ),
        (
            lambda t, m: t.update({SCALE: t[SCALE][None]}),
            f"tensor '{SCALE}' has 2 axes, expected 1 at most; quantize again",
        ),
        (lambda t, m: t.update(x=torch.ones(1)), "tensor 'x' belongs to no site of the plan; quantize again"),
        (lambda t, m: next(iter(t.values())).fill_(torch.nan), "tensor 'layers.0."),
        (lambda t, m: next(iter(t.values())).fill_(-1), "tensor 'layers.0."),
    ],
    ids=[
        "no header",
        "no plan",
        "cut plan",
        "wrong plan",
        "relabelled",
        "axes",
        "a row",
        "foreign tensor",
        "nan",
        "negative",
    ],
)
def test_damaged_files_are_refused(calibration, damage, message):
    tensors, metadata = to_tensors(calibration)
    tensors = {key: value.clone() for key, value in tensors.items()}
    damage(tensors, metadata)
    with pytest.raises(ValueError, match=f"^{re.escape(message)}"):
        from_tensors(tensors, metadata)


def test_a_detached_model_takes_no_state_of_a_quantized_one(model, images):
    calibration = quantize(model, images, method="minmax")
    state = attach_calibration(model, calibration).state_dict()
    with pytest.raises(RuntimeError, match="Unexpected key"):
        detach(model).load_state_dict(state)
    assert "quantizer" not in "".join(map(repr, model.named_modules()))
