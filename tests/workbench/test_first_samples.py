"""The stored example of the Samples tab: it belongs to the weights, is small, and gives way to a set of one's own."""

from __future__ import annotations

from pathlib import Path

import pytest

from ouro.jobs.synthesize import SynthesisSpec, synthesize
from ouro.progress import finish
from tests.browsing import Visit
from workbench import first_samples
from workbench.first_view import weights_digest


def test_the_example_belongs_to_the_weights_and_is_small():
    made, pictures = first_samples.load()
    assert made["weights"] == weights_digest(made["model"]), "run: python -m workbench.first_samples"
    assert list(made["groups"]) == ["synthetic", "real", "noise"] and set(pictures) == set(made["groups"])
    assert sum(map(len, pictures.values())) == 24
    assert Path(first_samples.__file__).with_suffix(".npz").stat().st_size < 300_000


def test_the_example_says_what_it_is_and_who_recognizes_it():
    made, _ = first_samples.load()
    text = first_samples.gallery()
    assert text.count("<img") == 24 and 'alt=""' not in text
    assert "A stored example" in text and f"{made['steps']} steps from seed {made['seed']}" in text
    for group in made["groups"].values():
        assert made["model"] in group["recognized"] and len(group["recognized"]) > 1, "a witness has its say"
        for share in group["recognized"].values():
            assert f"<b>{round(8 * share)} of 8</b>" in text


@pytest.mark.full
@pytest.mark.unpoisoned
def test_a_set_of_ones_own_takes_its_place(visit: Visit, home: Path):
    visit.open("Samples")
    assert visit.page.locator("#wb-samples-first img").count() == 24
    finish(synthesize(SynthesisSpec("vim_nano", "noise", num=4), root=home))
    visit.reload()
    visit.open("Samples")
    visit.page.wait_for_selector("#wb-samples-gallery img")
    assert visit.page.locator("#wb-samples-first").count() == 0 or visit.page.locator("#wb-samples-first").is_hidden()
