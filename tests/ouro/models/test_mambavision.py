"""MambaVision: parity with the official code, and what windows do to scans and maps of other sizes."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from torch.nn import functional as F

from ouro.models import create_model
from ouro.models.layers import as_map
from ouro.models.mambavision import official_key
from ouro.models.windows import Windows
from ouro.scan.order import raster_steps, row_major
from ouro.taps import record
from ouro.types import PADDING
from tests import golden

SMALL = {
    "width": 8, "stem": 8, "depths": (1, 1, 4, 2), "heads": (1, 1, 2, 4), "windows": (8, 8, 4, 2), "image": 64,
    "num_classes": 5,
}  # fmt: skip


@pytest.fixture(scope="module")
def official_run():
    """mambavision_t with the recipe's weights, its logits, and what its taps and blocks put out."""
    manifest, arrays = golden.load("mambavision_t")
    model = create_model("mambavision_t", pretrained=golden.state(manifest))
    outputs = {}
    for path in ("embed", "norm", *model.blocks()):
        model.get_submodule(path).register_forward_hook(lambda _m, _i, out, path=path: outputs.update({path: out}))
    with torch.no_grad(), record(model, "*.tap_out", "*.scans.*", "stages.2.blocks.0.mixer.scans.0.tap_h") as trace:
        logits = model(golden.images())
    return manifest, arrays, model, logits, trace, outputs


def test_the_key_map_is_a_bijection_onto_the_official_keys(official_run) -> None:
    manifest, _, model, *_ = official_run
    ours = {key: list(value.shape) for key, value in model.state_dict().items()}
    assert {official_key(key): shape for key, shape in ours.items()} == manifest["keys"]
    assert len({official_key(key) for key in ours}) == len(ours) == 252


def test_logits_agree_with_the_official_code(official_run) -> None:
    _, arrays, _, logits, *_ = official_run
    assert np.abs(logits.numpy() - arrays["logits"]).max() < 5e-5
    assert np.abs(logits.numpy() - arrays["logits_fp64"]).max() < 5e-5


def test_every_block_agrees_with_the_official_code(official_run) -> None:
    _, arrays, model, _, trace, outputs = official_run
    activations = {
        "patch_embed": as_map(outputs["embed"], (56, 56)),
        "norm": as_map(outputs["norm"], (7, 7)),
        "avgpool": outputs["norm"].mean(1),
        "levels.2.blocks.0.mixer": trace.tensors["stages.2.blocks.0.tap_out"],
    }
    for i, stage in enumerate(model.stages):
        for j in range(len(stage.blocks)):
            (out,) = outputs[f"stages.{i}.blocks.{j}"]
            # the official code has maps in stages of convolutions and tokens in the others
            activations[f"levels.{i}.blocks.{j}"] = as_map(out, stage.grid) if i < 2 else out
        activations[f"levels.{i}"] = as_map(out, stage.grid)
        if stage.shrink is not None:
            activations[f"levels.{i}"] = as_map(outputs[f"stages.{i}.shrink"][0], model.stages[i + 1].grid)
    expected = dict(zip(map(str, arrays["act_names"]), arrays["act_stats"], strict=True))
    assert set(activations) == set(expected)
    for name, stats in expected.items():
        np.testing.assert_allclose(golden.stats(activations[name]), stats, atol=5e-5, err_msg=name)


def test_step_sizes_and_states_agree_with_the_official_code(official_run) -> None:
    _, arrays, _, _, trace, _ = official_run
    means = [scan.inputs.delta.mean().item() for scan in trace.scans]
    spreads = [scan.inputs.delta.std(unbiased=False).item() for scan in trace.scans]
    np.testing.assert_allclose(means, arrays["scan_delta_mean"], rtol=1e-5)
    np.testing.assert_allclose(spreads, arrays["scan_delta_std"], rtol=1e-5)
    h = trace.scans[0].h
    np.testing.assert_allclose(golden.stats(h[:, :, 0]), arrays["scan0_h_first"], atol=1e-6)
    np.testing.assert_allclose(golden.stats(h[:, :, -1]), arrays["scan0_h_last"], atol=1e-6)


def test_one_window_scans_the_map(official_run) -> None:
    _, _, model, _, trace, _ = official_run
    assert [scan.order.grid for scan in trace.scans] == [(14, 14)] * 4 + [(7, 7)] * 2
    assert trace.scans[0].order == row_major((14, 14))
    assert [(stage.L, stage.N, stage.E) for stage in model.info.stages[2:]] == [(196, 8, 160), (49, 8, 320)]
    assert [stage.N for stage in model.info.stages[:2]] == [0, 0]


@pytest.mark.full
@pytest.mark.parametrize(
    ("name", "keys", "parameters", "total", "first"),
    [
        ("mambavision_s", 285, 50_140_584, -57.619453, -2.963801),
        pytest.param("mambavision_b", 356, 97_685_288, 245.555265, -4.703128, marks=pytest.mark.slow),
    ],
)
def test_larger_models_agree_with_the_official_checksums(name, keys, parameters, total, first) -> None:
    model = create_model(name)
    shapes = {official_key(key): list(value.shape) for key, value in model.state_dict().items()}
    assert (len(shapes), sum(p.numel() for p in model.parameters())) == (keys, parameters)
    model = create_model(name, pretrained=golden.state({"keys": shapes}))
    with torch.no_grad():
        logits = model(golden.images())
    assert logits[0, 0].item() == pytest.approx(first, abs=5e-5)
    assert logits.double().sum().item() == pytest.approx(total, abs=5e-3)


