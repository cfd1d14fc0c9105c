"""ZigMa: parity with the official code, its eight paths, and what its time and its latents may be."""

from __future__ import annotations

from itertools import pairwise

import numpy as np
import pytest
import timm
import torch

from ouro.jobs.catalog import catalog
from ouro.models import create_model
from ouro.models.zigma import official_key
from ouro.scan.order import raster_steps, zigzag
from ouro.taps import record
from tests import golden

SMALL = {"width": 32, "depth": 3, "image": 6}


@pytest.fixture(scope="module")
def official_run():
    """zigma_zigzag8 with the recipe's weights, its output, and what its taps and blocks put out."""
    manifest, arrays = golden.load("zigma_zigzag8_b1_pe2")
    model = create_model("zigma_zigzag8", pretrained=golden.state(manifest))
    outputs = {}

    def keep(name, index=None):
        return lambda _m, _i, out: outputs.update({name: golden.stats(out if index is None else out[index])})

    # the stats alone: the activations of all blocks would fill half a gigabyte
    for i, block in enumerate(model.layers):
        block.register_forward_hook(keep(f"blocks.{i}.hidden", 0))
        block.register_forward_hook(keep(f"blocks.{i}.residual", 1))
    for name, path in (("x_embedder", "patch_embed"), ("t_embedder", "time_embed"), ("final_layer", "head"),
                       ("blocks.0.mixer", "layers.0.tap_out"), ("blocks.1.mixer", "layers.1.tap_out")):  # fmt: skip
        model.get_submodule(path).register_forward_hook(keep(name))
    latents = torch.randn(2, 4, 32, 32, generator=torch.Generator().manual_seed(0))
    with torch.no_grad(), record(model, "*.tap_delta") as trace:
        output = model(latents, torch.from_numpy(arrays["t"]))
    return arrays, output, outputs, trace


@pytest.mark.slow
def test_output_agrees_with_the_official_code(official_run) -> None:
    arrays, output, *_ = official_run
    assert np.abs(output.numpy() - arrays["output"]).max() < 5e-5
    assert np.abs(output.numpy() - arrays["output_fp64"]).max() < 5e-5


@pytest.mark.slow
def test_every_block_agrees_with_the_official_code(official_run) -> None:
    arrays, _, outputs, _ = official_run
    expected = dict(zip(map(str, arrays["act_names"]), arrays["act_stats"], strict=True))
    assert set(outputs) == set(expected)
    for name, stats in expected.items():
        np.testing.assert_allclose(outputs[name], stats, atol=5e-5, err_msg=name)


@pytest.mark.slow
def test_step_sizes_agree_with_the_official_code(official_run) -> None:
    arrays, _, _, trace = official_run
    deltas = list(trace.tensors.values())
    np.testing.assert_allclose([delta.mean().item() for delta in deltas], arrays["scan_delta_mean"], rtol=1e-5)
    spreads = [delta.std(unbiased=False).item() for delta in deltas]
    np.testing.assert_allclose(spreads, arrays["scan_delta_std"], rtol=1e-5)


@pytest.mark.unpoisoned
def test_the_key_map_is_a_bijection_onto_the_official_keys() -> None:
    manifest, _ = golden.load("zigma_zigzag8_b1_pe2")
    with torch.device("meta"):
        model = create_model("zigma_zigzag8")
    ours = {key: list(value.shape) for key, value in model.state_dict().items()}
    assert {official_key(key): shape for key, shape in ours.items()} == manifest["keys"]
    assert len({official_key(key) for key in ours}) == len(ours) == 298


def test_the_paths_are_the_official_ones() -> None:
    _, arrays = golden.load("zigma_zigzag8_b1_pe2")
    orders = [zigzag((32, 32), index) for index in range(8)]
    assert np.array_equal([order.cells for order in orders], arrays["zigzag_paths_first8"])
    assert np.array_equal([raster_steps(order) for order in orders], arrays["zigzag_paths_reverse_first8"])


