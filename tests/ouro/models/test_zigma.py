"""ZigMa: parity with the official code, its eight paths, and what its time and its latents may be."""

from __future__ import annotations

from itertools import pairwise

import numpy as np
import pytest
import timm
import torch

from ouro.jobs.catalog import catalog_row
from ouro.models import create_model
from ouro.models.shapes import read_image
from ouro.models.zigma import official_key
from ouro.scan.order import raster_steps, zigzag
from ouro.taps import record
from ouro.types import NO_CLASS
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


@pytest.mark.full
@pytest.mark.slow
def test_output_agrees_with_the_official_code(official_run) -> None:
    arrays, output, *_ = official_run
    assert np.abs(output.numpy() - arrays["output"]).max() < 5e-5
    assert np.abs(output.numpy() - arrays["output_fp64"]).max() < 5e-5


@pytest.mark.full
@pytest.mark.slow
def test_every_block_agrees_with_the_official_code(official_run) -> None:
    arrays, _, outputs, _ = official_run
    expected = dict(zip(map(str, arrays["act_names"]), arrays["act_stats"], strict=True))
    assert set(outputs) == set(expected)
    for name, stats in expected.items():
        np.testing.assert_allclose(outputs[name], stats, atol=5e-5, err_msg=name)


@pytest.mark.full
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
    row = catalog_row("zigma_zigzag8")
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
    with pytest.raises(ValueError, match="^zigma_zigzag8 is told the time alone; leave y out$"):
        model(torch.zeros(2, 4, 6, 6), y=torch.zeros(2, dtype=torch.int64))
    with pytest.raises(
        ValueError,
        match="zigma_zigzag8 has no option 'has_text'; known: width, depth, patch, channels, states, kernel, expand, image, mean, std, "
        "num_classes, class_names, guided, context$",
    ):
        create_model("zigma_zigzag8", has_text=True)
    with pytest.raises(ValueError, match="zigma_zigzag8 hands out no features; features_only is for classifiers"):
        timm.create_model("zigma_zigzag8", features_only=True, **SMALL)


CLASSES = {"num_classes": 3, "guided": True}


def test_a_class_is_added_to_the_time() -> None:
    model = _drawn(**SMALL, **CLASSES)
    latents, t = torch.randn(2, 4, 6, 6, generator=torch.Generator().manual_seed(0)), torch.tensor([0.1, 0.8])
    assert model.class_embed is not None
    with torch.no_grad():
        expected = model.time_embed(t) + model.class_embed.weight[[2, 0]]
        assert torch.equal(model.stem(latents, t, torch.tensor([2, 0]))[2], expected)
        # the row after the classes is that of no class, which is what is meant where none is said
        free = model(latents, t)
        assert torch.equal(free, model(latents, t, torch.tensor([NO_CLASS, NO_CLASS])))
        mixed = model(latents, t, torch.tensor([NO_CLASS, 1]))
        assert torch.equal(mixed[0], free[0]) and not torch.equal(mixed[1], free[1])
        assert torch.equal(model.stem(latents, t)[2], model.time_embed(t) + model.class_embed.weight[3])


def test_classes_have_the_official_names_and_are_read_from_checkpoints() -> None:
    model = _drawn(**SMALL, **CLASSES)
    state = {official_key(key): value for key, value in model.state_dict().items()}
    # CompVis/zigma, model_zigma.py, LabelEmbedder
    assert state["y_embedder.embedding_table.weight"].shape == (4, 32)
    official = create_model("zigma_zigzag8", pretrained=state, image=6)
    assert official.num_classes == 4 and not official.config.guided
    ours = create_model("zigma_nano", pretrained=state, mean=(0.0,) * 4, std=(1.0,) * 4)
    assert ours.num_classes == 3 and ours.config.guided and ours.info.class_names == ()
    bare = create_model("zigma_nano", pretrained=_drawn(**SMALL).state_dict(), mean=(0.0,) * 4, std=(1.0,) * 4)
    assert bare.num_classes == 0 and bare.class_embed is None


def test_zigma_nano_walks_every_path_and_knows_its_classes() -> None:
    model = create_model("zigma_nano")
    assert [order for (order,) in model.mixers().values()] == [zigzag((8, 8), layer) for layer in range(8)]
    assert model.info.task == "diffusion" and model.info.class_names == tuple("0123456789")
    assert model.info.input_size == (3, 16, 16) and model.config.guided


