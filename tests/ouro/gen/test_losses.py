"""Losses of generation: per sample, of known value where one is known, differentiable."""

from __future__ import annotations

import math

import pytest
import torch

from ouro.gen.losses import (
    _Density,
    neighborhood,
    patch_contrast,
    similarity_entropy,
    total_variation,
)


def test_the_neighborhood_is_symmetric_and_loses_what_lies_outside() -> None:
    near = neighborhood((14, 14), 5)
    assert torch.equal(near, near.T) and not near.diagonal().any()
    assert near[7 * 14 + 7].sum() == 24 and near[0].sum() == 8 and near[7].sum() == 14


def test_identical_patches_have_the_contrast_of_chance() -> None:
    grid, positives = (5, 5), 12
    loss = patch_contrast(torch.ones(1, 25, 3), grid, positives=positives)
    count = neighborhood(grid, 5).sum(1)
    wanted = torch.minimum(torch.full_like(count, positives), (count + 1) // 2)
    # every similarity is 1: -log(1 / (1 + number of negatives))
    expected = torch.log1p((25 - 1 - wanted).float()).mean()
    assert abs(loss.item() - expected.item()) < 1e-5


def test_patches_like_their_neighbors_have_a_lower_contrast_loss() -> None:
    g = torch.Generator().manual_seed(0)
    rows = torch.arange(8).repeat_interleave(8).float()
    columns = torch.arange(8).repeat(8).float()
    smooth = torch.stack([(rows / 2).cos(), (rows / 2).sin(), (columns / 2).cos(), (columns / 2).sin()], 1)
    shuffled = smooth[torch.randperm(64, generator=g)]
    low, high = (patch_contrast(x[None], (8, 8)) for x in (smooth, shuffled))
    assert low < high - 0.5


def test_the_contrast_agrees_with_its_formula() -> None:
    features = torch.randn(1, 16, 5, generator=torch.Generator().manual_seed(1), dtype=torch.float64)
    unit = features[0] / features[0].norm(dim=1, keepdim=True)
    s, near = unit @ unit.T, neighborhood((4, 4), 3)
    total = 0.0
    for i in range(16):
        candidates = sorted(near[i].nonzero().flatten().tolist(), key=lambda j: -s[i, j])
        positive = candidates[: min(4, (len(candidates) + 1) // 2)]
        negative = sum(math.exp(s[i, k] / 0.2) for k in range(16) if k != i and k not in positive)
        own = [-math.log(math.exp(s[i, j] / 0.2) / (math.exp(s[i, j] / 0.2) + negative)) for j in positive]
        total += sum(own) / len(own) / 16
    loss = patch_contrast(features, (4, 4), window=3, positives=4, temperature=0.2)
    assert abs(loss.item() - total) < 1e-9


def test_white_noise_has_a_total_variation_of_one_and_a_flat_image_none() -> None:
    noise = torch.randn(4, 3, 56, 56, generator=torch.Generator().manual_seed(0))
    assert (total_variation(noise) - 1).abs().max() < 0.03
    assert total_variation(torch.ones(1, 3, 8, 8)).item() == 0


def test_every_loss_is_per_sample() -> None:
    g = torch.Generator().manual_seed(0)
    features, images = torch.randn(3, 16, 5, generator=g), torch.randn(3, 3, 8, 8, generator=g)
    for loss in (
        lambda i: patch_contrast(features[i], (4, 4), window=3, positives=4),
        lambda i: total_variation(images[i]),
    ):
        whole = loss(slice(0, 3))
        assert whole.shape == (3,)
        assert torch.allclose(torch.cat([loss(slice(i, i + 1)) for i in range(3)]), whole, atol=1e-6)


def test_the_entropy_of_similarities_agrees_with_its_formula_and_has_its_gradient() -> None:
    features = torch.randn(2, 9, 4, generator=torch.Generator().manual_seed(2), dtype=torch.float64, requires_grad=True)
    entropies = similarity_entropy(features, points=16, bandwidth=0.1)
    for image, value in zip(features.detach(), entropies, strict=True):
        unit = image / image.norm(dim=1, keepdim=True)
        pairs = torch.tensor([(unit[i] @ unit[j]).item() for i in range(9) for j in range(i)], dtype=torch.float64)
        places = torch.linspace(0, 1, 16, dtype=torch.float64) * (pairs.max() - pairs.min()) + pairs.min()
        kernels = torch.exp(-0.5 * ((places[:, None] - pairs) / 0.1) ** 2) / (0.1 * math.sqrt(2 * math.pi))
        density = kernels.mean(1) + 1e-4
        expected = torch.trapezoid(-density * density.log(), places)
        assert abs(value.item() - expected.item()) < 1e-6
    # the places are taken as given, so the gradient is checked where they stay: through the density
    pairs = torch.rand(2, 12, dtype=torch.float64, requires_grad=True)
    places = torch.rand(2, 5, dtype=torch.float64)
    assert torch.autograd.gradcheck(lambda x: _Density.apply(x, places, 0.1), (pairs,))


@pytest.mark.parametrize("spread", [1.0, 0.01, 0.0], ids=["far-apart", "near", "one-place"])
@pytest.mark.parametrize("points", [2, 64])
def test_a_density_without_what_is_out_of_reach_is_the_density(points: int, spread: float) -> None:
    g = torch.Generator().manual_seed(0)
    pairs = (spread * (torch.rand(3, 71, generator=g) - 0.5)).double().requires_grad_()
    low, high = pairs.detach().amin(1, keepdim=True), pairs.detach().amax(1, keepdim=True)
    places = low + (high - low) * torch.linspace(0, 1, points).double()
    upstream = torch.randn(3, points, generator=g).double()
    density = _Density.apply(pairs, places, 0.01)
    gap = (places[:, None, :] - pairs[:, :, None]) / 0.01
    wanted = (torch.exp(-gap.square() / 2) / (0.01 * math.sqrt(2 * math.pi))).mean(1)
    assert torch.allclose(density, wanted, rtol=1e-10, atol=1e-10)
    gradients = (torch.autograd.grad(x, pairs, upstream)[0] for x in (density, wanted))
    assert torch.allclose(*gradients, rtol=1e-8, atol=1e-8)


def test_diverse_patches_have_more_entropy_than_equal_ones() -> None:
    draw = torch.Generator().manual_seed(3)
    diverse = torch.randn(1, 16, 3, generator=draw)
    alike = torch.ones(1, 16, 3) + 0.01 * torch.randn(1, 16, 3, generator=draw)
    assert similarity_entropy(diverse) > similarity_entropy(alike)


def test_negatives_of_the_window_are_fewer_than_all() -> None:
    features = torch.randn(2, 25, 6, generator=torch.Generator().manual_seed(4))
    everywhere, near = (patch_contrast(features, (5, 5), window=3, positives=4, negatives=n) for n in ("all", "window"))
    assert (near < everywhere).all()
    with pytest.raises(ValueError, match="unknown negatives 'none'; known: all, window"):
        patch_contrast(features, (5, 5), negatives="none")
