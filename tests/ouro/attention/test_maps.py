"""Maps: raster order, merged directions, and what each named reduction means."""

from __future__ import annotations

import re

import pytest
import torch

from ouro.attention.implicit import alpha
from ouro.attention.maps import (
    REDUCTIONS,
    attention_map,
    by_mixer,
    delta_map,
    in_raster,
    merge,
    raster_matrices,
    reduce_matrix,
    rollout,
)
from ouro.attention.survey import score, survey
from tests.testing import assert_close

GRID = (2, 3)
# [b p+1 p+1], class token last; entry = 10 * row + column, every second one negative
MATRIX = (torch.arange(7.0)[:, None] * 10 + torch.arange(7.0)) * torch.tensor([1.0, -1]).repeat(4)[:7]
BATCH = torch.stack([MATRIX, 2 * MATRIX])


def test_by_mixer_groups_scans(trace):
    assert {path: [scan.path for scan in scans] for path, scans in by_mixer(trace.scans).items()} == {
        f"layers.{layer}.mixer": [f"layers.{layer}.mixer.scans.{direction}" for direction in (0, 1)] for layer in (0, 1)
    }


def test_in_raster_follows_the_order(scan):
    matrix = alpha(scan)
    raster = in_raster(matrix, scan.order, class_token=True)
    steps = [scan.order.cells.index(cell) for cell in (*range(16), -1)]
    assert raster.equal(matrix[:, steps][:, :, steps])
    assert in_raster(matrix, scan.order).equal(raster[:, :16, :16])


def test_merge_sees_both_directions(trace):
    forward, backward = (in_raster(alpha(scan), scan.order) for scan in trace.scans[:2])
    assert forward.triu(1).count_nonzero() == 0
    assert backward.tril(-1).count_nonzero() == 0
    assert_close(merge([forward, backward]), (forward + backward) / 2, name="merged")
    with pytest.raises(ValueError, match=re.escape("cannot merge matrices of shapes [(1, 2), (2, 2)]")):
        merge([torch.ones(2, 2), torch.ones(1, 2)])


@pytest.mark.parametrize(
    ("reduction", "expected"),
    [
        ("received", MATRIX.abs()[:6, :6].mean(0)),
        ("given", MATRIX.abs()[:6, :6].sum(1)),
        ("class", MATRIX.abs()[6, :6]),
        ("query", MATRIX.abs()[4, :6]),
    ],
)
def test_reduce_matrix(reduction, expected):
    weights = reduce_matrix(BATCH, reduction, GRID, query=4)
    assert_close(weights, torch.stack([expected, 2 * expected]).view(2, 2, 3), name=reduction)


def test_reduce_matrix_keeps_the_sign_on_request():
    weights = reduce_matrix(BATCH, "class", GRID, signed=True)
    assert weights[0].equal(MATRIX[6, :6].view(2, 3))


def test_rollout_multiplies_rows_of_sum_one():
    first, second = BATCH[:1, :6, :6], BATCH[:1, :6, :6].flip(1)
    through = rollout([first, second])
    assert_close(through.sum(-1), torch.ones(1, 6), name="row sums")

    def step(matrix):
        return (torch.eye(6) + matrix.abs() / matrix.abs().sum(-1, keepdim=True)) / 2

    assert_close(through, step(second) @ step(first), name="rollout")
    assert rollout([second], before=rollout([first])).equal(through)
    assert_close(reduce_matrix([first, second], "rollout", GRID), through.mean(1).view(1, 2, 3), name="its map")


def test_rollout_of_a_dead_layer_is_the_layer_before():
    assert rollout([torch.zeros(1, 4, 4)]).equal(torch.eye(4)[None] / 2)


@pytest.mark.parametrize("reduction", [name for name, rule in REDUCTIONS.items() if "h_p" in rule.sources])
def test_reductions_serve_h_and_h_p_alike(trace, reduction):
    views = raster_matrices(trace.scans[0], 3)
    for matrix in views.values():
        assert reduce_matrix(matrix, reduction, (4, 4), query=3).shape == (2, 4, 4)


def test_attention_map_is_the_merged_reduction(trace):
    scans = trace.scans[:2]
    actual = attention_map(scans, "h_p", "given", window=3)
    by_hand = merge([raster_matrices(scan, 3)["h_p"] for scan in scans]).abs().sum(-1)
    assert_close(actual.weights, by_hand.view(2, 4, 4), name="map")
    assert (actual.grid, actual.reduction, actual.window) == ((4, 4), "given", 3)
    with pytest.raises(ValueError, match=re.escape("unknown source 'delta'; known: h, h_p")):
        attention_map(scans, "delta")
    for several in (trace.scans, []):
        with pytest.raises(ValueError, match=r"^scans of \d mixers were given, a map is of one; take one of by_mixer"):
            attention_map(several)


def test_delta_map_reads_the_patches(scan):
    mean = scan.inputs.delta.mean(1)
    for cell in (0, 7, 15):
        assert_close(delta_map(scan).flatten(1)[:, cell], mean[:, scan.order.cells.index(cell)], name=f"cell {cell}")


def test_survey_agrees_with_the_single_maps(trace):
    layers = list(by_mixer(trace.scans).values())
    maps = dict(survey(layers, 3, "delta"))
    assert len(maps) == 2 * 3 * (4 + 3 + 1)
    assert_close(maps[1, "both", "h", "class"], attention_map(layers[1], "h", "class").weights, name="class")
    backward = attention_map(layers[1][1:], "h_p", "received", window=3).weights
    assert_close(maps[1, "backward", "h_p", "received"], backward, name="received")
    both = [merge([raster_matrices(scan, 3)["h"] for scan in scans]) for scans in layers]
    assert_close(maps[1, "both", "h", "rollout"], reduce_matrix(both, "rollout", (4, 4)), name="rollout")


def test_score_compares_grids_and_leaves_out_empty_masks():
    masks = torch.zeros(3, 8, 8, dtype=torch.bool)
    masks[0, :4], masks[1, 0, 0] = True, True
    # the second object fills no patch, the third mask is empty
    fine = masks.float().unflatten(1, (4, 2)).unflatten(3, (4, 2)).mean((2, 4))
    maps = {(0, "both", "h", "received"): fine, (1, "both", "h", "received"): torch.rand(3, 2, 2)}
    maps[1, "both", "h", "received"][0] = torch.tensor([[1.0, 1], [0, 0]])
    scores = score(maps, masks)
    assert {name: values.tolist() for name, values in scores.items()} == {
        "auroc": [[1, 1]], "pointing": [[1, 1]], "leakage": [[0, 0]],
    }  # fmt: skip


@pytest.mark.parametrize(
    ("matrix", "reduction", "query", "message"),
    [
        (BATCH, "mean", None, "unknown reduction 'mean'; known: query, received, given, rollout, class"),
        (BATCH[:, :5, :5], "given", None, "attention is (2, 5, 5), expected (b, p, p) with p = 6 patches, or one more"),
        (
            BATCH[:, :6, :6],
            "class",
            None,
            "reduction 'class' needs the class token's row, this matrix has patches only",
        ),
        (BATCH, "query", None, "reduction 'query' needs a query patch from 0 to 5, got None"),
        (BATCH, "query", 6, "reduction 'query' needs a query patch from 0 to 5, got 6"),
    ],
)
def test_reduce_matrix_refuses(matrix, reduction, query, message):
    with pytest.raises(ValueError, match=re.escape(message)):
        reduce_matrix(matrix, reduction, GRID, query=query)
