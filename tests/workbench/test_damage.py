"""Charts and tables of sensitivity and of budgets, from values as jobs give them."""

from __future__ import annotations

import json
import re
from typing import Any

import pytest

from ouro.figures import sensitivity as figures
from ouro.progress import finish
from workbench import damage, engine, grid, guess, outliers, quantize, stored, whatif


def row(block: str, kind: str, kl: float, alone: float | None) -> dict[str, Any]:
    return {
        "name": f"{block}.{kind}", "block": block, "kind": kind, "sites": 1, "bits": [4], "kl": kl, "top1_drop": 0.01,
        "sqnr_db": 12.0, "isolated_kl": alone,
    }  # fmt: skip


def report(mode: str, rows: list[dict[str, Any]]) -> dict[str, Any]:
    return {
        "model": "m", "method": "clipped", "bits": "w4a4", "scope": "lin", "calib": "real:8", "data": "scenes", "n": 50,
        "mode": mode, "by": "site", "fp_top1": 0.9, "whole": {"kl": 0.5, "top1_drop": 0.2, "sqnr_db": 5.0}, "rows": rows,
    }  # fmt: skip


def isolated() -> dict[str, Any]:
    damages = [("layers.1", "b", 0.1), ("layers.10", "a", 0.01), ("layers.2", "a", 0.001), ("head", "a", 0.0)]
    return report("isolated", [row(block, kind, kl, kl) for block, kind, kl in damages])


def test_map_has_blocks_in_the_order_of_the_model_and_holes_where_nothing_is_lost():
    drawn = json.loads(damage.map_chart(isolated()))["data"][0]
    assert drawn["x"] == ["1", "2", "10", "head"] and drawn["y"] == ["a", "b"]
    assert drawn["z"] == [[None, -3.0, -2.0, None], [-1.0, None, None, None]]
    assert drawn["text"][1][0] == "1e−1" and not drawn["showscale"]


def test_map_agrees_with_the_figure_of_the_library():
    (values,) = (report for report in stored.sensitivities() if report["model"] == "vim_nano")
    drawn = json.loads(damage.map_chart(values))["data"][0]
    theirs = figures.screen(values).data[0]
    assert drawn["y"] == list(theirs.y) and [f"layers.{x}" for x in drawn["x"]] == list(theirs.x)
    assert drawn["z"] == [pytest.approx(list(line)) for line in theirs.z]


def test_map_of_all_but_one_shows_what_each_gives_back():
    values = report("leave_one_float", [row("layers.0", "a", 0.2, None), row("layers.1", "a", 0.6, None)])
    drawn = json.loads(damage.map_chart(values))["data"][0]
    assert drawn["z"] == [pytest.approx([0.3, -0.1])]
    assert (drawn["zmin"], drawn["zmax"]) == pytest.approx((-0.3, 0.3)), "nothing saved is in the middle of the colors"
    assert "layers.0.a in float saves the most, KL 0.30" in damage.summary(values)


def test_nothing_rounded_is_reported_and_not_drawn():
    values = report("isolated", [row("layers.0", "a", 0.0, 0.0)])
    assert "nothing is rounded" in json.loads(damage.map_chart(values))["empty"]


def test_curve_has_accuracy_where_rows_add_up():
    values = report("cumulative", [row("layers.0", "a", 0.1, 0.1), row("layers.1", "a", 0.5, 0.4)])
    kl, top1 = json.loads(damage.curve_chart(values))["data"]
    assert kl["y"] == [0.1, 0.5] and top1["y"] == pytest.approx([89, 89])
    assert len(json.loads(damage.curve_chart(isolated()))["data"]) == 1


@pytest.mark.parametrize(("mode", "kind", "at"), [("isolated", "log", -1), ("leave_one_float", None, 0.1)])
def test_curve_says_where_all_are_rounded(mode, kind, at):
    values = report(mode, [row("layers.0", "a", 0.1, None)]) | {"whole": {"kl": 0.1, "top1_drop": 0, "sqnr_db": 1}}
    layout = json.loads(damage.curve_chart(values))["layout"]
    assert layout["yaxis"].get("type") == kind and layout["annotations"][0]["y"] == pytest.approx(at)
    assert layout["shapes"][0]["y0"] == 0.1


def test_table_begins_with_the_worst():
    values = report("cumulative", [row("layers.0", "a", 0.1, 0.1), row("layers.1", "<b>", 0.5, 0.4)])
    lines = damage.worst_table(values).split("<tr>")[2:]
    assert "layers.1.&lt;b&gt;" in lines[0] and "0.40" in lines[0] and "0.50" in lines[0]
    assert "layers.0.a" in lines[1]


def test_budgets_are_drawn_with_those_they_can_be_compared_with():
    shared = {"model": "m", "scope": "lin", "by": "site", "calib": "real:8", "ci95": [0.8, 0.9], "top1": 0.85,
              "fp_top1": 0.9, "mean_bits": {"weights": 4.0, "activations": 4.0}}  # fmt: skip
    rows = [
        {**shared, "method": "clipped", "budget": 5.0, "widths": [4, 6], "predicted_kl": 0.1, "measured_kl": 0.2},
        {**shared, "method": "other", "budget": 4.5, "widths": [4, 6], "predicted_kl": 9.0, "measured_kl": 9.0},
        {**shared, "method": "clipped", "budget": 4.0, "widths": [4], "predicted_kl": 0.3, "measured_kl": 0.4},
        {**shared, "method": "clipped", "budget": 4.0, "widths": [4, 6], "predicted_kl": 0.2, "measured_kl": 0.3},
    ]
    drawn = {trace["name"]: (trace["x"], trace["y"]) for trace in json.loads(damage.budget_chart(rows))["data"]}
    assert drawn["predicted"] == ([4.0, 5.0], [0.2, 0.1]) and drawn["measured"] == ([4.0, 5.0], [0.3, 0.2])
    assert drawn["measured, one width"] == ([4.0], [0.4])
    assert damage.budget_table(rows).count("<tr>") == 5 and not damage.budget_table([])


