"""What leaves the page: figures as PNG, SVG, CSV and tables, views as files, commands and lines of Python."""

from __future__ import annotations

import csv
import io
import json
import re
import shlex
from pathlib import Path
from xml.etree import ElementTree

import pytest
from PIL import Image

from ouro.data import comes_along
from tests.browsing import Visit
from workbench import grid, recipes, stored, times, tradeoff

VALUES = {
    "model": "vim_nano", "data": "scenes", "image": "1", "layer": "2", "window": "3", "neighbors": "delta", "tensor": "u",
    "scan": "forward", "kappa": "3.5", "refresh": "7", "steps": "4", "seed": "2",
}  # fmt: skip
unpoisoned = pytest.mark.unpoisoned


def test_only_sets_that_everybody_has_are_named_elsewhere():
    assert all(comes_along(name) for name in recipes.DATA)


@unpoisoned
@pytest.mark.parametrize("tab", [tab for tab in recipes.COMMANDS if tab != "quantize"])
def test_commands_compute_what_is_seen(tab: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys):
    from ouro.cli import app

    monkeypatch.chdir(tmp_path)
    words = shlex.split(recipes.COMMANDS[tab].format(**VALUES))
    with pytest.raises(SystemExit) as end:
        app([*words[1:], "--json"])
    said = json.loads(capsys.readouterr().out)
    assert words[0] == "ouro" and end.value.code == 0 and said["model"] == "vim_nano" and said["sample"] == 1
    assert Path(said["path"]).stat().st_size > 1000


@unpoisoned
@pytest.mark.parametrize("tab", [tab for tab in recipes.PYTHON if tab != "quantize"])
def test_lines_of_python_draw_what_is_seen(tab: str):
    lines = recipes.PYTHON[tab].format(**VALUES).strip().splitlines()
    known: dict[str, object] = {}
    exec("\n".join(lines[:-1]), known)
    report = known["report"]
    assert report.values["model"] == "vim_nano"  # type: ignore[attr-defined]
    assert type(eval(lines[-1], known)).__name__ == "Figure"


@unpoisoned
@pytest.mark.parametrize(
    "ignored",
    [
        pytest.param("", id="all rounded", marks=pytest.mark.full),
        pytest.param(r"layers\.0\.", id="a layer in float"),
    ],
)
def test_a_configuration_is_the_same_as_a_command_and_in_python(
    ignored: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys
):
    from ouro.cli import app

    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("OURO_HOME", str(tmp_path / "home"))
    values = {
        **VALUES,
        "method": "minmax",
        "bits": "w4a4",
        "calib": "noise",
        "count": "4",
        "scope": "lin",
        "limit": "40",
    }

    def filled(template: str) -> str:
        # what stands in brackets is left out by the page where there is nothing for it
        return re.sub(r"\[([^[\]]*{ignore}[^[\]]*)\]", r"\1" if ignored else "", template).format(
            **values, ignore=ignored
        )

    said = []
    for command in filled(recipes.COMMANDS["quantize"]).split(" && "):
        with pytest.raises(SystemExit) as end:
            app([*shlex.split(command)[1:], "--json"])
        assert end.value.code == 0
        said.append(json.loads(capsys.readouterr().out))
    assert said[0].get("keep", []) == ([{"sites": ignored, "bits": 32, "count": 12}] if ignored else [])
    known: dict[str, object] = {}
    *lines, last = filled(recipes.PYTHON["quantize"]).strip().splitlines()
    exec("\n".join(lines), known)
    assert eval(last, known)["top1"] == said[1]["top1"] and said[1]["n"] == 40


def saved(visit: Visit, menu: str, kind: str, folder: Path) -> Path:
    box = visit.page.locator(menu)
    box.locator("summary").first.click()
    with visit.page.expect_download() as download:
        box.get_by_text(kind, exact=True).click()
    path = folder / download.value.suggested_filename
    download.value.save_as(path)
    return path


def test_saved_tables_compute_nothing(visit: Visit):
    page = visit.page
    rows = [["a", "=1+1", "ü"], ["-x", -0.5, "+0.3 (-1 to 2)"], [None, 'say "b"', "@at"]]
    with page.expect_download() as download:
        page.evaluate("rows => wb.save.csv('table', rows)", rows)
    text = Path(download.value.path()).read_bytes().decode("utf-8-sig")
    assert list(csv.reader(io.StringIO(text, newline=""))) == [
        ["a", "'=1+1", "ü"], ["'-x", "-0.5", "+0.3 (-1 to 2)"], ["", 'say "b"', "'@at"],
    ]  # fmt: skip


@pytest.mark.full
def test_a_map_is_saved_as_the_numbers_that_it_shows(visit: Visit, tmp_path: Path):
    """It is drawn by their logarithms."""
    visit.open("Sensitivity")
    visit.page.wait_for_selector("#wb-sensitivity-map .main-svg")
    path = saved(visit, "#wb-sensitivity-map .wb-save", "CSV", tmp_path)
    cells = list(csv.DictReader(io.StringIO(path.read_text("utf-8-sig"))))
    found = next(
        report for report in stored.sensitivities() if report["model"] == "vim_nano" and report["mode"] == "isolated"
    )
    known = sorted(row["kl"] for row in found["rows"] if row["kl"] > 0)
    assert {cell["trace"] for cell in cells} == {"KL alone"}
    assert sorted(value for cell in cells if (value := float(cell["KL alone"] or 0)) > 0) == pytest.approx(known)


