"""A fused model puts out what the model does that it was made from, in as few launches as it says, or says why not."""

from __future__ import annotations

import copy
import json
import re
from contextlib import contextmanager

import pytest
import torch
from torch.utils._python_dispatch import TorchDispatchMode, _disable_current_modes

from ouro.fused import KernelError, fuse, gate, graphed
from ouro.fused.gate import (
    CHANCE,
    FORMATS,
    SEEN,
    TRAINED,
    calibrated,
    check,
    fused_of,
    held_out,
    mcnemar,
    noise_images,
    tiny,
)  # fmt: skip
from ouro.kernels.launch import interpreted
from ouro.models import create_model
from ouro.quant import attach_calibration, quantize
from ouro.quant.apply import effective_bits
from ouro.quant.audit import audit
from ouro.quant.packed.integer import encode_reference
from ouro.quant.packed.lower import lower
from ouro.quant.packed.modules import PackedLinear, encoding_of
from ouro.taps import record
from tests import zoo
from tests.testing import assert_close

CALIBRATIONS = {
    "ouro w8a8": {"bits": "w8a8"},
    "ouro w4a4o8": {"bits": "w4a4o8"},
    "ouro w4a4o8, fixed threshold": {"bits": "w4a4o8", "theta": "calibrated"},
    "ouro w3a5": {"bits": "w3a5"},
    "weights only": {"bits": "w4a32"},
    "minmax w4a8": {"bits": "w4a8", "method": "minmax"},
}
"""All linear layers of a block are rounded; learning would change the numbers, not the way."""


@pytest.fixture(scope="module")
def model():
    """40 channels, no multiple of any block, and 17 steps, the class token in their middle."""
    made = tiny("vim_nano")
    assert made.info.stages[0].L == 17 and made.info.stages[0].E == 40 and made.info.cls_index == 8
    return made


@pytest.fixture(scope="module")
def images(model):
    return noise_images(model, 3)


def simulated_of(model, images, **settings):
    copied = copy.deepcopy(model)
    if settings.get("method", "ouro") == "ouro":
        settings = {"steps_per_block": 0, "candidates": 10} | settings
    return attach_calibration(copied, quantize(copied, images, **settings))


@pytest.fixture(scope="module", params=CALIBRATIONS, ids=str)
def simulated(request, model, images):
    return simulated_of(model, images, **CALIBRATIONS[request.param])


@contextmanager
def launches(monkeypatch):
    """Names of what runs inside: torch's operations that are no view and no allocation, and Triton's kernels."""
    if not interpreted():
        pytest.skip("launches are counted in Triton's interpreter")
    from triton.runtime.interpreter import GridExecutor

    names: list[str] = []

    class Operations(TorchDispatchMode):
        def __torch_dispatch__(self, func, types, args=(), kwargs=None):
            name = str(func).removeprefix("aten.")
            # memory is poisoned as it is allocated
            if not func.is_view and not name.startswith(("empty", "new_empty", "fill_", "split", "_unsafe_view")):
                names.append(name)
            return func(*args, **(kwargs or {}))

    run = GridExecutor.__call__

    def launch(self, *args, **kwargs):
        names.append(self.fn.__name__)
        with _disable_current_modes():
            return run(self, *args, **kwargs)

    monkeypatch.setattr(GridExecutor, "__call__", launch)
    with Operations():
        yield names


def second_block(fused, images, monkeypatch):
    """(the block, what goes into it); samples are enough to scan in one launch."""
    monkeypatch.setattr("ouro.kernels.bidirectional_scan.op.PROGRAMS", 1)
    return fused.blocks()["layers.1"], fused.blocks()["layers.0"](*fused.stem(images))


@torch.no_grad()
@pytest.mark.parametrize("batch", [1, pytest.param(3, marks=pytest.mark.full)])
def test_logits_are_the_models(model, images, where, batch):
    chosen = images[:batch].to(where)
    fused = fuse(copy.deepcopy(model).to(where), torch.float32)
    assert_close(fused(chosen), model(images[:batch]), rtol=1e-4, atol=1e-5)