def test_errors_of_classes_say_what_is_allowed() -> None:
    latents, t = torch.zeros(2, 4, 6, 6), torch.zeros(2)
    model = create_model("zigma_zigzag8", **SMALL, **CLASSES)
    for y, given in ((torch.zeros(3, dtype=torch.int64), r"torch.int64 \(3,\)"), (t, r"torch.float32 \(2,\)")):
        with pytest.raises(
            ValueError, match=rf"^y is {given}, expected int64 \(2,\): one of 3 classes for each latent$"
        ):
            model(latents, t, y)
    with pytest.raises(ValueError, match="^zigma_zigzag8 knows no latent without class; give y, one of 3 classes"):
        create_model("zigma_zigzag8", **SMALL, num_classes=3)(latents, t)
    with pytest.raises(
        ValueError, match="^zigma_zigzag8 has no classes to be guided by; give num_classes, or guided=F"
    ):
        create_model("zigma_zigzag8", **SMALL, guided=True)
    with pytest.raises(
        ValueError, match="^class_names is 2 names, zigma_zigzag8 has 3 classes; give one name for each"
    ):
        create_model("zigma_zigzag8", **SMALL, **CLASSES, class_names=("a", "b"))


TEXT = {"context": 20}


def test_text_is_added_to_the_time_and_attended_to() -> None:
    model = _drawn(**SMALL, **TEXT)
    draw = torch.Generator().manual_seed(0)
    latents, t, text = (
        torch.randn(2, 4, 6, 6, generator=draw),
        torch.tensor([0.1, 0.8]),
        torch.randn(2, 7, 20, generator=draw),
    )
    assert model.text_embed is not None
    with torch.no_grad():
        _, _, condition, words = model.stem(latents, t, text)
        torch.testing.assert_close(words, model.text_embed(text))
        torch.testing.assert_close(condition, model.time_embed(t) + words.mean(1))
        out = model(latents, t, text)
        # a set of words, in whatever order
        torch.testing.assert_close(model(latents, t, text.flip(1)), out, atol=1e-4, rtol=1e-4)
        other = model(latents, t, torch.cat([text[:1], -text[1:]]))
        assert torch.equal(other[0], out[0]) and not torch.equal(other[1], out[1])
        assert torch.equal(model(latents, t), model(latents, t, torch.zeros(2, 1, 20)))
        # the mean of the words is the same, so that only attention tells them apart
        assert not torch.allclose(model(latents, t, text.mean(1, keepdim=True)), out, atol=1e-4)


def test_text_has_the_official_names_and_is_read_from_checkpoints() -> None:
    model = _drawn(**SMALL, **TEXT)
    state = {official_key(key): value for key, value in model.state_dict().items()}
    # CompVis/zigma, model_zigma.py, ZigMa and Block with has_text
    shapes = {key: tuple(value.shape) for key, value in state.items()}
    assert shapes["y_embedder.weight"] == (32, 20) and shapes["y_embedder.bias"] == (32,)
    assert shapes["blocks.2.adaLN_modulation.1.weight"] == (6 * 32, 32)
    for part in "qkv":
        assert shapes[f"blocks.0.msa.to_{part}.weight"] == (512, 32) and f"blocks.0.msa.to_{part}.bias" not in shapes
    assert shapes["blocks.0.msa.to_out.0.weight"] == (32, 512) and shapes["blocks.0.msa.to_out.0.bias"] == (32,)
    again = create_model("zigma_zigzag8", pretrained=state)
    assert again.config.context == 20
    latents = torch.randn(1, 4, 6, 6, generator=torch.Generator().manual_seed(0))
    with torch.no_grad():
        assert torch.equal(again(latents), model(latents))


def test_errors_of_text_say_what_is_allowed() -> None:
    model = create_model("zigma_zigzag8", **SMALL, **TEXT)
    with pytest.raises(
        ValueError, match=r"^y is torch.float32 \(2, 7, 32\), expected floats \(2, m, 20\): features of m words"
    ):
        model(torch.zeros(2, 4, 6, 6), torch.zeros(2), torch.zeros(2, 7, 32))
    with pytest.raises(
        ValueError, match="^zigma_zigzag8 has 3 classes and text features of 20; it is told one or the other$"
    ):
        create_model("zigma_zigzag8", **SMALL, **CLASSES, **TEXT)


def _drawn(**config):
    """A model whose weights are the recipe's: as it starts, its mixers are switched off."""
    model = create_model("zigma_zigzag8", **config)
    shapes = {official_key(key): list(value.shape) for key, value in model.state_dict().items()}
    return create_model("zigma_zigzag8", pretrained=golden.state({"keys": shapes}), **config)


def test_patches_without_a_side_are_refused() -> None:
    with pytest.raises(ValueError, match="patches are 0 pixels wide and 0 apart, expected 1 or more"):
        read_image(64, 16, 0, 0, None)
