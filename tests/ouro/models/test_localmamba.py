"""LocalMamba: parity with the official code, the paths by their names, and what a config may ask for."""

from __future__ import annotations

from collections import Counter

import numpy as np
import pytest
import torch

from ouro.models import create_model, load_checkpoint
from ouro.models.localmamba import LocalVim, LocalVimConfig, LocalVMamba, LocalVMambaConfig, Rope, direction
from ouro.scan.order import class_step, column_major, reverse, row_major, window
from ouro.taps import record
from ouro.types import CLASS_TOKEN
from tests import golden


def _run(name: str, official: str):
    """A model with the recipe's weights, its logits, and what its taps and blocks put out."""
    manifest, arrays = golden.load(official)
    model = create_model(name, pretrained=golden.state(manifest))
    outputs = {}
    for path, block in model.blocks().items():
        block.register_forward_hook(lambda _m, _i, out, path=path: outputs.update({path: out}))
    with torch.no_grad(), record(model, "*.tap_out", "*.scans.*") as trace:
        logits = model(golden.images())
    return manifest, arrays, model, logits, trace, outputs


@pytest.fixture(scope="module")
def vim_run():
    return _run("localvim_tiny", "localvim_t")


@pytest.fixture(scope="module")
def vmamba_run():
    return _run("localvmamba_tiny", "localvmamba_t")


def _check_key_map(model, keys: set[str]) -> None:
    places = [model.official(key) for key in model.state_dict()]
    assert len(set(places)) == len(places)
    assert {place.key for place in places} == keys
    # of every stacked tensor each part is used once
    for key, count in Counter(place.key for place in places).items():
        assert {place.parts for place in places if place.key == key} == {count}


def test_localvim_has_the_official_keys_each_once(vim_run) -> None:
    manifest, _, model, *_ = vim_run
    _check_key_map(model, {key for key in manifest["keys"] if not key.startswith("rope.freqs_")})
    assert sum(parameter.numel() for parameter in model.parameters()) == manifest["n_params"] == 7994152


def test_localvim_logits_agree_with_the_official_code(vim_run) -> None:
    _, arrays, _, logits, *_ = vim_run
    assert np.abs(logits.numpy() - arrays["logits"]).max() < 5e-5
    assert np.abs(logits.numpy() - arrays["logits_fp64"]).max() < 5e-5


def test_every_localvim_layer_agrees_with_the_official_code(vim_run) -> None:
    _, arrays, _, _, _, outputs = vim_run
    expected = dict(zip(map(str, arrays["act_names"]), arrays["act_stats"], strict=True))
    for layer in range(20):
        for part, name in zip(outputs[f"layers.{layer}"], ("hidden", "residual"), strict=True):
            label = f"layers.{layer}.{name}"
            np.testing.assert_allclose(golden.stats(part), expected[label], atol=5e-5, err_msg=label)


def test_localvim_step_sizes_agree_with_the_official_code(vim_run) -> None:
    _, arrays, _, _, trace, _ = vim_run
    means = [scan.inputs.delta.mean().item() for scan in trace.scans]
    np.testing.assert_allclose(means, arrays["scan_delta_mean"], rtol=1e-5)


def test_localvim_walks_the_searched_paths(vim_run) -> None:
    _, arrays, _, _, trace, _ = vim_run
    names = [name for layer in arrays["directions"] for name in str(layer).split(",")]
    assert [scan.order for scan in trace.scans] == [direction(name, (14, 14)) for name in names]


def test_the_official_tables_of_angles_may_be_there_or_not(vim_run) -> None:
    manifest, _, model, *_ = vim_run
    tables = {f"rope.freqs_{name}": getattr(model.layers[0].rope, name) for name in ("cos", "sin")}
    assert {key: list(table.shape) for key, table in tables.items()} == {key: manifest["keys"][key] for key in tables}
    with_tables = model.from_official(golden.state(manifest) | tables)
    assert set(with_tables) == set(model.state_dict()) == set(model.from_official(golden.state(manifest)))