@torch.no_grad()
@pytest.mark.parametrize("name", [pytest.param(name, marks=pytest.mark.full) for name in ("fp16", "bf16")])
def test_half_precision_passes_the_gate(model, images, where, name):
    there, format = copy.deepcopy(model).to(where), FORMATS[name]
    verdict = check(there, there, fuse(there, format.dtype), format, images[:1].to(where))
    assert verdict.passed, verdict.complaint


@torch.no_grad()
def test_gate_finds_a_wrong_layer(model, images):
    fused = fuse(model, torch.float32, backend="reference")
    assert check(model, model, fused, FORMATS["fp32"], images).passed
    fused.blocks()["layers.1"].ways[1].D += 0.1
    verdict = check(model, model, fused, FORMATS["fp32"], images)
    assert not verdict.passed
    assert "in float32 a block's output is" in verdict.complaint and "away from the float model's" in verdict.complaint


def test_top1_is_judged_on_the_same_images():
    # of ten images that fall on one side only, nine or ten are lost in 11 of 1024 throws of ten coins
    assert mcnemar(9, 1) == pytest.approx(11 / 1024)
    assert mcnemar(0, 0) == 1 and mcnemar(0, 7) == 1 and mcnemar(7, 0) == 2**-7
    # what made the old gate fail, 5 points of 256 images with most of them on a border, is no proof
    assert mcnemar(30, 17) > CHANCE > mcnemar(30, 8)


@torch.no_grad()
@pytest.mark.full
def test_a_trained_model_judges_formats_on_its_own_images(monkeypatch):
    monkeypatch.setattr(gate, "SEEN", 8)
    model, format = create_model(TRAINED[-1], pretrained=True), FORMATS["w4a4o8"]
    seen, unseen = held_out(model, 20)
    assert len(seen) == 8 and len(unseen) == 20
    assert not (seen[:, None] == unseen).flatten(2).all(-1).any()
    simulated = calibrated(model, format, seen)
    fused = fused_of(simulated, format, "reference")
    verdict = check(model, simulated, fused, format, unseen)
    assert verdict.passed, verdict.complaint
    # a wrong feedthrough costs accuracy, which so few images prove
    for block in fused.blocks().values():
        block.ways[0].D.neg_()
    truth, wanted, wrong = (run(unseen).argmax(1) for run in (model, simulated, fused))
    lost, won = ((x == truth) & (y != truth) for x, y in ((wanted, wrong), (wrong, wanted)))
    assert mcnemar(int(lost.sum()), int(won.sum())) < CHANCE


def test_images_of_the_gate_are_noise_where_none_come_along():
    seen, unseen = held_out(tiny("vim_tiny_patch16_224"), 3)
    assert len(seen) == SEEN and len(unseen) == 3 and abs(float(seen.mean())) < 0.1


@torch.no_grad()
def test_a_block_is_seven_launches(model, images, monkeypatch):
    block, state = second_block(fuse(model, torch.float32), images, monkeypatch)
    with launches(monkeypatch) as names:
        block(*state)
    assert names == ["norm_row", "mm.default", "both", "pair_tile", "pair_tile", "scan", "mm.default"]


@torch.no_grad()
def test_a_block_on_codes_is_eight_launches(model, images, monkeypatch):
    fused = fuse(calibrated(model, FORMATS["w8a8"], images), torch.float32)
    block, state = second_block(fused, images, monkeypatch)
    with launches(monkeypatch) as names:
        block(*state)
    assert names == ["norm_row", "linear_tile", "both", "pair_tile", "pair_tile", "scan", "quantize_window",
                     "linear_tile"]  # fmt: skip