@pytest.mark.parametrize("grid", [(1, 1), (2, 3), (4, 3), (5, 5)])
def test_paths_turn_around_at_borders_and_never_jump(grid: tuple[int, int]) -> None:
    corners = {(top, left) for top in (0, grid[0] - 1) for left in (0, grid[1] - 1)}
    starts = set()
    for index in range(8):
        cells = [divmod(cell, grid[1]) for cell in zigzag(grid, index).cells]
        assert sorted(cells) == [(row, column) for row in range(grid[0]) for column in range(grid[1])]
        assert all(abs(a - c) + abs(b - d) == 1 for (a, b), (c, d) in pairwise(cells))
        starts.add(cells[0])
    assert starts == corners
    with pytest.raises(ValueError, match="zigzag path is 8, expected 0 to 7"):
        zigzag(grid, 8)


def test_each_layer_walks_the_next_path() -> None:
    model = create_model("zigma_zigzag8", **SMALL | {"depth": 10})
    orders = [order for (order,) in model.mixers().values()]
    assert orders == [zigzag((6, 6), layer % 8) for layer in range(10)]


def test_no_time_means_half() -> None:
    model = _drawn(**SMALL)
    latents = torch.randn(2, 4, 6, 6, generator=torch.Generator().manual_seed(0))
    with torch.no_grad():
        assert torch.equal(model(latents), model(latents, torch.tensor([0.5, 0.5])))
        mixed = model(latents, torch.tensor([0.5, 0.9]))
        assert torch.equal(mixed[0], model(latents)[0]) and not torch.equal(mixed[1], model(latents)[1])
        tokens = model.forward_features(latents)
        assert torch.equal(model.forward_head(tokens, pre_logits=True), tokens.mean(1))


def test_patches_come_back_where_they_were() -> None:
    model = _drawn(**SMALL | {"patch": 2})
    latents = torch.randn(1, 4, 6, 6, generator=torch.Generator().manual_seed(0)).requires_grad_()
    with torch.no_grad():
        before = model(latents)
        model.head.bias += torch.arange(16.0)
        step = (model(latents) - before)[0]
    # the head puts out (row, column, channel) of a patch
    assert torch.allclose(step[:, 2:4, 4:6], torch.arange(16.0).view(2, 2, 4).permute(2, 0, 1), atol=1e-4)


@pytest.mark.unpoisoned
def test_it_is_listed_and_known_to_timm() -> None:
    (row,) = (row for row in catalog() if row["name"] == "zigma_zigzag8")
    assert row["input_size"] == [4, 32, 32] and row["classes"] == 0 and row["top1"] is None
    assert row["parameters"] == 134_624_260 and row["layers"] == 24 and row["steps"] == 1024
    model = timm.create_model("zigma_zigzag8", **SMALL)
    assert model.default_cfg["input_size"] == (4, 6, 6) and model.default_cfg["classifier"] is None
    assert model.get_submodule(model.default_cfg["first_conv"]).in_channels == 4


def test_errors_say_what_is_allowed() -> None:
    model = create_model("zigma_zigzag8", **SMALL)
    with pytest.raises(ValueError, match=r"images are \(1, 3, 6, 6\), zigma_zigzag8 takes \(b, 4, 6, 6\)"):
        model(torch.zeros(1, 3, 6, 6))
    with pytest.raises(ValueError, match=r"t is \(1,\), expected \(2,\): one time in \[0, 1\] for each latent"):
        model(torch.zeros(2, 4, 6, 6), torch.zeros(1))
    with pytest.raises(TypeError, match="unexpected keyword argument 'y'"):
        model(torch.zeros(2, 4, 6, 6), y=torch.zeros(2, 7, 32))
    with pytest.raises(
        ValueError,
        match="zigma_zigzag8 has no option 'has_text'; known: width, depth, patch, channels, states, kernel, expand, image, mean, std$",
    ):
        create_model("zigma_zigzag8", has_text=True)
    with pytest.raises(ValueError, match="zigma_zigzag8 hands out no features; features_only is for classifiers"):
        timm.create_model("zigma_zigzag8", features_only=True, **SMALL)


def _drawn(**config):
    """A model whose weights are the recipe's: as it starts, its mixers are switched off."""
    model = create_model("zigma_zigzag8", **config)
    shapes = {official_key(key): list(value.shape) for key, value in model.state_dict().items()}
    return create_model("zigma_zigzag8", pretrained=golden.state({"keys": shapes}), **config)