def test_tokens_turn_by_row_and_by_column() -> None:
    # 8 channels: a fast and a slow pair for the row, the same for the column; 7 rows are 2 of 14 places apart
    x = torch.randn(1, 7 * 14, 8, dtype=torch.float64)
    turned = Rope(8, (7, 14))(x)
    token, row, column = 3 * 14 + 5, 3, 5
    for pair, angle in enumerate((row * 2.0, row * 2 * 0.01, column * 1.0, column * 0.01)):
        a, b = x[0, token, 2 * pair : 2 * pair + 2]
        expected = torch.stack([a * np.cos(angle) - b * np.sin(angle), b * np.cos(angle) + a * np.sin(angle)])
        torch.testing.assert_close(turned[0, token, 2 * pair : 2 * pair + 2], expected, rtol=0, atol=1e-5)


CHECKSUMS = {
    # parameters, official keys without tables, sum of the two images' logits, the first of them; all by the official code
    "localvim_tiny_cls": (7994536, 747, -60.782885, -0.201058),
    "localvim_small": (27783784, 746, -9.226938, 0.066415),
    "localvmamba_small": (49748536, 644, 5.942869, 0.158163),
}


@pytest.mark.full
@pytest.mark.parametrize(
    "name", [pytest.param(name, marks=pytest.mark.slow if "small" in name else ()) for name in CHECKSUMS]
)
def test_the_others_have_the_official_checksums(name: str) -> None:
    parameters, keys, total, first = CHECKSUMS[name]
    model = create_model(name)
    official = {}
    for key, value in model.state_dict().items():
        place = model.official(key)
        # A_logs and Ds lie one after the other, the rest of what is stacked has an axis of its own
        flat = place.parts == 1 or place.key.endswith(("A_logs", "Ds"))
        shape = list(value.shape)
        official[place.key] = [place.parts * shape[0], *shape[1:]] if flat else [place.parts, *shape]
    assert len(official) == keys
    assert sum(parameter.numel() for parameter in model.parameters()) == parameters
    load_checkpoint(model, golden.state({"keys": official}))
    with torch.no_grad():
        logits = model(golden.images())
    assert abs(logits.double().sum().item() - total) < 1e-3
    assert abs(logits[0, 0].item() - first) < 5e-5


def test_localvmamba_has_the_official_keys_each_once(vmamba_run) -> None:
    manifest, _, model, *_ = vmamba_run
    _check_key_map(model, set(manifest["keys"]))
    assert sum(parameter.numel() for parameter in model.parameters()) == manifest["n_params"] == 25527160


def test_localvmamba_logits_agree_with_the_official_code(vmamba_run) -> None:
    _, arrays, _, logits, *_ = vmamba_run
    assert np.abs(logits.numpy() - arrays["logits"]).max() < 5e-5
    assert np.abs(logits.numpy() - arrays["logits_fp64"]).max() < 5e-5


def test_every_localvmamba_block_agrees_with_the_official_code(vmamba_run) -> None:
    _, arrays, model, _, trace, outputs = vmamba_run
    expected = dict(zip(map(str, arrays["act_names"]), arrays["act_stats"], strict=True))
    activations = {}
    for i, stage in enumerate(model.stages):
        for j in range(len(stage.blocks)):
            activations[f"layers.{i}.blocks.{j}"] = outputs[f"stages.{i}.blocks.{j}"][0]
            activations[f"layers.{i}.blocks.{j}.op"] = trace.tensors[f"stages.{i}.blocks.{j}.tap_out"]
        if stage.shrink is not None:
            activations[f"layers.{i}.downsample"] = outputs[f"stages.{i}.shrink"][0]
    # the rest: the stem, the last norm, and the identity behind the last stage
    assert set(expected) - set(activations) == {"patch_embed", "layers.3.downsample", "classifier.norm"}
    for name in set(expected) & set(activations):
        np.testing.assert_allclose(golden.stats(activations[name]), expected[name], atol=5e-5, err_msg=name)


