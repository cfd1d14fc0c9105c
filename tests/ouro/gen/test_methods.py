"""What every generation method keeps, on every family; and what distinguishes the methods."""

from __future__ import annotations

import pytest
import torch

from ouro.gen import synthesize
from ouro.gen.methods.clamp import ClampGen
from ouro.gen.methods.ouro import OuroMambaGen
from ouro.gen.synthesize import initial_images
from ouro.registry import GENERATORS
from ouro.taps import record
from tests import zoo
from tests.testing import assert_close

OPTIONS = {"ouro": {"window": 3, "positives": 4}, "psaq": {"points": 8}}
FAMILIES = ["vim_nano", "vmamba_nano", "localvim_tiny", "localvmamba_nano", "mambavision_nano"]


@pytest.mark.parametrize("method", [name for name in GENERATORS if name != "noise"])
@pytest.mark.parametrize("name", FAMILIES)
def test_an_image_is_optimized_alone_and_every_pixel_counts(name, method) -> None:
    model, options = zoo.small(name), OPTIONS.get(method, {})
    together = synthesize(model, method=method, num=3, steps=3, batch=3, **options)
    apart = synthesize(model, method=method, num=3, steps=3, batch=1, **options)
    noise = initial_images(model.info, 0, 0, 3)
    assert together.images.isfinite().all() and torch.equal(together.labels, apart.labels)
    assert torch.equal(together.images, apart.images), "the chunk changes nothing, bit for bit"
    assert ((together.images - noise).abs() > 0).float().mean() > 0.95


@pytest.mark.parametrize(("method", "features"), [
    ("ouro", "y_p"), ("ouro", "alpha_p"), ("clamp", "y"), ("clamp", "alpha"), ("psaq", "y"), ("psaq", "alpha"),
])  # fmt: skip
@pytest.mark.parametrize("name", FAMILIES)
def test_the_patch_term_reaches_the_image(name, method, features) -> None:
    model = zoo.small(name)
    objective = GENERATORS.get(method)(model, features=features, blocks=0, **OPTIONS.get(method, {}))
    images = zoo.inputs(model, 2).requires_grad_()
    with record(model, *objective.patterns, detach=False) as trace:
        logits = model(images)
    terms = objective.losses(trace, logits, torch.tensor([0, 1]), images, torch.tensor([0.2, 0.2]))
    assert all(term.shape == (2,) and term.isfinite().all() for term in terms.values())
    term = "entropy" if method == "psaq" else "contrast"
    assert set(terms) == {term, "class", "smooth"}
    (gradient,) = torch.autograd.grad(terms[term].sum(), images)
    assert gradient.isfinite().all() and (gradient != 0).float().mean() > 0.5


def test_a_window_of_one_patch_with_even_weights_is_what_clamp_reads() -> None:
    model = zoo.small("vim_nano")
    ours = OuroMambaGen(model, window=3, positives=4, weights="uniform", channels=8)
    theirs = ClampGen(model, channels=8)
    ours.window = 1
    with torch.no_grad(), record(model, *ours.patterns) as trace:
        model(zoo.inputs(model, 2))
    for scan in trace.scans:
        assert_close(ours.feature(scan, 0), theirs.feature(scan, 0), rtol=1e-4, atol=1e-5, name=scan.path)


def test_the_class_prior_reads_no_tap() -> None:
    model = zoo.small("vim_nano")
    objective = GENERATORS.get("class")(model)
    assert objective.patterns == () and objective.patch_terms(None) == {}


@pytest.mark.parametrize(
    ("method", "options", "message"),
    [
        ("clamp", {"features": "y_p"}, "unknown features 'y_p'; known: y, alpha"),
        ("clamp", {"window": 4}, "window is 4, expected an odd number from 3 to "),
        ("psaq", {"points": 1}, "points is 1, expected 2 or more"),
        ("psaq", {"bandwidth": 0}, "bandwidth is 0, expected a positive number"),
        ("psaq", {"blocks": -1}, "blocks is -1, expected 0 \\(all\\) or more"),
    ],
)
def test_options_outside_their_range_are_refused(method, options, message) -> None:
    with pytest.raises(ValueError, match=message):
        GENERATORS.get(method)(zoo.small("vim_nano"), **options)
