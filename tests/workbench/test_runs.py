"""Runs: what the list says of every run, what differs, the command that makes it again, notes, deletion, and the tab."""

from __future__ import annotations

import csv
import json
import shlex
from pathlib import Path

import pytest

from ouro.jobs.quantize import QuantizeSpec, quantize
from ouro.jobs.synthesize import SynthesisSpec, synthesize
from ouro.progress import finish
from ouro.store import Store
from tests.browsing import Visit
from workbench import engine, own, runbook, runner, runs, samples, stored, workspace

SET = {"model": "m", "method": "noise", "num": 4, "steps": 9, "seed": 1, "batch": 8, "lr": 0.5, "options": {"a": 2},
       "weights": "w"}  # fmt: skip
QUANTIZED = {"model": "m", "method": "minmax", "bits": "w4a4", "calib": "real:8", "scope": "lin", "seed": 0, "options": {},
             "budget": None, "widths": [3, 4], "by": "site", "packed": False, "floats": "fp32", "weights": "w",
             "job": "quantize"}  # fmt: skip


@pytest.fixture
def store(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Store:
    monkeypatch.setenv("OURO_HOME", str(tmp_path))
    return Store()


def kept(store: Store, spec: dict, report: dict | None = None) -> str:
    run = store.open(spec)
    if report is not None:
        run.save_report(report)
    return run.path.name


def by_name() -> dict[str, runbook.Entry]:
    return {entry.name: entry for entry in runbook.entries()}


def test_every_kind_of_run_has_its_score(store):
    made = kept(store, SET, {"recognized": {"self": 0.75}, "seconds": 3.0})
    open_set = kept(store, SET | {"seed": 2})
    rounded = kept(store, QUANTIZED, {"bits": "w4a4", "seconds": 2.0, "path": "elsewhere/q.safetensors"})
    measured = kept(
        store, {"job": "accuracy", "run": rounded}, {"metric": "top1", "top1": 0.5, "ci95": [0.4, 0.6], "n": 9}
    )
    part = kept(store, {"job": "paired compare", "model": "m"}, {"frechet": 2.5, "ci95": [1.0, 5.0]})
    harm = kept(store, {"job": "sensitivity", "model": "m"}, {"whole": {"kl": 0.25}})
    found = by_name()
    scores = {name: found[name].score.replace("\u00a0", " ") for name in found}
    assert scores[made] == "recognized 75.0 %" and scores[open_set] == "–" and scores[harm] == "KL 0.25"
    # what was measured of a file is the score of the run that made it
    assert scores[rounded] == scores[measured] == "top-1 50.0 %"
    assert runs.interval(found[rounded].scored) == "40.0 – 60.0"
    assert scores[part] == "Fréchet distance 2.5" and runs.interval(found[part].scored) == "1 – 5"
    assert [found[name].state for name in (made, open_set)] == ["finished", "unfinished"]
    assert {found[name].kind for name in (made, open_set)} == {"generation"}
    assert found[made].size == sum(path.stat().st_size for path in (store.folder / made).iterdir())
    ranked = runbook.chosen(found.values(), kind="paired compare", sort="score")
    assert [entry.name for entry in ranked] == [part] and ranked[0].better == -2.5


def test_filters_and_orders(store):
    one = kept(store, QUANTIZED, {"seconds": 5.0})
    two = kept(store, QUANTIZED | {"bits": "w8a8", "model": "other"}, {"seconds": 50.0})
    found = runbook.entries()
    names = lambda **how: [entry.name for entry in runbook.chosen(found, **how)]  # noqa: E731
    assert names(words="W8A8 minmax") == [two] and names(words="w8a8 ouro") == []
    assert names(model="m") == [one] and names(kind="generation") == []
    assert names(sort="seconds") == [two, one] and names(sort="model") == [one, two]
    runbook.note(one, "the good <one>")
    found = runbook.entries()
    assert names(words="good") == [one]
    assert "the good &lt;one&gt;" in runs.listed(found) and "<one>" not in runs.listed(found)
    assert runs.summary([found[0]], found).count("1 of 2 runs") == 1


def test_only_what_differs_is_set_side_by_side(store):
    specs = [QUANTIZED, QUANTIZED | {"bits": "w8a8"}]
    names = [kept(store, spec, {"n": 8, "rows": list(range(9))}) for spec in specs]
    several = [by_name()[name] for name in names]
    rows, same = runbook.differences(several)
    assert rows == [("asked.bits", ["w4a4", "w8a8"])] and same == len(QUANTIZED) - 1 + 2
    kept(store, specs[1], {"n": 8, "rows": list(range(1, 10))})
    rows, _ = runbook.differences([by_name()[entry.name] for entry in several])
    assert [key for key, _ in rows] == ["asked.bits", "found.rows"], "long lists that differ are told apart"
    assert "asked.bits" in runs.beside(several) and "Tick two" in runs.beside(several[:1])


@pytest.mark.unpoisoned
def test_the_command_makes_the_same_run_again(store):
    from typer.testing import CliRunner

    from ouro.cli.main import app

    made = finish(synthesize(SynthesisSpec("vim_nano", "noise", num=3, steps=7, seed=2, batch=2, lr=0.1))).values[
        "path"
    ]
    finish(quantize(QuantizeSpec("vim_nano", "minmax", "w4a4", made)))
    finish(quantize(QuantizeSpec("vim_nano", "minmax", "w4a4", "noise:4", seed=1)))
    before = by_name()
    lines = [runbook.command(entry) for entry in before.values()]
    assert sum('"$OURO_HOME"/runs/' in line for line in lines) == 1
    assert not any(str(store.folder) in line for line in lines), "a command names no folder of this machine"
    for line in lines:
        words = shlex.split(line.replace('"$OURO_HOME"', str(store.folder.parent)))
        assert CliRunner().invoke(app, words[1:], catch_exceptions=False).exit_code == 0
    assert set(by_name()) == set(before), "each was found again under its own spec"
    (store.folder / Path(made).parent.name / "spec.json").unlink()
    assert len(by_name()) == 2


def test_the_command_is_of_the_same_weights_and_names_of_classes(store, tmp_path: Path):
    import torch
    from typer.testing import CliRunner

    from ouro.cli.main import app
    from ouro.models import create_model

    weights = {key: value + 0.001 for key, value in create_model("vim_nano", pretrained=True).state_dict().items()}
    torch.save(weights, tmp_path / "mine.pth")
    names = ['it\'s "one"', *(f"class {k}" for k in range(11))]
    mine = own.model(str(tmp_path / "mine.pth"), names=names).entry
    assert mine is not None
    finish(engine.quantize_job(model=mine.alias, method="minmax", bits="w4a4", calib="noise:4"))
    (entry,) = runbook.entries()
    words = shlex.split(runbook.command(entry).replace('"$OURO_HOME"', str(store.folder.parent)))
    options = dict(zip(words[3::2], words[4::2], strict=True))
    assert options["--weights"] == mine.path and workspace.class_names(options["--class-names"]) == tuple(names)
    assert CliRunner().invoke(app, words[1:], catch_exceptions=False).exit_code == 0
    assert len(runbook.entries()) == 1, "it was found again under its own spec"
    # without the file it would be a run of other weights
    workspace.remove_model(mine.alias)
    assert runbook.command(runbook.entries()[0]) == ""


def test_places_of_this_machine_are_not_shown(store):
    name = kept(store, QUANTIZED | {"calib": f"{store.folder}/abc/tensors.safetensors"}, {"path": f"{store.folder}/x"})
    text = runs.detail(by_name()[name])
    assert "$OURO_HOME/runs/abc/tensors.safetensors" in text and str(store.folder) not in text


def test_notes_are_kept_beside_the_run(store):
    name = kept(store, SET)
    runbook.note(name, "  first try ")
    assert json.loads((store.folder / name / "notes.json").read_text()) == {"notes": "first try"}
    assert by_name()[name].notes == "first try" and "your notes" in runbook.losses(by_name()[name], [])
    runbook.note(name, " ")
    assert not (store.folder / name / "notes.json").exists()


def test_deletion_takes_the_run_and_nothing_else(store):
    one, two = (kept(store, SET | {"seed": seed}, {"recognized": {"self": 1.0}}) for seed in (1, 2))
    user = kept(store, QUANTIZED | {"calib": f"{store.folder}/{one}/tensors.safetensors"}, {})
    assert "1 run calibrated on it" in runbook.losses(by_name()[one], runbook.entries())
    assert "calibrated on it" not in runbook.losses(by_name()[two], runbook.entries())
    runbook.delete(one)
    assert set(by_name()) == {two, user} and not list(store.folder.parent.glob(".deleted*"))
    for name in ("..", "../../etc", one, "", f"{two}/.."):
        with pytest.raises(ValueError, match="no name of a run|no run"):
            runbook.delete(name)
    # a link leads out of the store
    outside = store.folder.parent / "outside"
    (store.folder / two).rename(outside)
    (store.folder / two).symlink_to(outside)
    with pytest.raises(ValueError, match="no run"):
        runbook.delete(two)
    assert (outside / "spec.json").exists()


def test_a_run_at_work_is_not_deleted(store):
    import threading

    from ouro.types import Progress

    go = threading.Event()

    def working():
        while not go.wait(0.02):
            yield Progress(1, 2, "")

    name = kept(store, SET)
    other = kept(store, SET | {"model": "other"})
    job = runner.start(samples.KIND, working, "its set", model="m")
    try:
        with pytest.raises(ValueError, match="generation · its set is at work and may write this run"):
            runbook.delete(name)
        runbook.delete(other)
        assert set(by_name()) == {name}
    finally:
        go.set()
        for _ in runner.follow(job):
            pass
    runbook.delete(name)
    assert not by_name()


def test_damaged_runs_are_passed_over(store):
    name = kept(store, SET)
    (store.folder / name / "spec.json").write_text("{")
    assert runbook.entries() == []


def test_what_something_else_wrote_into_a_run_does_not_stop_the_list(store):
    kept(store, QUANTIZED, {"seconds": 5.0, "agreement": 0.5})
    kept(store, QUANTIZED | {"model": None}, {"seconds": "long"})
    for sort in runbook.SORTS:
        assert len(runbook.chosen(runbook.entries(), sort=sort)) == 2
    assert {entry.seconds for entry in runbook.entries()} == {5.0, None}
    # a scan that does not say of which weights it is
    kept(store, {"job": "sensitivity", "model": "m"}, {"rows": []})
    assert stored.measured_sensitivities("m") == []


@pytest.mark.full
@pytest.mark.unpoisoned
def test_runs_are_found_compared_noted_opened_and_deleted(visit: Visit, home: Path):
    for seed in (1, 2, 3):
        finish(
            synthesize(
                SynthesisSpec("vim_nano_digits" if seed == 3 else "vim_nano", "noise", num=4, seed=seed), root=home
            )
        )
    page = visit.page
    # until the list of models is there, the page may still put the model back that was looked at last
    page.wait_for_selector("#wb-start-models [data-act=open]", timeout=180_000)
    visit.open("Runs")
    rows = page.locator("#wb-runs-rows tbody tr")
    rows.nth(2).wait_for()
    assert "3 runs" in page.inner_text("#wb-runs-total")
    page.locator("#wb-runs-words textarea, #wb-runs-words input").fill("digits generation")
    page.get_by_text("1 of 3 runs").wait_for()
    page.locator("#wb-runs-words textarea, #wb-runs-words input").fill("")
    rows.nth(2).wait_for()
    for at in (0, 1):
        rows.nth(at).locator("input").focus()
        page.keyboard.press("Space")
    page.locator("#wb-runs-beside code").get_by_text("asked.seed").wait_for()
    with page.expect_download() as download:
        page.get_by_role("button", name="Download CSV (2 ticked)").click()
    lines = list(csv.reader(Path(download.value.path()).read_text("utf-8").splitlines()))
    assert tuple(lines[0]) == runbook.HEADS and len(lines) == 3
    first = rows.filter(has_text="vim_nano_digits")
    first.locator("[data-act=details]").click()
    page.locator("#wb-runs-said pre").first.wait_for()
    assert page.input_value("#wb-runs-command textarea, #wb-runs-command input").startswith(
        "ouro generate vim_nano_digits "
    )
    page.locator("#wb-runs-notes textarea").fill("keep me")
    page.locator("#wb-runs-keep").click()
    first.get_by_text("keep me").wait_for()
    first.locator("[data-act=open]").click()
    page.wait_for_selector("#wb-samples-go", state="visible")
    page.wait_for_function("document.querySelector('#wb-model input').value === 'vim_nano_digits'")
    visit.open("Runs")
    page.locator("#wb-runs-delete").click()
    page.get_by_text("The set of 4 images, your notes").wait_for()
    page.locator("#wb-runs-really").click()
    page.get_by_text("2 runs").wait_for()
    assert rows.count() == 2 and page.locator("#wb-runs-detail").is_hidden()
    assert len(Store(home).runs()) == 2


@pytest.mark.full
def test_the_board_fits_a_phone(server: str, browser):
    visit = Visit(browser, server, width=390, height=844, query="__theme=dark&tab=runs")
    visit.page.wait_for_selector("#wb-runs-filters")
    # the last tabs are beyond the edge, a link to them moves them in
    tab = "[...document.querySelectorAll('#wb-tabs [role=tab]')].find(one => one.ariaSelected === 'true')"
    visit.page.wait_for_function(
        f"() => {{ const {{ left, right }} = {tab}.getBoundingClientRect(); return left >= 0 && right <= 390; }}",
        polling=100,
    )
    assert visit.page.evaluate("document.documentElement.scrollWidth") <= 390
    visit.page.close()
    assert not visit.wrong, "\n".join(visit.wrong)