def test_a_guess_is_judged_by_the_ranks_of_the_scan():
    assert "You guessed it" in guess.verdict("layers.1.b", isolated())
    said = guess.verdict("layers.2.a", isolated())
    assert "You guessed layers.2.a: number 3 of 4. layers.1.b hurts most." in said
    assert (
        guess.verdict("elsewhere", isolated())
        == guess.verdict(None, isolated())
        == guess.verdict("layers.1.b", None)
        == ""
    )


@pytest.mark.unpoisoned
def test_a_what_if_is_the_scan_once_more_with_some_parts_kept(tmp_path, monkeypatch):
    monkeypatch.setenv("OURO_HOME", str(tmp_path))
    (values,) = (report for report in stored.sensitivities() if report["model"] == "vim_nano")
    values = {**values, "method": "minmax", "bits": "w3a3", "calib": "noise:4"}
    names = whatif.choices(values)[:2]
    assert names[0] == max(values["rows"], key=lambda row: row["kl"])["name"]
    before, after = whatif.specs(values, names, 8)
    assert "keep" not in before
    kept = engine.kept_sites("vim_nano", values["scope"], after["keep"][0][0])
    assert sorted(kept) == sorted(path for name in names for path in engine.groups("vim_nano", "lin", "group")[name])
    tried = finish(whatif._tried([before, after], 40, "scenes", names, 8))
    assert tried["row"]["n"] == tried["base"]["n"] == 40 and tried["row"]["path"] != tried["base"]["path"]
    assert tried["row"]["effective_bits"]["activations"] > tried["base"]["effective_bits"]["activations"]
    table = whatif.listed([tried])
    assert all(f"<code>{name}</code>" in table for name in names) and "?tab=runs&amp;run=" in table
    assert whatif.listed([]) == ""
    with pytest.raises(ValueError, match="no part 'gone'"):
        whatif.specs(values, ["gone"], 8)


@pytest.mark.unpoisoned
@pytest.mark.full
def test_a_what_if_keeps_channels_of_a_tensor_beside_parts(tmp_path, monkeypatch):
    monkeypatch.setenv("OURO_HOME", str(tmp_path))
    (values,) = (report for report in stored.sensitivities() if report["model"] == "vim_nano")
    values = {**values, "method": "minmax", "bits": "w8a3", "calib": "noise:4"}
    path = outliers_at("vim_nano")
    tensor, _, channels = path.rpartition(":")
    given = whatif.specs(values, [], 8, f" {path} ")
    assert given[1]["keep"] == ((f"^{re.escape(tensor)}$:{channels}", 8),)
    assert len(whatif.specs(values, whatif.choices(values)[:1], 8, path)[1]["keep"]) == 2
    tried = finish(whatif._tried(given, 40, "scenes", [path], 8))
    base, row = tried["base"], tried["row"]
    assert row["keep"][0]["channels"] == [int(channel) for channel in channels.split(",")]
    assert row["effective_bits"]["activations"] > base["effective_bits"]["activations"] == 3
    assert row["audit"]["sealed"] and grid.effective(row) is not None
    assert f"<code>{path}</code>" in whatif.listed([tried])
    assert grid.details(row).startswith(
        f"8 bits: channels {grid.shortened(channels.replace(',', ', '), 20)} of ^layers"
    )
    # in the table of Quantize it is a row of its own
    assert any(known["run"] == row["path"].split("/")[-2] for known in quantize.known() if known.get("run"))


def test_what_nobody_measured_offers_its_parts_as_they_come():
    asked = {"model": "vim_nano", "scope": "lin", "by": "group"}
    assert whatif.choices(asked) == list(engine.groups("vim_nano", "lin", "group"))
    measured = {**asked, "rows": isolated()["rows"]}
    assert whatif.choices(measured)[0] == "layers.1.b"


@pytest.mark.parametrize(
    ("channels", "words"),
    [
        ("nowhere:1", "channels 'nowhere:1' are of no tensor that this scan rounds (scope lin); write its path and numbers, "
                      "as in 'layers.0.mixer.in_proj.tap_in:61,17', or measure another scope"),
        ("61,17", "channels '61,17' are of no tensor that this scan rounds"),
        ("layers.0.mixer.in_proj.tap_in:", "names '' as channels, expected whole numbers with commas"),
        ("layers.0.mixer.in_proj.tap_in:3,3", "names channel 3 twice; name each channel once"),
    ],
)  # fmt: skip
def test_channels_that_a_what_if_cannot_keep_are_refused(channels, words):
    values = {"model": "vim_nano", "method": "minmax", "bits": "w4a4", "scope": "lin", "calib": "noise:4", "seed": 0}
    with pytest.raises(ValueError, match=re.escape(words)):
        whatif.specs(values, [], 8, channels)


def outliers_at(model: str) -> str:
    """The tensor that Outliers opens with, and its largest channels."""
    values = engine.outliers(**outliers.first_spec(model)).values
    return f"{values['path']}:{','.join(map(str, values['top_channels'][:8]))}"
