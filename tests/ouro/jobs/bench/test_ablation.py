"""Ablations: variants that share a set share it, claims are what the cells say, and kept work is not done again."""

from __future__ import annotations

import shutil
from dataclasses import replace

import pytest

import ouro.jobs.bench.ablation as module
from ouro.figures import ablation as figures
from ouro.jobs.bench.ablation import STUDIES, AblationSpec, Study, Variant, ablate
from ouro.registry import GENERATORS
from tests.ouro.jobs.bench.test_table import stay
from tests.ouro.jobs.running import finish

SMALL = (("window", 3), ("positives", 4))
STUDY = Study(
    "Sizes and sources",
    (
        Variant("2", options=SMALL, num=2, within=4),
        Variant("4", options=SMALL, num=4),
        Variant("noise", "noise"),
        Variant("real", "real"),
    ),
    (("4", "2"), ("real", "noise")),
    "nowhere",
)


@pytest.fixture(scope="module")
def computed(in_tiny_zoo):
    def work(root, patch):
        stay(patch)
        patch.setitem(STUDIES, "small", STUDY)
        made = []
        generate = module.synthesize
        patch.setattr(module, "synthesize", lambda spec, root: made.append(spec.num) or generate(spec, root=root))
        spec = AblationSpec(
            studies=("small",), seeds=2, num=3, steps=2, measures=(("minmax", "w4a4o8"),), limit=20, workers=1
        )
        updates, result = finish(ablate(spec, root=root))
        return updates, result.values, sorted(made), spec

    return in_tiny_zoo(work)


@pytest.fixture
def report(computed, tiny_zoo, tmp_path, monkeypatch):
    """What a study says, what it generated, and the test's own folder with all that it keeps."""
    result, root = computed
    stay(monkeypatch)
    monkeypatch.setitem(STUDIES, "small", STUDY)
    shutil.copytree(root, tmp_path, dirs_exist_ok=True)
    return *result, tmp_path


def test_variants_that_share_a_set_share_it(report) -> None:
    updates, values, made, _, _ = report
    # two seeds each of the set of four and of noise; nothing is generated for real images or for the first two of four
    assert made == [3, 3, 4, 4] and updates[-1].step == updates[-1].total == 6
    (study,) = values["studies"]
    assert [(row["label"], row["num"]) for row in study["rows"]] == [("2", 2), ("4", 4), ("noise", 3), ("real", 3)]
    assert study["rows"][3]["recognized"] is None and len(study["rows"][0]["recognized"]["values"]) == 2


def test_claims_are_what_the_cells_say(report, tmp_path) -> None:
    study = report[1]["studies"][0]
    rows = {row["label"]: row["top1"]["minmax w4a4o8"]["values"] for row in study["rows"]}
    for claim, (better, worse) in zip(study["claims"], STUDY.claims, strict=True):
        expected = sum(a - b for a, b in zip(rows[better], rows[worse], strict=True)) / 2
        assert claim["difference"] == pytest.approx(expected)
        assert (claim["seen"] == "yes") == (claim["ci95"][0] > 0)
    figures.paper(study).savefig(tmp_path / "study.png")
    (line,) = figures.screen(study).data
    assert list(line.y) == [pytest.approx(100 * row["top1"]["minmax w4a4o8"]["mean"]) for row in study["rows"]]
    assert "real over noise: " in figures.alt(study)
    head, cells = figures.table(study)
    assert len(cells) == 4 and all(len(row) == len(head) for row in cells)


def test_what_is_kept_is_not_measured_again(report, monkeypatch) -> None:
    _, values, _, spec, root = report
    monkeypatch.setattr("ouro.jobs.bench.compare._cell", lambda *_: pytest.fail("measured again"))
    assert finish(ablate(spec, root=root))[1].values["studies"] == values["studies"]


def test_variants_of_more_images_are_left_out_with_what_is_claimed_of_them(report) -> None:
    _, _, _, spec, root = report
    (study,) = finish(ablate(replace(spec, most=3), root=root))[1].values["studies"]
    assert [(row["label"], row["num"]) for row in study["rows"]] == [("2", 2), ("noise", 3), ("real", 3)]
    assert [(claim["better"], claim["worse"]) for claim in study["claims"]] == [("real", "noise")]


def test_every_study_names_what_exists() -> None:
    for study in STUDIES.values():
        labels = [variant.label for variant in study.variants]
        assert len(set(labels)) == len(labels)
        assert all(label in labels for claim in study.claims for label in claim)
        assert all(variant.method == "real" or variant.method in GENERATORS for variant in study.variants)


@pytest.mark.parametrize(
    ("bad", "words"),
    [
        (
            {"studies": ("loss",)},
            "unknown study 'loss'; known: losses, samples, window, weights, source, parts, refresh",
        ),
        ({"seeds": 1}, "seeds is 1, expected 2 or more: an interval needs a spread"),
        (
            {"studies": ("parts",), "measures": (("minmax", "w4a4"),)},
            "takes 'ouro' apart, but no measure has that method",
        ),
        ({"measures": ()}, "measures are empty"),
        ({"most": 16}, "num is 32, more than the 16 images that a variant has at most; give fewer"),
        ({"most": 4, "num": 4}, "study 'samples' begins at 8 images, but most is 4; give 8 or more"),
        ({"models": ("vim_nan",)}, "unknown model"),
    ],
)
def test_a_wrong_spec_is_refused(bad, words) -> None:
    with pytest.raises(ValueError, match=words):
        AblationSpec(**bad)