@torch.no_grad()
@pytest.mark.parametrize("name", [pytest.param("w4a8", marks=pytest.mark.full), "w4a4o8"])
def test_codes_in_float32_are_the_simulation(model, images, where, name):
    there, image = calibrated(copy.deepcopy(model).to(where), FORMATS[name], images.to(where)), images[:1].to(where)
    wanted, actual = there(image), fuse(there, torch.float32)(image)
    assert torch.equal(actual.argmax(1), wanted.argmax(1))
    assert (actual - wanted).square().mean().sqrt() < 1e-3 * wanted.square().mean().sqrt()


@torch.no_grad()
def test_every_block_equals_its_simulation(simulated, images):
    fused = fuse(simulated, torch.float32, backend="reference")
    state = simulated.stem(images)
    for path, block in simulated.blocks().items():
        wanted, actual = block(*state), fused.blocks()[path](*state)
        assert_close(actual[1], wanted[1], rtol=1e-6, atol=1e-6)
        gap = (actual[0] - wanted[0]).abs() / wanted[0].square().mean().sqrt()
        # a float beside the border of two codes takes either, and its row then differs by a step
        assert gap.median() < 1e-5 and gap.square().mean().sqrt() < 0.02, (path, gap.median(), gap.max())
        state = wanted
    assert_close(simulated.forward_head(simulated.tail(*state)), fused.forward_head(fused.tail(*state)), rtol=1e-4)


@torch.no_grad()
def test_every_site_makes_the_librarys_codes(simulated, images):
    layers = {p: module for p, module in lower(simulated).named_modules() if isinstance(module, PackedLinear)}
    fused = fuse(simulated, torch.float32, backend="reference")
    stream, seen = torch.Generator().manual_seed(1), 0
    for path, block in fused.blocks().items():
        sites = {"in_proj": block.in_proj, "out_proj": block.out_proj}
        for number, way in enumerate(block.ways):
            sites |= {f"scans.{number}.x_proj": way.x_proj, f"scans.{number}.dt_proj": way.dt_proj}
        for name, site in sites.items():
            if site.encoder is None:
                assert f"{path}.mixer.{name}" not in layers
                continue
            layer = layers[f"{path}.mixer.{name}"]
            x = torch.randn(2, 17, layer.tap_w.quantizer.shape[1], generator=stream)
            backward = name.startswith("scans.1")
            wanted = encode_reference(x.flip(1) if backward else x, encoding_of(layer.tap_in.quantizer))
            coded = site.encoder(x)
            for part, codes, scale in (
                (wanted.inliers, "codes", "scale"),
                (wanted.outliers, "outliers", "outlier_scale"),
            ):
                if part is not None:
                    order = (lambda t: t.unflatten(0, (2, 17)).flip(1).flatten(0, 1)) if backward else (lambda t: t)
                    assert torch.equal(coded[codes], order(part.codes)), (path, name)
                    assert torch.equal(coded[scale], order(part.scale)), (path, name)
            seen += 1
    assert seen == len(layers)


def test_a_packed_model_is_fused_as_the_simulation(model, images):
    simulated = calibrated(model, FORMATS["w4a8"], images)
    first, second = (fuse(given, torch.float32, backend="reference") for given in (simulated, lower(simulated)))
    assert torch.equal(first(images), second(images))


def test_the_model_stays_as_it_is(model, images):
    before = copy.deepcopy(model.state_dict())
    fused = fuse(model, torch.float16, backend="reference")
    assert fused(images[:1]).dtype == torch.float16
    after = model.state_dict()
    assert before.keys() == after.keys() and all(torch.equal(before[key], after[key]) for key in before)
    assert len(model.layers) == 2 and model.blocks().keys() == fused.blocks().keys()
    assert fused.info == model.info and next(iter(model.parameters())).dtype == torch.float32


