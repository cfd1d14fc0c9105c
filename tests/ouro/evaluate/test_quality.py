"""What a set is worth: distances with known answers, and sets whose order is known."""

from __future__ import annotations

import pytest
import torch

from ouro.evaluate.quality import coverage, diversity, features, frechet, similarity_density
from ouro.taps import taps
from tests import zoo
from tests.testing import assert_close


def normal(*shape: int, seed: int = 0) -> torch.Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def test_frechet_of_shifted_and_scaled_clouds_is_the_closed_form() -> None:
    x = normal(4000, 3)
    assert frechet(x, x) == pytest.approx(0, abs=1e-9)
    assert frechet(x, x + torch.tensor([3.0, 0.0, 4.0])) == pytest.approx(25, rel=1e-6)
    # N(0, C) and N(0, 4 C): tr(C + 4 C - 2 * 2 C) = tr C, and the mean moves along
    shift = x.mean(0).square().sum().item()
    assert frechet(x, 2 * x) == pytest.approx(torch.cov(x.T).trace().item() + shift, rel=1e-6)
    assert frechet(x[:, :2], normal(4000, 2, seed=1)) < 0.01


def test_frechet_is_symmetric_and_refuses_what_has_no_answer() -> None:
    a, b = normal(50, 4), 1 + 3 * normal(60, 4, seed=1)
    assert frechet(a, b) == pytest.approx(frechet(b, a), rel=1e-6)
    with pytest.raises(ValueError, match=r"1 sample\(s\) have no covariance; give two or more"):
        frechet(a[:1], b)
    with pytest.raises(ValueError, match="features of 4 and of 3 channels cannot be compared"):
        frechet(a, b[:, :3])


def test_diversity_separates_classes_from_their_members() -> None:
    points = torch.tensor([[1.0, 0.0], [1.0, 0.0], [0.0, 1.0], [0.0, 2.0]])
    labels = torch.tensor([0, 0, 1, 1])
    result = diversity(points, labels)
    assert result["within"] == pytest.approx(0) and result["between"] == pytest.approx(1)
    assert result["pairwise"] == pytest.approx(4 / 6)
    assert diversity(points)["within"] is None and diversity(points[:1])["pairwise"] is None


@pytest.mark.parametrize("name", ["vim_nano", "vmamba_nano", "mambavision_nano"])
def test_the_classifier_sees_these_features(name) -> None:
    model, images = zoo.small(name), None
    images = zoo.inputs(model, 3)
    with torch.no_grad():
        logits = model(images)
        pooled = features(model, images)
    assert pooled.shape[0] == 3 and pooled.dim() == 2
    linear = next(module for path, module in model.named_modules() if path.endswith("head"))
    assert_close(linear(pooled), logits, rtol=1e-4, atol=1e-5)


def test_a_set_covers_itself_and_a_wider_one_covers_it() -> None:
    model = zoo.small("vim_nano")
    images = zoo.inputs(model, 4)
    same = coverage(model, images, images)
    assert {site.path for site in same} == {p for p, tap in taps(model) if "b" in tap.axes and not tap.costly}
    assert all(site.overlap == 1 and site.outside == 0 and site.ks == 0 for site in same)
    less = coverage(model, images[:1] * 0, images)
    image = next(site for site in less if site.site == "embed.in")
    assert image.overlap == 0 and image.outside > 0.9 and 0.4 < image.ks < 0.6
    assert sum(site.overlap for site in less) < 0.8 * len(less)


def test_equal_patches_are_all_alike_and_noise_is_not() -> None:
    model = zoo.small("vim_nano")
    density = similarity_density(model, zoo.inputs(model, 2), bins=40)
    assert density.shape[1] == 40
    assert_close(density.sum(1) / 20, torch.ones(len(density), dtype=torch.float64), atol=1e-9)
    assert (density >= 0).all()
