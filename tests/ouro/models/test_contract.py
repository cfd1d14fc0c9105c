"""What every registered model keeps, whatever its family."""

from __future__ import annotations

import copy

import pytest
import torch
from safetensors.torch import load_file, save_file

from ouro.attention import alpha, alpha_p, attention_map, by_mixer
from ouro.models import load_checkpoint
from ouro.quant.apply import attach_calibration
from ouro.quant.audit import audit
from ouro.quant.calibrate import quantize
from ouro.registry import QUANTIZERS
from ouro.scan import selective_scan
from ouro.scan.order import raster_steps
from ouro.taps import ScanModule, detach, record, taps
from tests import zoo
from tests.testing import QUICK, assert_close


@pytest.fixture(scope="module", params=zoo.EACH)
def model(request):
    return zoo.small(request.param)


@pytest.fixture(scope="module")
def traced(model):
    """(trace with every operand of every scan, output) of three images."""
    with torch.no_grad(), record(model, "*", "*.tap_h", "*.tap_A_bar", "*.tap_B_bar") as trace:
        output = model(zoo.inputs(model))
    return trace, output


def test_every_tap_fires_and_changes_nothing(model, traced) -> None:
    trace, output = traced
    assert set(trace.tensors) == {path for path, _ in taps(model)}
    with torch.no_grad():
        assert torch.equal(model(zoo.inputs(model)), output)


def test_tapped_tensors_have_the_axes_that_their_taps_name(model, traced) -> None:
    trace, _ = traced
    sizes = {}
    for path, tap in taps(model):
        shape = trace.tensors[path].shape
        assert len(shape) == len(tap.axes), path
        if path.rpartition(".")[0] in {scan.path for scan in trace.scans}:
            for axis, size in zip(tap.axes, shape, strict=True):
                if axis != "b":
                    assert sizes.setdefault((path.rpartition(".")[0], axis), size) == size, path


def test_facts_are_those_of_the_model(model, traced) -> None:
    trace, output = traced
    mixers = by_mixer(trace.scans)
    assert {path: [scan.order for scan in scans] for path, scans in mixers.items()} == model.mixers()
    stages = {stage.grid: stage for stage in model.info.stages}
    for scan in trace.scans:
        stage = stages[scan.order.grid]
        assert (scan.inputs.u.shape[1], scan.inputs.A.shape[1]) == (stage.E, stage.N)
        # windows that do not divide the grid make a path longer than the tokens
        assert len(scan.order.cells) == scan.inputs.u.shape[2] >= stage.L
    if model.num_classes and model.info.task not in ("detection", "diffusion"):
        assert output.shape[:2] == (3, model.num_classes)


def test_every_path_reads_every_patch_once(model) -> None:
    for orders in model.mixers().values():
        for order in orders:
            assert len(raster_steps(order)) == order.grid[0] * order.grid[1]


def test_blocks_are_the_forward(model) -> None:
    images = zoo.inputs(model)
    with torch.no_grad():
        state = model.stem(images)
        for block in model.blocks().values():
            state = block(*state)
        assert torch.equal(model.forward_head(model.tail(*state)), model(images))


def test_alpha_reconstructs_every_scan(traced) -> None:
    trace, _ = traced
    for scan in trace.scans:
        u, D = scan.inputs.u, scan.inputs.D
        assert D is not None
        rebuilt = torch.einsum("beij,bej->bei", alpha(scan, None), u) + D[:, None] * u
        assert_close(rebuilt, scan.y, rtol=1e-4, atol=1e-5, name=scan.path)


def test_patched_attention_lies_on_the_grid_of_the_stage(traced) -> None:
    trace, _ = traced
    for scans in by_mixer(trace.scans).values():
        height, width = scans[0].order.grid
        for scan in scans:
            weights = alpha_p(scan, 3, "delta")
            assert weights.shape[1:] == (height * width, height * width)
        for source in ("h", "h_p"):
            attention = attention_map(scans, source, "received", window=3)
            assert attention.weights.shape[1:] == (height, width) and attention.weights.isfinite().all()


def test_the_recorded_states_give_the_output(traced) -> None:
    trace, _ = traced
    scan = trace.scans[0]
    assert scan.h is not None
    again = selective_scan(scan.inputs, backend="reference")
    assert_close(again.y, scan.y, rtol=1e-4, atol=1e-5, name="compiled scan against the loop")
    read = torch.einsum("beln,bnl->bel", scan.h, scan.inputs.C) + scan.inputs.D[:, None] * scan.inputs.u
    assert_close(read, scan.y, rtol=1e-4, atol=1e-5, name="C h + D u")