def test_a_fused_model_is_not_recorded_nor_counted(model, images):
    fused = fuse(model, torch.float32, backend="reference")
    why = "a fused model has no taps: what they would see never leaves its kernels"
    with pytest.raises(ValueError, match=why), record(fused, "layers.*"):
        pass
    for look in (lambda: audit(fused, images), lambda: effective_bits(fused), lambda: quantize(fused, images)):
        with pytest.raises(ValueError, match=why):
            look()
    with pytest.raises(KernelError, match="a fused model has no gradients"):
        fused(images.clone().requires_grad_())
    with pytest.raises(ValueError, match=re.escape("images are (1, 3, 8, 8), vim_nano takes (b, 3, 16, 16)")):
        fused(torch.zeros(1, 3, 8, 8))


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"bits": "w8a8", "scope": "ssm"}, r"is rounded, kernels round inputs and weights of linear layers only"),
        ({"bits": "w8a8", "method": "smoothquant"}, "is rounded in another basis than its own"),
        ({"bits": "w8a8", "method": "kscale"}, r"in_proj has the codes -128\.\.127, kernels round to -127\.\.127"),
        (
            {"bits": "w8a8", "method": "dynamic"},
            r"x_proj is rounded with the range of each row, which kernels find behind",
        ),
        ({"bits": "w4a8o16"}, "the outliers of layers.0.mixer.in_proj stay in floating point"),
        ({"bits": "w4a4o8", "outlier_steps": "channel"}, "in_proj is rounded per step, or its weight is not"),
    ],
)
def test_what_kernels_do_not_round_is_refused(model, images, settings, message):
    with pytest.raises(KernelError, match=message):
        fuse(simulated_of(model, images, **settings), torch.float32, backend="reference")


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("vmamba_tiny", "vmamba_tiny (vmamba) has other blocks than Vim"),
        ("localvim_tiny", "has other blocks than Vim: layers.0 is a ouro.models.localmamba.RotatingBlock"),
        ("localvim_tiny_cls", "localvim_tiny_cls (localvim) differs from Vim in layers.0: its scans read tokens"),
        ("mambavision_t", "has other blocks than Vim"),
    ],
)
def test_other_families_are_refused(name, message):
    with pytest.raises(KernelError, match=re.escape(message)):
        fuse(zoo.small(name), torch.float32, backend="reference")


def test_wrong_use_is_refused(model, images, monkeypatch):
    with pytest.raises(KernelError, match="fuse cannot run; dtype is torch.float64, expected one of torch.float16"):
        fuse(model, torch.float64)
    with pytest.raises(KernelError, match="unknown backend 'cuda'; known: triton, reference"):
        fuse(model, backend="cuda")
    with pytest.raises(ValueError, match="outliers is 'some'; known: exact, grid"):
        fuse(model, outliers="some")
    fused = fuse(model, torch.float32, backend="reference")
    with pytest.raises(KernelError, match=re.escape("vim_nano (vim) is fused already")):
        fuse(fused)
    with pytest.raises(KernelError, match="a CUDA graph takes images on a CUDA device, these are on cpu"):
        graphed(fused, images)
    monkeypatch.setattr("ouro.kernels.launch.interpreted", lambda: False)
    with pytest.raises(
        KernelError, match="fuse cannot run; tried triton: it runs on CUDA devices, the inputs are on cpu"
    ):
        fuse(model)


@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device")
def test_a_graph_replays_the_forward(model, images, where):
    fused = fuse(copy.deepcopy(model).to(where), torch.float16)
    recorded = graphed(fused, images.to(where))
    other = noise_images(model, 3, seed=7).to(where)
    assert torch.equal(recorded(other), fused(other))
    with pytest.raises(KernelError, match=re.escape("the graph was recorded for images of shape (3, 3, 16, 16)")):
        recorded(other[:1])


def test_gate_writes_a_line_per_format(model, capsys, monkeypatch):
    monkeypatch.setattr(
        gate, "fused_of", lambda model, format, backend="": fuse(model, format.dtype, backend="reference")
    )
    monkeypatch.setattr(gate, "interpreted", lambda: True)
    gate.main(["vim_nano"])
    rows = [json.loads(line) for line in capsys.readouterr().out.splitlines()]
    assert [row["format"] for row in rows] == list(FORMATS)
    assert all(row["passed"] for row in rows), [row["complaint"] for row in rows]
