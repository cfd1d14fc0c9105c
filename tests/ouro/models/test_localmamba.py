"""LocalMamba: parity with the official code, the paths by their names, and what a config may ask for."""

from __future__ import annotations

from collections import Counter

import numpy as np
import pytest
import torch

from ouro.models import create_model
from ouro.models.localmamba import LocalVMamba, LocalVMambaConfig, direction
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
def vmamba_run():
    return _run("localvmamba_tiny", "localvmamba_t")


def _check_key_map(model, keys: set[str]) -> None:
    places = [model.official(key) for key in model.state_dict()]
    assert len(set(places)) == len(places)
    assert {place.key for place in places} == keys
    # of every stacked tensor each part is used once
    for key, count in Counter(place.key for place in places).items():
        assert {place.parts for place in places if place.key == key} == {count}


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
    found = {}
    for i, stage in enumerate(model.stages):
        for j in range(len(stage.blocks)):
            found[f"layers.{i}.blocks.{j}"] = outputs[f"stages.{i}.blocks.{j}"][0]
            found[f"layers.{i}.blocks.{j}.op"] = trace.tensors[f"stages.{i}.blocks.{j}.tap_out"]
        if stage.shrink is not None:
            found[f"layers.{i}.downsample"] = outputs[f"stages.{i}.shrink"][0]
    # the rest: the stem, the last norm, and the identity behind the last stage
    assert set(expected) - set(found) == {"patch_embed", "layers.3.downsample", "classifier.norm"}
    for name in set(expected) & set(found):
        np.testing.assert_allclose(golden.stats(found[name]), expected[name], atol=5e-5, err_msg=name)


def test_localvmamba_walks_the_searched_paths(vmamba_run) -> None:
    _, arrays, model, _, trace, _ = vmamba_run
    found = iter(scan.order for scan in trace.scans)
    grids = [stage.grid for stage in model.stages for _ in stage.blocks]
    for names, grid in zip(arrays["directions"], grids, strict=True):
        assert [next(found) for _ in range(4)] == [direction(name, grid) for name in str(names).split(",")]


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