def test_localvmamba_walks_the_searched_paths(vmamba_run) -> None:
    _, arrays, model, _, trace, _ = vmamba_run
    orders = iter(scan.order for scan in trace.scans)
    grids = [stage.grid for stage in model.stages for _ in stage.blocks]
    for names, grid in zip(arrays["directions"], grids, strict=True):
        assert [next(orders) for _ in range(4)] == [direction(name, grid) for name in str(names).split(",")]


def test_a_direction_is_a_path_by_name() -> None:
    grid = (4, 6)
    assert direction("h", grid) == row_major(grid) and direction("h_flip", grid) == reverse(row_major(grid))
    assert direction("v", grid) == column_major(grid) and direction("v_flip", grid) == reverse(column_major(grid))
    assert direction("w2", grid) == window(grid, 2) and direction("w7_flip", grid) == reverse(window(grid, 7))
    with pytest.raises(ValueError, match="unknown direction 'x2'; known: h, v, w2, w7"):
        direction("x2", grid)


def test_the_class_token_is_read_at_the_same_step_of_every_path() -> None:
    # an odd number of cells, and windows that stick out: reversing would move it
    for name in ("h", "h_flip", "v", "v_flip", "w2", "w2_flip", "w7_flip"):
        order = direction(name, (5, 5), 12)
        assert class_step(order) == 12
        assert [cell for cell in order.cells if cell != CLASS_TOKEN] == list(direction(name, (5, 5)).cells)


@pytest.mark.parametrize("class_token", [True, False])
def test_a_small_localvim_learns_from_its_first_step(class_token: bool) -> None:
    torch.manual_seed(0)
    paths = (("h", "h_flip", "w2", "w2_flip"), ("v", "w7"), ("v_flip", "w3_flip"))
    config = LocalVimConfig(16, paths, not class_token, class_token, image=20, patch=4, states=4, num_classes=5)
    model = LocalVim(config)
    assert model.info.cls_index == (12 if class_token else None)
    (stage,) = model.info.stages
    assert stage.grid == (5, 5) and stage.L - class_token == 25
    # the official start: no bias of the step size, and a class token of zeros
    assert all(not layer.mixer.scans[0].dt_proj.bias.any() for layer in model.layers)
    model(torch.randn(2, 3, 20, 20)).logsumexp(1).sum().backward()
    assert all(p.grad is not None and p.grad.isfinite().all() for p in model.parameters())


def test_a_small_localvmamba_learns_from_its_first_step() -> None:
    torch.manual_seed(0)
    paths = (("h", "h_flip", "w2", "w2_flip"), ("v", "w7"), ("v_flip", "w3", "w3_flip"))
    # 28 / 4 = 7 and then 4 patches a side: windows of 2 and 7 stick out, and the merged map is padded
    config = LocalVMambaConfig(16, (2, 1), paths, states=4, image=28, num_classes=5)
    model = LocalVMamba(config)
    assert [stage.grid for stage in model.info.stages] == [(7, 7), (4, 4)]
    model(torch.randn(2, 3, 28, 28)).logsumexp(1).sum().backward()
    assert all(p.grad is not None and p.grad.isfinite().all() for p in model.parameters())


def test_directions_are_given_for_every_block() -> None:
    with pytest.raises(ValueError, match="directions are given for 1 blocks, the depths make 3"):
        LocalVMamba(LocalVMambaConfig(16, (2, 1), (("h",),), image=28))


def test_a_localvim_refuses_what_the_official_code_has_no_rule_for() -> None:
    with pytest.raises(ValueError, match="image is 30 and width 16, expected multiples of patch = 16 and of 4"):
        LocalVim(LocalVimConfig(16, (("h",),), image=30))
    with pytest.raises(
        ValueError, match="a class token has no place to be rotated by; set rope or class_token to False"
    ):
        LocalVim(LocalVimConfig(16, (("h",),), class_token=True))
