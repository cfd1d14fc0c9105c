"""VMamba: parity with the official code, and the four paths its mixers walk."""

from __future__ import annotations

from collections import Counter

import numpy as np
import pytest
import torch

from ouro.models import create_model
from ouro.models.layers import as_map
from ouro.scan.order import column_major, reverse, row_major
from ouro.taps import record
from tests import golden


@pytest.fixture(scope="module")
def official_run():
    """vmamba_tiny with the recipe's weights, its logits, and what its taps and stages put out."""
    manifest, arrays = golden.load("vmamba_tiny")
    model = create_model("vmamba_tiny", pretrained=golden.state(manifest))
    outputs = {}
    for path, block in model.blocks().items():
        block.register_forward_hook(lambda _m, _i, out, path=path: outputs.update({path: out[0]}))
    with torch.no_grad(), record(model, "*.tap_out", "*.scans.*") as trace:
        logits = model(golden.images())
    return manifest, arrays, model, logits, trace, outputs


def test_the_key_map_is_a_bijection_onto_the_official_keys(official_run) -> None:
    manifest, _, model, *_ = official_run
    places = [model.official(key) for key in model.state_dict()]
    assert len(set(places)) == len(places)
    assert {place.key for place in places} == set(manifest["keys"])
    # of every stacked tensor each part is used once
    for key, count in Counter(place.key for place in places).items():
        assert {place.parts for place in places if place.key == key} == {count}


def test_logits_agree_with_the_official_code(official_run) -> None:
    _, arrays, _, logits, *_ = official_run
    assert np.abs(logits.numpy() - arrays["logits"]).max() < 5e-5
    assert np.abs(logits.numpy() - arrays["logits_fp64"]).max() < 5e-5


def test_every_block_agrees_with_the_official_code(official_run) -> None:
    _, arrays, model, _, trace, outputs = official_run
    expected = dict(zip(map(str, arrays["act_names"]), arrays["act_stats"], strict=True))
    activations = {}
    for i, stage in enumerate(model.stages):
        for j in range(len(stage.blocks)):
            activations[f"layers.{i}.blocks.{j}"] = as_map(outputs[f"stages.{i}.blocks.{j}"], stage.grid)
            activations[f"layers.{i}.blocks.{j}.op"] = as_map(
                trace.tensors[f"stages.{i}.blocks.{j}.tap_out"], stage.grid
            )
        if stage.shrink is not None:
            activations[f"layers.{i}.downsample"] = as_map(outputs[f"stages.{i}.shrink"], model.stages[i + 1].grid)
    common = set(activations) & set(expected)
    assert len(common) == 19, sorted(expected)
    for name in common:
        np.testing.assert_allclose(golden.stats(activations[name]), expected[name], atol=5e-5, err_msg=name)


def test_step_sizes_agree_with_the_official_code(official_run) -> None:
    _, arrays, _, _, trace, _ = official_run
    means = np.array([scan.inputs.delta.mean().item() for scan in trace.scans]).reshape(-1, 4).mean(1)
    np.testing.assert_allclose(means, arrays["scan_delta_mean"], rtol=1e-5)


def test_the_paths_are_rows_columns_and_their_reverses(official_run) -> None:
    trace = official_run[4]
    rows, columns = row_major((56, 56)), column_major((56, 56))
    assert [scan.order for scan in trace.scans[:4]] == [rows, columns, reverse(rows), reverse(columns)]
    # index formulas of the official cross scan on a 3 x 4 map
    H, W = 3, 4
    assert column_major((H, W)).cells == tuple((step % H) * W + step // H for step in range(H * W))