def test_numbers_of_a_chart_are_those_that_it_shows(visit: Visit):
    figure = {
        "data": [
            # beside its place; an axis of its own; a gap; an entry of the legend; words
            {"name": "a", "x": [3.9, 4.1], "y": [1, None], "meta": {"x": [4, 4], "point": ["one", "two"]}},
            {"name": "b", "x": [1, 2], "y": [50, 60], "yaxis": "y2"},
            {"name": "c", "x": [None], "y": [None]},
            {"mode": "text", "x": [1], "y": [1]},
        ],
        "layout": {
            "xaxis": {"title": {"text": "bits"}},
            "yaxis": {"title": {"text": "KL"}},
            "yaxis2": {"title": {"text": "top-1, %"}},
        },
    }
    assert visit.page.evaluate("figure => wb.save.points(figure)", figure) == [
        ["trace", "bits", "KL", "top-1, %", "point"],
        ["a", 4, 1, "", "one"],
        ["a", 4, "", "", "two"],
        ["b", 1, "", 50, ""],
        ["b", 2, "", 60, ""],
    ]
    # every point of the trade-off has the bits and the score of its row
    drawn = json.loads(tradeoff.chart(stored.accuracies(), "vim_nano"))
    head, *told = visit.page.evaluate("figure => wb.save.points(figure)", drawn)
    known = [row for row in stored.accuracies() if row["model"] == "vim_nano" and grid.effective(row)]
    places = sorted((sum(grid.effective(row) or ()) / 2, 100 * row["top1"]) for row in known)
    assert head[:3] == ["trace", "effective bits, mean of weights and activations", "top-1, %"] and head[-1] == "point"
    found = sorted((row[1], row[2]) for row in told if row[0] != "float model")
    assert [value for one in found for value in one] == pytest.approx([value for one in places for value in one])
    # and every time its case
    files = stored.benchmarks()
    timed = next(row for row in times.measured(files) if row["p50_ms"])
    head, *told = visit.page.evaluate(
        "figure => wb.save.points(figure)", json.loads(times.chart(files, timed["device"], timed["topic"]))
    )
    cases = {row["case"] for row in times.measured(files)}
    assert {row[2] for row in told} <= cases and timed["p50_ms"] in [row[1] for row in told]


@pytest.mark.full
def test_figures_are_saved_as_picture_drawing_and_numbers(visit: Visit, tmp_path: Path):
    visit.open("Attention")
    page = visit.page
    page.wait_for_selector("#wb-attention-auroc .main-svg")
    for view, rows, columns in (("#wb-attention-board", 197, 6), ("#wb-attention-auroc", 19, 4)):
        with Image.open(saved(visit, f"{view} .wb-save", "PNG", tmp_path)) as picture:
            assert picture.format == "PNG" and picture.width > 400
        assert ElementTree.parse(saved(visit, f"{view} .wb-save", "SVG", tmp_path)).getroot().tag.endswith("svg")
        text = saved(visit, f"{view} .wb-save", "CSV", tmp_path).read_text("utf-8")
        table = list(csv.reader(io.StringIO(text)))
        assert (len(table), len(table[0])) == (rows, columns) and len({len(row) for row in table}) == 1
    page.locator("#wb-attention-auroc .wb-save summary").click()
    page.locator("#wb-attention-auroc").get_by_text("Show as table").click()
    assert page.locator("#wb-attention-auroc .wb-data tbody tr").count() == 18


@pytest.mark.full
def test_a_view_is_one_file_that_needs_nothing(visit: Visit, browser, tmp_path: Path):
    visit.open("Attention")
    visit.page.wait_for_selector("#wb-attention-auroc .main-svg")
    visit.page.locator("#wb-attention-h").click()
    visit.page.wait_for_url("**patch=**")
    path = saved(visit, "#wb-share", "Save as HTML", tmp_path)
    assert path.name == "ouro-attention-vim_nano.html"
    page = browser.new_page()
    wrong: list[str] = []
    page.on("pageerror", lambda error: wrong.append(str(error)))
    page.on(
        "request", lambda request: wrong.append(request.url) if not request.url.startswith(("file:", "data:")) else None
    )
    page.goto(path.as_uri())
    assert page.locator(".main-svg").count() >= 1 and page.locator(".wb-save").count() >= 2
    before = page.get_attribute("#wb-attention-h", "aria-label")
    assert before == visit.label("wb-attention-h")
    page.locator("#wb-attention-input").focus()
    page.keyboard.press("ArrowRight")
    assert page.get_attribute("#wb-attention-h", "aria-label") != before
    assert str(tmp_path.parents[2]) not in path.read_text("utf-8")
    page.close()
    assert not wrong


@pytest.mark.full
def test_a_view_is_shared_as_link_command_and_python(visit: Visit):
    page = visit.page
    page.context.grant_permissions(["clipboard-read", "clipboard-write"])
    visit.open("Attention")
    page.wait_for_url("**tab=attention**layer=3**")
    got = {}
    ways = {"Copy link": "The link to", "Copy as command": "Copied: ouro", "Copy as Python": "The lines for a notebook"}
    for words, said in ways.items():
        page.locator("#wb-share summary").focus()
        page.keyboard.press("Enter")
        page.locator("#wb-share").get_by_text(words, exact=True).focus()
        page.keyboard.press("Enter")
        page.locator("#wb-copied.wb-on").get_by_text(said).wait_for()
        got[words] = page.evaluate("navigator.clipboard.readText()")
    values = VALUES | {"image": "0", "layer": "3", "window": "5"}
    assert got["Copy link"] == page.url
    assert got["Copy as command"] == recipes.COMMANDS["attention"].format(**values)
    assert got["Copy as Python"] == recipes.PYTHON["attention"].format(**values)
    visit.open("Paper")
    page.wait_for_url("**tab=paper**")
    page.locator("#wb-share summary").click()
    assert page.locator("#wb-share > div").inner_text().splitlines() == ["Copy link", "Save as HTML"]