def test_the_loop_over_tokens_gives_the_same_output(model, traced) -> None:
    _, output = traced
    looped = copy.deepcopy(model)
    for module in looped.modules():
        if isinstance(module, ScanModule):
            module.backend = "reference"
    with torch.no_grad():
        assert_close(looped(zoo.inputs(model)), output, rtol=1e-4, atol=2e-5, name="output")


def test_the_batch_does_not_change_a_sample(model, traced) -> None:
    _, output = traced
    with torch.no_grad():
        alone = torch.cat([model(image[None]) for image in zoo.inputs(model)])
    # matrix products of other sizes add up in another order
    assert_close(alone, output, rtol=1e-4, atol=1e-5, name="one by one")


def test_gradients_reach_the_image_and_every_parameter(model) -> None:
    trainable = copy.deepcopy(model).requires_grad_(True)
    images = zoo.inputs(model, 2).requires_grad_()
    trainable(images).square().sum().backward()
    assert images.grad is not None and images.grad.isfinite().all() and images.grad.abs().sum() > 0
    silent = [name for name, parameter in trainable.named_parameters() if parameter.grad is None]
    # a head that only trains along, proposals that are a choice, masks that nobody asked for, a level for larger regions
    apart = ("auxiliary_head.", "rpn_head.", "roi_head.mask_head.", "fpn.layer_blocks.1.")
    assert not [name for name in silent if not name.startswith(apart)]


def test_weights_survive_a_file(model, traced, tmp_path) -> None:
    _, output = traced
    save_file({key: value.contiguous() for key, value in model.state_dict().items()}, tmp_path / "w.safetensors")
    assert load_file(tmp_path / "w.safetensors").keys() == model.state_dict().keys()
    other = zoo.small(model.info.name, seed=1)
    with torch.no_grad():
        assert not torch.equal(other(zoo.inputs(model)), output)
        load_checkpoint(other, tmp_path / "w.safetensors")
        assert torch.equal(other(zoo.inputs(model)), output)


def test_official_names_are_one_to_one(model) -> None:
    places = [model.official(key) for key in model.state_dict()]
    assert len(set(places)) == len(places)


def test_quantizing_and_detaching_gives_the_float_model_back(model, traced) -> None:
    _, output = traced
    images = zoo.inputs(model, 4)
    before = {key: value.clone() for key, value in model.state_dict().items()}
    with torch.no_grad():
        for bits, scope in (("w4a4", "lin"), ("w8a8", "ssm")):
            calibration = quantize(model, images, method="dynamic", bits=bits, scope=scope)
            rounded = attach_calibration(model, calibration)(zoo.inputs(model))
            assert rounded.isfinite().all() and not torch.equal(rounded, output)
            detach(model)
            assert torch.equal(model(zoo.inputs(model)), output)
        float_again = quantize(model, images, method="minmax", bits="w32a32")
        assert torch.equal(attach_calibration(model, float_again)(zoo.inputs(model)), output)
        detach(model)
    assert all(torch.equal(value, before[key]) for key, value in model.state_dict().items())


# what looks at a family's blocks or at the tensors of its scans; the others look at one layer at a time
FAMILIAR = ("ouro", "brecq", "kscale")
# Vim has every method in tests/ouro/quant; here the family that differs most from it, and the rest in the full suite
QUICKLY = {"mambavision_t": tuple(QUANTIZERS), "vmamba_tiny": FAMILIAR}
MATRIX = [
    pytest.param(name, method, marks=() if method in QUICKLY.get(name, ("ouro",)) else pytest.mark.full)
    for name in ("vmamba_tiny", "localvim_tiny", "mambavision_t", "zigma_zigzag8", "vmamba_nano_seg", "vim_nano_det")
    for method in QUANTIZERS
]


@pytest.mark.parametrize(("name", "method"), MATRIX)
def test_every_method_rounds_everything_in_every_family(name, method) -> None:
    model = zoo.small(name)
    options = {"bits": "w6a6o8", "scope": "full", **QUICK.get(method, {})}
    calibration = quantize(model, zoo.inputs(model, 2), method=method, **options)
    attach_calibration(model, calibration)
    with torch.no_grad():
        assert model(zoo.inputs(model)).isfinite().all()
    report = audit(model, zoo.inputs(model, 2), calibration.plan)
    assert report["sealed"], report["failures"]


def test_the_outlier_method_does_not_see_the_batch(model) -> None:
    # in float32 a sum's last bit, which hangs on the batch's size, is now and then rounded to a whole step
    exact = copy.deepcopy(model).double()
    images = zoo.inputs(model, 3).double()
    calibration = quantize(exact, images, method="ouro", bits="w4a4o8", **QUICK["ouro"])
    attach_calibration(exact, calibration)
    with torch.no_grad():
        together = exact(images)
        alone = torch.cat([exact(image[None]) for image in images])
    assert_close(alone, together, name="one by one")
