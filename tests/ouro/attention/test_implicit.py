"""alpha: it reconstructs the scan, its channel mean is the mean, and directions are mirror images."""

from __future__ import annotations

import copy
import re
from dataclasses import replace

import pytest
import torch

from ouro.attention.implicit import alpha, scan_transition
from ouro.attention.maps import in_raster
from ouro.models.mixer import Mixer, MixerSpec
from ouro.scan import selective_scan
from ouro.scan.order import reverse, row_major
from ouro.taps import record
from ouro.types import ScanInputs
from tests.testing import assert_close


def grouped(inputs: ScanInputs, groups: int = 2) -> ScanInputs:
    """The same scan with B and C of its own for each group of channels."""
    B, C = (torch.stack([matrix * (g + 1) for g in range(groups)], dim=1) for matrix in (inputs.B, inputs.C))
    return replace(inputs, B=B, C=C)


@pytest.mark.parametrize("groups", [None, 2], ids=["plain", "grouped"])
def test_alpha_reconstructs_y(scan, groups):
    inputs = scan.inputs if groups is None else grouped(scan.inputs)
    y = scan.y if groups is None else selective_scan(inputs, backend="reference").y
    skip = inputs.D[:, None] * inputs.u
    assert_close((alpha(inputs, reduce=None) @ inputs.u.unsqueeze(-1)).squeeze(-1) + skip, y, name="y")


@pytest.mark.parametrize("groups", [None, 2], ids=["plain", "grouped"])
def test_alpha_mean_is_the_mean_over_channels(scan, groups):
    inputs = scan.inputs if groups is None else grouped(scan.inputs)
    assert_close(alpha(inputs), alpha(inputs, reduce=None).mean(1), name="alpha")
    assert alpha(inputs, T=scan_transition(inputs)).equal(alpha(inputs))


def test_alpha_takes_single_channels(scan):
    chosen = torch.tensor([20, 0, 7])
    assert_close(alpha(scan, reduce=chosen), alpha(scan, reduce=None)[:, chosen], name="alpha")


def test_alpha_is_causal(scan):
    assert alpha(scan).triu(1).count_nonzero() == 0


def test_alpha_of_the_backward_scan_is_the_forward_one_of_flipped_tokens():
    torch.manual_seed(0)
    forward = row_major((4, 4), 8)
    spec = MixerSpec(width=8, inner=16, states=3, rank=1, orders=(forward, reverse(forward)), tokens=forward, scale=0.5)
    mixer = Mixer(spec).double()
    swapped = copy.deepcopy(mixer)
    swapped.scans[0].load_state_dict(mixer.scans[1].state_dict())
    tokens = torch.randn(2, 17, 8, dtype=torch.float64)
    with torch.no_grad(), record(mixer, "scans.*") as as_is, record(swapped, "scans.*") as flipped:
        mixer(tokens)
        swapped(tokens.flip(1))
    backward, other = as_is.scans[1], flipped.scans[0]
    assert_close(alpha(backward), alpha(other), name="alpha in scan order")
    mirrored = in_raster(alpha(other), other.order).flip(-1, -2)
    assert_close(in_raster(alpha(backward), backward.order), mirrored, name="alpha in raster order")


def test_alpha_passes_gradients_on(scan):
    leaves = {k: getattr(scan.inputs, k)[:1].clone().requires_grad_() for k in ("delta", "B", "C")}
    A = scan.inputs.A.clone().requires_grad_()
    inputs = ScanInputs(scan.inputs.u[:1], A=A, **leaves)
    G = torch.randn(1, 17, 17, generator=torch.Generator().manual_seed(2), dtype=torch.float64)
    wanted = (*leaves.values(), A)
    gradients = torch.autograd.grad((alpha(inputs) * G).sum(), wanted)
    by_channel = torch.autograd.grad((alpha(inputs, reduce=None).mean(1) * G).sum(), wanted)
    for name, x, y in zip((*leaves, "A"), gradients, by_channel, strict=True):
        assert_close(x, y, name=f"gradient of {name}")


@pytest.mark.parametrize(
    ("reduce", "message"),
    [
        ("max", "unknown reduction of channels 'max'; known: 'mean', None (all of them), indices"),
        (torch.tensor([3, 24]), "channels [3, 24] are no indices, expected int64 [k] from 0 to 23"),
    ],
)
def test_alpha_refuses(scan, reduce, message):
    with pytest.raises(ValueError, match=re.escape(message)):
        alpha(scan, reduce=reduce)


def test_alpha_takes_one_scan(scan):
    with pytest.raises(ValueError, match=r"^a scan is given as a list, expected one of trace\.scans, or its inputs$"):
        alpha([scan])
