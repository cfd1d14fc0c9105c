"""What notebooks share: the report comes through, the bar follows and goes, stored files are found or named."""

from __future__ import annotations

import json
from typing import Any

import pytest
from matplotlib.figure import Figure

from ouro.jobs import notebook
from ouro.types import Progress, Report, RunInfo

REPORT = Report("made up", {"answer": 42}, RunInfo("cpu", {}, "unknown", 0, 0.0))


def job(steps: int = 3):
    for step in range(steps):
        yield Progress(step, steps, f"part {step}")
    return REPORT


def test_run_returns_the_report_and_shows_every_message(capsys) -> None:
    assert notebook.run(job()) is REPORT
    shown = capsys.readouterr().err
    assert "part 0" in shown and "part 2" in shown


def test_run_takes_a_job_without_progress(capsys) -> None:
    assert notebook.run(job(0)) is REPORT


def test_run_passes_an_error_on(capsys) -> None:
    def failing():
        yield Progress(0, 0, "begun")
        raise ValueError("no such layer")

    with pytest.raises(ValueError, match="no such layer"):
        notebook.run(failing())


@pytest.mark.parametrize("name", ["some", "some.json"])
def test_stored_reads_what_is_there(tmp_path, monkeypatch, name) -> None:
    monkeypatch.setattr(notebook, "RESULTS", tmp_path)
    (tmp_path / "some.json").write_text(json.dumps({"n": 3, "name": "größer"}), "utf-8")
    assert notebook.stored(name) == {"n": 3, "name": "größer"}


def test_stored_names_what_is_there(tmp_path, monkeypatch) -> None:
    monkeypatch.setattr(notebook, "RESULTS", tmp_path)
    with pytest.raises(FileNotFoundError, match="comes with a checkout"):
        notebook.stored("other")
    (tmp_path / "some.json").write_text("{}")
    with pytest.raises(FileNotFoundError, match=r"'other' in results/ .* known: some"):
        notebook.stored("other")


def test_every_stored_measurement_is_read_and_described() -> None:
    values = notebook.stored("neighborhoods")
    words = notebook.origin(values)
    assert values["device"] in words and values["commit"] in words and f"n = {values['n']}" in words
    del values["n"]
    assert "n =" not in notebook.origin(values)


def test_show_draws_a_png_with_its_words(monkeypatch) -> None:
    shown: list[Any] = []
    monkeypatch.setattr(notebook, "display", shown.append)
    figure = Figure(figsize=(2, 1))
    figure.subplots().plot([0, 1])
    notebook.show(figure, "a line that rises")
    picture, words = shown
    assert picture.data.startswith(b"\x89PNG") and picture.alt == "a line that rises"
    assert words.data == "a line that rises"