@pytest.mark.parametrize(("grid", "side"), [((4, 4), 2), ((5, 7), 3), ((3, 2), 4), ((4, 4), 4)])
def test_windows_hold_what_the_map_holds(grid: tuple[int, int], side: int) -> None:
    windows, (height, width) = Windows(grid, side), grid
    maps = torch.randn(2, 3, height, width, generator=torch.Generator().manual_seed(0))
    tokens = maps.flatten(2).transpose(1, 2)
    split = windows.split(windows.pad(tokens))
    rows, columns = -(-height // side), -(-width // side)
    padded = F.pad(maps, (0, columns * side - width, 0, rows * side - height))
    for image in range(2):
        for row in range(rows):
            for column in range(columns):
                window = padded[image, :, row * side :, column * side :][:, :side, :side]
                got = split[(image * rows + row) * columns + column]
                assert torch.equal(got, window.flatten(1).T)
    assert torch.equal(windows.crop(windows.join(split)), tokens)


def test_padded_cells_of_a_single_window_read_no_patch() -> None:
    order = Windows((2, 3), 4).order()
    assert order.grid == (2, 3)
    assert [cell for cell in order.cells if cell != PADDING] == list(range(6))
    assert raster_steps(order).tolist() == [0, 1, 2, 4, 5, 6]


def test_scans_of_several_windows_have_a_row_for_each() -> None:
    # 8 x 8 and 4 x 4 cells in windows of 4 and 2 at 128 pixels
    model = create_model("mambavision_t", **SMALL | {"image": 128})
    with torch.no_grad(), record(model, "*.scans.*") as trace:
        logits = model(torch.randn(2, 3, 128, 128, generator=torch.Generator().manual_seed(0)))
    assert logits.shape == (2, 5)
    assert [tuple(scan.y.shape) for scan in trace.scans] == [(8, 16, 16), (8, 16, 16), (8, 32, 4)]
    assert [scan.order for scan in trace.scans] == [row_major((4, 4))] * 2 + [row_major((2, 2))]


def _windowed_on_maps(stage, x, side: int):
    """A stage of blocks done the long way: the padded map [b c h w], window by window."""
    for block in stage.blocks:
        grown = torch.zeros_like(x)
        for top in range(0, x.shape[2], side):
            for left in range(0, x.shape[3], side):
                window = x[:, :, top : top + side, left : left + side].flatten(2).transpose(1, 2)
                window = window + block.mixer(block.norm1(window))
                window = window + block.mlp(block.norm2(window))
                grown[:, :, top : top + side, left : left + side] = as_map(window, (side, side))
        x = grown
    return x


@pytest.mark.parametrize("image", [48, 64, 72, 96, 136])
def test_other_sizes_are_padded_once_per_stage(image: int) -> None:
    model = create_model("mambavision_t", **SMALL | {"image": image})
    shapes = {official_key(key): list(value.shape) for key, value in model.state_dict().items()}
    model = create_model("mambavision_t", pretrained=golden.state({"keys": shapes}), **SMALL | {"image": image})
    with torch.no_grad():
        _, maps = model.forward_intermediates(
            torch.randn(2, 3, image, image, generator=torch.Generator().manual_seed(0))
        )
        for i, side in ((2, 4), (3, 2)):
            (height, width), (before, stage) = model.stages[i].grid, model.stages[i - 1 : i + 1]
            x = as_map(before.shrink(maps[i - 1].flatten(2).transpose(1, 2))[0], stage.grid)
            x = _windowed_on_maps(stage, F.pad(x, (0, -width % side, 0, -height % side)), side)
            torch.testing.assert_close(maps[i], x[:, :, :height, :width], atol=2e-5, rtol=1e-5)


def test_a_small_one_is_a_matter_of_its_config() -> None:
    nano = {"width": 16, "stem": 8, "depths": (1, 2, 2), "heads": (1, 2, 4), "windows": (1, 7, 4), "conv_stages": 1}
    model = create_model("mambavision_t", **nano, image=56, num_classes=8, layer_scale=1e-5).train()
    logits = model(torch.randn(4, 3, 56, 56, generator=torch.Generator().manual_seed(0)))
    logits.square().mean().backward()
    assert logits.shape == (4, 8)
    assert [stage.grid for stage in model.info.stages] == [(14, 14), (7, 7), (4, 4)]
    assert all(parameter.grad is not None for parameter in model.parameters())


def test_errors_say_what_is_allowed() -> None:
    with pytest.raises(ValueError, match="depths, heads and windows are for 2, 4 and 4 stages; give one of each"):
        create_model("mambavision_t", depths=(1, 2))
    with pytest.raises(ValueError, match="320 channels cannot be divided among 7 heads"):
        create_model("mambavision_t", heads=(2, 4, 7, 16))
