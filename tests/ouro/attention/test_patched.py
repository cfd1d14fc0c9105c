"""h_p and alpha_p: window 1 changes nothing, alpha_p reconstructs y_p, weights are per image."""

from __future__ import annotations

import re
from dataclasses import replace

import pytest
import torch

from ouro.attention.implicit import alpha, scan_transition
from ouro.attention.maps import in_raster
from ouro.attention.patched import alpha_p, delta_weights, h_p, patch_window
from ouro.scan import selective_scan
from ouro.scan.order import class_step, to_raster
from ouro.types import ScanRecord
from tests.testing import assert_close

WINDOWS = [(1, "uniform"), (1, "delta"), (3, "delta"), (3, "uniform")]


def test_alpha_p_of_window_1_with_uniform_weights_is_alpha(scan):
    assert_close(alpha_p(scan, 1, "uniform"), in_raster(alpha(scan), scan.order), name="alpha")
    every = in_raster(alpha(scan, reduce=None), scan.order)
    assert_close(alpha_p(scan, 1, "uniform", reduce=None), every, name="alpha per channel")


@pytest.mark.parametrize(("window", "weights"), WINDOWS)
def test_alpha_p_reconstructs_y_p(scan, window, weights):
    inputs, order = scan.inputs, scan.order
    step = class_step(order)
    u = torch.cat([to_raster(inputs.u, order), inputs.u[..., step : step + 1]], dim=-1)
    rows = alpha_p(scan, window, weights, reduce=None, class_token=True)
    y_p = (rows @ u.unsqueeze(-1)).squeeze(-1)
    place = patch_window(scan, window, weights)
    for backend in ("cpu", "reference"):
        assert_close(selective_scan(inputs, backend=backend, window=place).y_p, y_p, name=f"y_p of {backend}")
    read = (h_p(scan, window, weights) * to_raster(inputs.C, order).transpose(1, 2).unsqueeze(1)).sum(-1)
    assert_close(read, y_p, name="C h_p")


@pytest.mark.parametrize(("window", "weights"), WINDOWS)
def test_alpha_p_mean_is_the_mean_over_channels(scan, window, weights):
    every = alpha_p(scan, window, weights, reduce=None, class_token=True)
    assert_close(alpha_p(scan, window, weights, class_token=True), every.mean(1), name="alpha_p")
    T = scan_transition(scan)
    assert alpha_p(scan, window, weights, T=T).equal(alpha_p(scan, window, weights))
    chosen = torch.tensor([5, 2])
    assert_close(alpha_p(scan, window, weights, reduce=chosen), every[:, chosen, :, :-1], name="two channels")


def test_alpha_p_sums_neighbors_and_lacks_those_outside(scan):
    # by hand, in the corner: a 3 x 3 window has four cells on the grid
    inputs, order = scan.inputs, scan.order
    states = to_raster(selective_scan(inputs, backend="reference", keep_states=True).h, order, dim=2)
    w = to_raster(delta_weights(inputs.delta, order), order)
    corner = sum(w[:, k, None, None] * states[:, :, k] for k in (0, 1, 4, 5))
    assert_close(h_p(scan, 3)[:, :, 0], corner, name="h_p of the corner")


def test_window_wider_than_the_grid_takes_in_all_of_it(scan):
    rows = alpha_p(scan, 9, "uniform")
    # the same states in every window: rows differ by C alone
    held = h_p(scan, 9, "uniform")
    assert_close(held, held[:, :, :1].expand_as(held), name="h_p")
    assert_close(alpha_p(scan, 7, "uniform"), rows, name="alpha_p")


def test_h_p_takes_recorded_states(scan):
    h = selective_scan(scan.inputs, backend="reference", keep_states=True).h
    assert h_p(replace(scan, h=h * 2), 3).equal(2 * h_p(replace(scan, h=h), 3))


def test_delta_weights_span_each_image(scan):
    weights = to_raster(delta_weights(scan.inputs.delta, scan.order), scan.order)
    assert_close(weights.amin(1), torch.zeros(2, dtype=torch.float64), name="least weight")
    assert_close(weights.amax(1), torch.ones(2, dtype=torch.float64), name="largest weight", atol=1e-2)
    alone = delta_weights(scan.inputs.delta[1:], scan.order)
    assert alone.equal(delta_weights(scan.inputs.delta, scan.order)[1:])
    step = class_step(scan.order)
    assert delta_weights(scan.inputs.delta, scan.order)[:, step].count_nonzero() == 0


def test_alpha_p_passes_gradients_on(scan):
    def first(delta, A, B, C):
        record = ScanRecord("scan", replace(scan.inputs, delta=delta, A=A, B=B, C=C), scan.y, scan.order)
        return alpha_p(record, 3)

    leaves = [x.clone().requires_grad_() for x in (scan.inputs.delta, scan.inputs.A, scan.inputs.B, scan.inputs.C)]
    assert torch.autograd.gradcheck(first, leaves, fast_mode=True)


@pytest.mark.parametrize(
    ("window", "weights", "message"),
    [
        (2, "delta", "window is 2, expected an odd number from 1 up"),
        (-1, "delta", "window is -1, expected an odd number from 1 up"),
        (3, "linear", "unknown weights 'linear'; known: delta, uniform"),
    ],
)
def test_alpha_p_refuses(scan, window, weights, message):
    with pytest.raises(ValueError, match=re.escape(message)):
        alpha_p(scan, window, weights)
