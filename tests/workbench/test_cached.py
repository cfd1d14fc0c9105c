"""What the store has is not computed again, is called so, and is computed for real when that is asked for."""

from __future__ import annotations

from collections import defaultdict
from pathlib import Path

import pytest

from ouro.progress import finish
from ouro.store import Store
from tests.browsing import Visit
from workbench import calib, engine, grid, quantize, runbook, runner, stored

SET = {"model": "vim_nano", "method": "noise", "num": 4, "steps": 10, "seed": 0, "batch": 8, "lr": 0.2}
QUANTIZED = {"model": "vim_nano", "method": "minmax", "bits": "w4a4", "calib": "noise:4", "scope": "lin", "seed": 0}


def ended(job: runner.Job) -> runner.Job:
    *_, last = runner.follow(job)
    assert last.state == "done", last.error
    return last


def times(root: Path, name: str) -> list[int]:
    return [path.stat().st_mtime_ns for path in sorted(root.rglob(name))]


@pytest.mark.unpoisoned
def test_a_set_is_read_the_second_time_and_made_the_third(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setenv("OURO_HOME", str(tmp_path))
    first, second = (ended(runner.start("set", lambda: engine.synthesis_job(**SET))) for _ in range(2))
    assert (first.cached, second.cached) == (False, True)
    before = times(tmp_path, "chunk-0000.safetensors")
    third = ended(runner.again("set"))
    assert not third.cached and times(tmp_path, "chunk-0000.safetensors") > before
    assert third.result.values["set_digest"] == first.result.values["set_digest"]


@pytest.mark.unpoisoned
def test_a_configuration_is_calibrated_and_measured_once(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setenv("OURO_HOME", str(tmp_path))
    monkeypatch.setattr(quantize, "_RUNS", defaultdict(list))
    start = lambda: runner.start("rows", lambda: quantize.compare([QUANTIZED], 20, "scenes", quantize.keep))  # noqa: E731
    first, second = ended(start()), ended(start())
    assert (first.cached, second.cached) == (False, True) and second.seconds < first.seconds
    keys = ("top1", "ci95", "n", "path", "effective_bits", "fp_top1", "block_error")
    assert [first.result[0][key] for key in keys] == [second.result[0][key] for key in keys]
    assert len(first.result[0]["block_error"]) > 5
    before = times(tmp_path, "report.json")
    assert not ended(runner.again("rows")).cached
    assert all(after > once for after, once in zip(times(tmp_path, "report.json"), before, strict=True))
    # what was measured is a run of its own, and the score of the run that made the file
    scores = {entry.kind: entry.score for entry in runbook.entries()}
    assert set(scores) == {"quantize", "accuracy"} and scores["quantize"] == scores["accuracy"] != "–"
    # another file in its place is measured anew
    path = Path(first.result[0]["path"])
    path.unlink()
    assert not ended(start()).cached and path.exists()
    # the same once more is no other row, other images are
    ended(runner.start("rows", lambda: quantize.compare([QUANTIZED], 10, "scenes", quantize.keep)))
    assert [row["n"] for rows in quantize._RUNS.values() for row in rows] == [20, 10]


@pytest.mark.unpoisoned
def test_a_set_goes_by_its_name_wherever_it_calibrates(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setenv("OURO_HOME", str(tmp_path))
    path = finish(engine.synthesis_job(**SET | {"seed": 3})).values["path"]
    said = [progress.message for progress in engine.quantize_job(**QUANTIZED | {"calib": path})]
    assert any("4 noise (seed 3)" in words for words in said) and not any(str(tmp_path) in words for words in said)
    (row,) = stored.quantized("vim_nano")
    assert calib.short_name(row["calib"]) == "4 noise (seed 3)" and str(tmp_path) not in str(
        grid.cells({**row, "id": "run 1"})
    )
    made = [entry for entry in runbook.entries() if entry.kind == "generation"]
    runbook.delete(made[0].name)
    assert calib.short_name(path) == "synthetic"


@pytest.mark.unpoisoned
def test_a_stop_loses_one_chunk_at_most_and_the_rest_goes_on(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setenv("OURO_HOME", str(tmp_path))
    spec = SET | {"method": "class", "num": 16, "steps": 2}
    job = engine.synthesis_job(**spec)
    # in the middle of the second chunk
    next(progress for progress in job if progress.step > 8 * 2)
    job.close()
    (entry,) = stored.unfinished()
    assert entry["finished"] == 8 and not stored.sets()
    before = times(tmp_path, "chunk-0000.safetensors")
    values = finish(engine.synthesis_job(**entry["spec"])).values
    assert values["num"] == 16 and times(tmp_path, "chunk-0000.safetensors") == before
    assert not stored.unfinished() and len(stored.sets()) == 1


@pytest.mark.unpoisoned
def test_images_in_files_may_have_changed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setenv("OURO_HOME", str(tmp_path))
    run = Store().open({"job": "quantize"})
    run.save_report({"seed": 0})
    made = []

    def make():
        made.append(1)
        yield from ()

    kept = ("real:4", str(run.path / "images.safetensors"))
    for images in (kept, ("folder:/x:4",), ("real:4:coco:/x.json",), ("/elsewhere/set.safetensors",)):
        for _ in engine._once("quantize", run, make, *images):
            pass
    assert made == [1, 1, 1]


@pytest.mark.full
def test_the_bar_says_cached_and_recompute_makes_it_again(visit: Visit):
    page = visit.page
    visit.open("Samples")
    page.get_by_label("Gaussian noise").check()
    visit.number("wb-samples-num", 8)
    for words in ("done", "cached"):
        page.wait_for_selector("#wb-samples-go:not([disabled])")
        page.locator("#wb-samples-go").click()
        page.locator("#wb-samples-job .wb-job[data-state=done]").get_by_text(words).wait_for()
    page.locator("#wb-samples-redo").click()
    page.locator("#wb-samples-job .wb-job[data-state=done]").get_by_text("done", exact=True).wait_for()
    page.wait_for_selector("#wb-samples-redo", state="hidden")
