"""Sets side by side: the table, the charts, and what is known of their quality."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import pytest

from ouro.jobs.synthesize import SynthesisSpec, synthesize
from ouro.progress import finish
from ouro.store import Store
from workbench import compare, sets, stored


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A store of two sets of noise."""
    root = tmp_path_factory.mktemp("made")
    for num, seed in ((4, 1), (20, 2)):
        finish(synthesize(SynthesisSpec("vim_nano", "noise", num=num, seed=seed), root=root))
    return root


@pytest.fixture
def entries(made: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> list[dict[str, Any]]:
    """These sets, in a store that a test may add to."""
    shutil.copytree(made / "runs", tmp_path / "runs")
    monkeypatch.setenv("OURO_HOME", str(tmp_path))
    return stored.sets()[::-1]


def look_at(entries: list[dict[str, Any]], real: str, frechet: float) -> None:
    """Puts a quality report of every set into the store."""
    for values in entries:
        key = {"job": "quality", "model": "vim_nano", "weights": "w", "set": values["set_digest"], "real": real}
        row = {
            "recognized": {"itself": 0.5}, "diversity": {"pairwise": 0.1, "within": None, "between": 0.2}, "ks": 0.1,
            "frechet": frechet + values["seed"], "overlap": 0.5, "outside": 0.25, "similarity": 0.7, "entropy": 1.0,
            "sites": [{"path": "p", "site": "u", "overlap": 0.5, "outside": 0.25, "ks": 0.1}], "density": [[0.5, 0.5]],
        }  # fmt: skip
        Store().open(key).save_report(row)


def test_table_shows_what_differs_and_what_does_not(entries):
    table = sets.side_by_side(entries)
    assert table.count("<img") == 4 + 16 and "16 of 20" in table
    assert "The same in all: model vim_nano, method Gaussian noise, steps none" in table
    for row in ("Images</th><td>4</td><td>20", "Seed</th><td>1</td><td>2"):
        assert f'<th scope="row">{row}</td>' in table
    assert "12, 1 to 2 images each" in table and "4, 1 image each" in table
    assert sets.side_by_side(entries[:1]) == "" and "empty" in json.loads(sets.recognition(entries[:1]))


def test_every_judge_has_a_bar_of_every_set(entries):
    drawn = json.loads(sets.recognition(entries))["data"]
    assert [trace["name"] for trace in drawn] == ["A noise", "B noise"]
    assert all(trace["x"] == ["itself", *entries[0]["judges"]] for trace in drawn)
    assert drawn[0]["y"][0] == pytest.approx(100 * entries[0]["recognized"]["self"])


def test_stored_quality_is_shown_where_all_sets_have_met_the_same_real_images(entries):
    assert compare.looked_at(entries) is None
    look_at(entries[:1], "one draw", 10)
    assert compare.looked_at(entries) is None, "the other set was not looked at"
    look_at(entries[1:], "another draw", 20)
    assert compare.looked_at(entries) is None, "distances to different images cannot be compared"
    look_at(entries, "a third draw", 30)
    values = compare.looked_at(entries)
    assert [(row["label"], row["frechet"]) for row in values["rows"]] == [("A noise", 31), ("B noise", 32)]
    table = sets.side_by_side(entries, values["rows"])
    assert '<th scope="row">Fréchet distance to real</th><td>31</td><td>32</td>' in table
    assert "Real values out of range</th><td>25.0\u00a0%" in table
    assert compare.looked_at([entries[0], {**entries[1], "model": "vmamba_nano"}]) is None


@pytest.mark.parametrize("item", compare.ITEMS)
def test_every_figure_is_drawn_or_says_what_is_missing(entries, item):
    assert json.loads(compare.chart(None, item)) == {"empty": compare.UNKNOWN}
    look_at(entries, "a draw", 10)
    drawn = json.loads(compare.chart(compare.looked_at(entries), item))
    assert "tick the box" in drawn["empty"] if item == "accuracy" else "noise" in drawn["alt"]
