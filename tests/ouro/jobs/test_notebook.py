"""What notebooks share: the report comes through, the bar follows and goes, stored files are found or named."""

from __future__ import annotations

import json
from typing import Any

import pytest
from matplotlib.figure import Figure

from ouro.jobs import notebook
from ouro.paper.ledger import ledger
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
    with pytest.raises(FileNotFoundError, match="take it from a checkout"):
        notebook.stored("other")
    (tmp_path / "some.json").write_text("{}")
    with pytest.raises(FileNotFoundError, match=r"'other' in results/; known: some"):
        notebook.stored("other")


def test_every_goes_by_model(tmp_path, monkeypatch) -> None:
    monkeypatch.setattr(notebook, "RESULTS", tmp_path)
    for name in ("b", "a"):
        (tmp_path / f"tasks_{name}.json").write_text(f'{{"model": "{name}", "n": 3}}')
    assert list(notebook.every("tasks_*")) == ["a", "b"] and notebook.every("tasks_*")["b"]["n"] == 3
    with pytest.raises(FileNotFoundError, match="no stored measurement 'other_\\*'"):
        notebook.every("other_*")


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


def test_cell_has_percent_and_both_ends() -> None:
    assert notebook.cell(0.823, (0.806, 0.8391)) == "82.3 (80.6 to 83.9)"
    assert notebook.cell(0.5) == "50.0"
    assert notebook.gain({"difference": 0.012, "ci95": [-0.003, 0.0271]}) == "+1.2 (-0.3 to +2.7)"
    assert notebook.top1({"top1": 1.0}) == "100.0"
    shares = notebook.mean("jaccard")
    assert (
        shares({"jaccard": {"mean": 0.5, "ci95": [0.25, 0.75]}}) == "50.0 (25.0 to 75.0)"
        and shares({"jaccard": None}) == ""
    )


ROWS = [
    {"method": "ouro", "bits": "w4a4", "top1": 0.9, "ci95": [0.8, 0.95]},
    {"method": "ouro", "bits": "w8a8", "top1": 0.95},
    {"method": "minmax", "bits": "w4a4", "top1": 0.1},
]


def test_frame_spreads_one_column_and_keeps_the_order_of_the_rows() -> None:
    table = notebook.frame(ROWS, index="method", columns="bits", value=notebook.top1)
    assert list(table.index) == ["ouro", "minmax"] and list(table.columns) == ["w4a4", "w8a8"]
    assert table.loc["ouro", "w4a4"] == "90.0 (80.0 to 95.0)"
    assert table.loc["minmax", "w8a8"] == ""


def test_frame_takes_titles_and_several_names_for_a_line() -> None:
    table = notebook.frame(ROWS, index=("method", "bits"), columns={"top-1": notebook.top1, "raw": "top1"})
    assert table.loc[("ouro", "w8a8"), "raw"] == 0.95 and table.index.names == ["method", "bits"]
    assert notebook.frame(ROWS[:1], index=lambda row: row["bits"][:2], columns={"x": "top1"}).index[0] == "w4"


@pytest.mark.parametrize(
    "rows, asked, words",
    [
        (ROWS, {"index": "method", "columns": {"top-1": "top1"}}, "two rows for 'top-1'"),
        ([], {"index": "method", "columns": {"top-1": "top1"}}, "no rows"),
        (ROWS, {"index": "method", "columns": "bits"}, "one column and a value"),
        (ROWS, {"index": "method", "columns": {"a": "bits"}, "value": "top1"}, "one column and a value"),
    ],
    ids=["twice", "none", "no value", "a value too much"],
)
def test_frame_refuses_what_is_no_table(rows, asked, words) -> None:
    with pytest.raises(ValueError, match=words):
        notebook.frame(rows, **asked)


def test_verdict_shows_the_entry_of_the_ledger(monkeypatch) -> None:
    shown: list[Any] = []
    monkeypatch.setattr(notebook, "display", shown.append)
    notebook.verdict("fig4", "fig6")
    entry = next(one for one in ledger() if one["name"] == "fig4")
    words, points, *_ = shown
    assert len(shown) == 4
    assert f"figure 4: {entry['verdict']}." in words.data and entry["shows"] in words.data
    assert list(points["verdict"]) == [point["word"] for point in entry["points"]]
    assert list(points.index) == [point["claim"] for point in entry["points"]]


def test_verdict_names_what_there_is() -> None:
    with pytest.raises(ValueError, match=r"'fig99'; known: fig1"):
        notebook.verdict("fig99")
