"""The Quantize tab: its rows, its chart, what two of them differ in, how long a run takes, and the tab in a browser."""

from __future__ import annotations

import csv
import itertools
import json
import re
from collections import Counter, defaultdict
from pathlib import Path
from typing import Any

import pytest

from ouro.progress import finish
from tests.browsing import Visit
from workbench import contrast, engine, grid, pace, quantize, stored, tradeoff

# models are first built on the meta device, which knows torch's own allocators only
unpoisoned = pytest.mark.unpoisoned

RESULTS = stored.accuracies()
SCORES = ("score", "ci95", "spread", "float", "agreement")
PAIR = ("equal_vim_nano_lin.json:0", "equal_vim_nano_lin.json:1")


def said(row: dict[str, Any]) -> dict[str, str]:
    return {column.key: cell[0] for column, cell in zip(grid.COLUMNS, grid.cells(row), strict=True)}


def row(**changes: Any) -> dict[str, Any]:
    known = {
        "id": "run 1", "model": "m", "method": "minmax", "bits": "w4a4o8", "scope": "lin", "calib": "real:32", "n": 100,
        "data": "scenes", "top1": 0.9, "ci95": [0.83, 0.94], "fp_top1": 0.97, "seeds": 1,
        "effective_bits": {"weights": 4.0, "activations": 4.36},
    }  # fmt: skip
    return known | changes


# ---- rows ------------------------------------------------------------------------------------------------------


def test_no_two_rows_look_the_same_but_for_their_numbers():
    looks = Counter(tuple(words for key, words in said(one).items() if key not in SCORES) for one in RESULTS)
    assert len(RESULTS) > 400 and looks.most_common(1)[0][1] == 1, looks.most_common(1)


def test_no_cell_has_more_digits_than_it_knows():
    cells = [words for one in RESULTS for words in said(one).values()]
    assert not [words for words in cells if re.search(r"\d\.\d{4,}", words)]
    # what was brought to equal effective bits has both kinds of them, each in its place
    one = next(one for one in RESULTS if isinstance(one["bits"], float))
    assert (said(one)["bits"], said(one)["effective"]) == ("w4a3o8", "4.00 / 3.25")


def test_an_interval_over_images_and_a_spread_over_seeds_are_two_columns():
    assert [said(row())[key] for key in ("ci95", "spread")] == ["83.0 – 94.0", "–"]
    assert [said(row(ci95=None, spread=0.012, seeds=3))[key] for key in ("ci95", "spread")] == ["–", "1.2"]
    # one seed spreads over nothing
    assert said(row(spread=0.0, seeds=1))["spread"] == "–"


@pytest.mark.parametrize(
    ("changes", "bits"),
    [
        ({}, (4.0, 4.36)),
        ({"effective_bits": None, "bits": "w4a8"}, (4.0, 8.0)),
        ({"effective_bits": None, "bits": "w4a4o8"}, None),
        ({"effective_bits": None, "bits": 3.24, "settings": [{"bits": "w4a3o8"}]}, (4.0, 3.24)),
    ],
    ids=["measured", "nothing to measure", "outliers that nobody counted", "equal bits"],
)
def test_effective_bits_are_those_that_are_known(changes, bits):
    assert grid.effective(row(**changes)) == bits


def test_what_calibrated_is_told_by_its_kind_and_its_set():
    for calib, known, words in (
        ("real:32", {}, ("real", "32 images")),
        ("synthetic", {"set": "out/a_seed{seed}.safetensors"}, ("synthetic", "a_seed{seed}")),
        ("/runs/1/tensors.safetensors", {"set": "ouro · 8 images, seed 1"}, ("synthetic", "ouro · 8 images, seed 1")),
        ("folder:/data/bees:8", {}, ("own pictures", "8 bees")),
    ):
        cells = said(row(calib=calib, **known))
        assert (cells["calib"], cells["set"]) == words


def test_better_scores_sort_first_whatever_the_metric():
    place = [column.key for column in grid.COLUMNS].index("score")
    orders = [grid.cells(row(metric="frechet", frechet=value))[place][1] for value in (1.5, 3.0)]
    assert orders[0] > orders[1]


def test_rows_are_sent_with_what_filters_and_groups_go_by():
    sent = json.loads(grid.grid([row(), *RESULTS[:2]], "m"))
    assert set(sent["filters"]) | set(sent["groups"]) <= {column["key"] for column in sent["columns"]}
    assert [one["own"] for one in sent["rows"]] == [True, False, False] and sent["model"] == "m"


# ---- chart -----------------------------------------------------------------------------------------------------


def test_chart_has_every_row_of_the_model_and_those_of_this_session_stand_out():
    mine = row(model="vim_nano")
    drawn = json.loads(tradeoff.chart([mine, *RESULTS], "vim_nano"))
    points = [trace for trace in drawn["data"] if "customdata" in trace]
    wanted = {one["id"] for one in RESULTS if one["model"] == "vim_nano"} | {"run 1"}
    ids = [one for trace in points for one in trace["customdata"]]
    assert set(ids) == wanted and len(ids) == len(wanted)
    (own,) = (trace for trace in points if trace["customdata"] == ["run 1"])
    assert own is points[-1] and own["marker"]["size"] > points[0]["marker"]["size"]
    assert own["error_y"]["array"] == pytest.approx([4.0]) and own["error_y"]["arrayminus"] == pytest.approx([7.0])
    assert abs(own["x"][0] - 4.18) < 0.3 and "effective bits" in drawn["layout"]["xaxis"]["title"]["text"]
    # a symbol per method, a color per kind of calibration images
    looks = {(trace["name"], trace["marker"]["symbol"]) for trace in points}
    assert len(looks) == len({name for name, _ in looks}) == len({symbol for _, symbol in looks})
    assert {trace["marker"]["color"] for trace in points} == {"$h", "$hp", "$muted"}
    assert any(trace["name"] == "float model" and trace["mode"] == "lines" for trace in drawn["data"])


def test_points_of_the_same_bits_do_not_hide_each_other():
    rows = [row(id=str(number), method=name) for number, name in enumerate(("minmax", "clipped", "ouro"))]
    drawn = json.loads(tradeoff.chart(rows, "m"))
    places = [x for trace in drawn["data"] if "customdata" in trace for x in trace["x"]]
    assert len(set(places)) == 3 and sum(places) / 3 == pytest.approx(4.18)


def test_a_model_without_rows_says_so_in_one_line():
    words = json.loads(tradeoff.chart(RESULTS, "vim_tiny_patch16_224"))["empty"]
    assert words.startswith("Nothing is stored for vim_tiny_patch16_224 yet.") and "\n" not in words


# ---- two rows --------------------------------------------------------------------------------------------------


def test_pinned_rows_give_the_difference_that_their_file_stores():
    rows = {one["id"]: one for one in RESULTS}
    words = contrast.contrast([rows[pin] for pin in PAIR])
    (pair,) = (
        pair
        for pair in json.loads((stored.RESULTS / "equal_vim_nano_lin.json").read_text("utf-8"))["pairs"]
        if pair["worse"] == "ouro"
    )
    low, high = (f"{100 * end:+.1f}" for end in pair["ci95"])
    assert f"<b>+{100 * pair['difference']:.1f} points</b>, 95 % interval {low} to {high} points, paired" in words
    assert f"Only A is right {pair['won']} times, only B {pair['lost']} times" in words
    assert "<td>Method</td><td>ouro_plus</td><td>ouro</td>" in words and "<td>Scope</td>" not in words


def test_a_smaller_distance_is_ahead():
    shared = {"metric": "frechet", "n": 300}
    a = row(**shared, frechet=1.5, ci95=[1.3, 1.7], resampled=[[1.4, 1.5, 1.6, 1.5]])
    b = row(**shared, frechet=2.5, ci95=[2.2, 2.8], resampled=[[2.4, 2.5, 2.7, 2.4]])
    words = contrast.difference(a, b)
    assert re.search(r"A − B is <b>−1</b>, 95 % interval −1\.\d+ to −0\.\d+, paired", words) and "A is better" in words
    assert "B is better" in contrast.difference(b, a) and "Only" not in words


@pytest.mark.parametrize(
    ("changes", "why"),
    [
        ({"n": 50}, "A was measured on 100 images, B on 50"),
        ({"data": "digits"}, "A was measured on scenes, B on digits"),
        ({"right": None}, "of B the outcomes of single images were not kept"),
        ({"right": ["ff"] * 3}, "A is the mean of one run, B of 3 runs"),
    ],
)
def test_what_is_not_paired_says_why_and_shows_both_intervals(changes, why):
    words = contrast.difference(row(right=["ff"]), row(top1=0.8, ci95=[0.71, 0.87], right=["ff"]) | changes)
    assert f"Not paired, so without an interval of its own: {why}." in words
    assert "90.0 % (83.0 – 94.0)" in words and "80.0 % (71.0 – 87.0)" in words and "+10.0 points" in words


def test_rows_without_a_score_are_compared_by_the_float_models_answers():
    bare = {"top1": None, "ci95": None, "data": "folder:/bees", "n": 16}
    a, b = (row(**bare, agreement=share, same=[same]) for share, same in ((1.0, "ffff"), (0.5, "0f0f")))
    words = contrast.difference(a, b)
    assert (
        "A answers as the float model does on 100.0\xa0%, B on 50.0\xa0%. A − B is <b>+50.0 points</b>, 95 %" in words
    )
    assert "paired on the same 16 images: <b>A is closer to it</b>" in words
    assert "B is closer to it" in contrast.difference(b, a)
    # maps and boxes agree in part
    parts = contrast.difference(a, b | {"same": None})
    assert (
        "+50.0 points" in parts
        and "Not paired" in parts
        and "of B the outcomes of single images were not kept" in parts
    )
    assert (
        contrast.difference(a, row())
        == "A and B have no score to compare: A had no images with the answers beside them."
    )


@unpoisoned
def test_runs_of_a_session_tell_classes_images_and_sections(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setenv("OURO_HOME", str(tmp_path))
    monkeypatch.setattr(quantize, "_RUNS", defaultdict(list))
    spec = {"model": "vim_nano", "method": "minmax", "calib": "real:8", "scope": "lin", "seed": 0}
    rows = finish(quantize.compare([{**spec, "bits": bits} for bits in ("w3a3", "w8a8")], 40, "scenes", quantize.keep))
    assert len(rows) == 2 and [one["id"].split()[0] for one in quantize.known()[:2]] == ["run", "run"]
    b, a = quantize.known()[:2]
    apart = int((a["answers"] != b["answers"]).sum())
    words = contrast.contrast([a, b])
    assert apart and words.count("<li><img alt=") == min(apart, contrast.IMAGES)
    assert f"Images whose class changed<small>{apart} of 40" in words and "paired on the same 40 images" in words
    assert "Class by class" in words and words.count("<i>float</i>") == min(apart, contrast.IMAGES)
    assert len(json.loads(contrast.blocks([a, b]))["data"]) == 2
    # rows of other images have no classes or pictures in common
    assert "Images whose class" not in contrast.contrast([a, b | {"n": 39}])


# ---- the form --------------------------------------------------------------------------------------------------


def form(**changes: Any) -> dict[str, str]:
    known = {
        "model": "vim_nano", "methods": ["ouro"], "bits": "w4a4o8", "kind": "real", "count": 32, "chosen": None,
        "scope": "lin", "limit": 500, "seed": 0, "data": "scenes",
    }  # fmt: skip
    return quantize.configuration(**(known | changes))


def test_only_what_changed_is_in_the_difference_of_two_forms():
    words = quantize.differences(form(), form(bits="w4a8", count=64))
    assert re.findall(r"<tr><td>([^<]*)</td>", words) == ["Bits of activations", "Bits of outliers", "How many"]
    assert "<td>4</td><td>8</td>" in words and "<td>32</td><td>64</td>" in words
    assert "as A was kept" in quantize.differences(form(), form())


def test_bits_that_cannot_be_read_are_a_fault():
    assert quantize.fault("w4x").startswith("bits 'w4x' cannot be read; write weights, activations")
    assert quantize.fault("") and quantize.fault("w1a4") and not quantize.fault(" W4A4o8 ")


# ---- time ------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("ends", "words"),
    [
        ((0.5, 3), "a few seconds"),
        ((18, 41), "about 20 to 40 s"),
        ((28, 31), "about 30 s"),
        ((52, 130), "about 50 s to 2 min"),
        ((65, 185), "about 1 to 3 min"),
        ((58, 61), "about 1 min"),
        ((3000, 9000), "about 50 min to 2.5 h"),
    ],
)
def test_an_estimate_is_a_range_in_words(ends, words):
    assert pace.about(ends) == words


def test_an_estimate_follows_the_pace_and_what_was_seen(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(pace, "_SEEN", {})
    paces = {"forward": 0.01, "judged": 0.01}
    monkeypatch.setattr(engine, "pace", lambda model: paces)
    monkeypatch.setattr(engine, "known_pace", lambda model: paces)
    spec = {"model": "m", "method": "minmax", "calib": "real:100"}
    low, high = pace.estimate([spec], 500)
    assert low < 100 * 4 * 0.01 + 500 * 2.5 * 0.01 < high
    paces |= {"forward": 0.1, "judged": 0.1}
    assert pace.estimate([spec], 500)[0] > 5 * low
    # a run that took longer than was thought makes the next estimate longer, and narrower
    pace.learn(spec, 500, calibrating=302.0, measuring=500.0)
    again = pace.estimate([spec], 500)
    assert again[0] < 802 < again[1] and again[1] / again[0] < high / low


def test_the_bar_gives_each_stage_its_share_of_the_time(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(pace, "_SEEN", {})
    monkeypatch.setattr(engine, "image_count", lambda model, data: 1000)
    specs = [{"model": "m", "method": name, "calib": "real:32"} for name in ("minmax", "ouro")]
    ends = quantize._stages(specs, 500, "scenes")
    assert ends[0] == 0 and ends[-1] == pytest.approx(1) and ends == sorted(ends)
    lengths = [end - begin for begin, end in itertools.pairwise(ends)]
    # calibrating by minmax is short, measuring is long; images that there are not take no time
    assert lengths[0] < 0.2 * lengths[1] and lengths[2] > 5 * lengths[0]
    assert quantize._stages(specs, 5000, "scenes")[1] == pytest.approx(
        (p := [*pace.costs(specs[0], 1000), *pace.costs(specs[1], 1000)])[0] / sum(p)
    )


# ---- in a browser ----------------------------------------------------------------------------------------------


def column(visit: Visit, name: str) -> list[str]:
    at = visit.page.locator("#wb-quantize-grid thead th").all_inner_texts().index(name)
    return visit.page.locator(f"#wb-quantize-grid tbody tr[data-id] td:nth-child({at + 1})").all_inner_texts()


@pytest.mark.full
def test_the_tab_opens_with_pictures_and_a_table_that_is_worked_by_keyboard(visit: Visit):
    page = visit.page
    visit.open("Quantize")
    page.wait_for_selector("#wb-quantize-chart .main-svg")
    table = page.locator("#wb-quantize-grid")
    points = page.locator("#wb-quantize-chart .scatterlayer .points path")
    rows, drawn = table.locator("tbody tr[data-id]"), points.count()
    stored_rows = sum(one["model"] == "vim_nano" for one in RESULTS)
    # the first ones, and all when somebody asks: the focus goes to the first of the others
    some = rows.count()
    assert some < stored_rows
    table.get_by_role("button", name=f"Show the other {stored_rows - some} rows").press("Enter")
    assert rows.count() == stored_rows
    assert page.evaluate("document.activeElement.dataset.id") == rows.nth(some).get_attribute("data-id")
    box = table.locator(".wb-grid-scroll").bounding_box()
    assert box["height"] <= 430
    # words filter rows, and points with them
    table.get_by_label("filter rows by words").fill("ouro_plus linear")
    page.wait_for_function("document.querySelectorAll('#wb-quantize-grid tbody tr[data-id]').length < 3")
    assert set(column(visit, "Method")) <= {"ouro_plus"} or rows.count() == 1
    page.wait_for_function(
        "count => document.querySelectorAll('#wb-quantize-chart .scatterlayer .points path').length < count / 4",
        arg=drawn,
    )
    table.get_by_role("button", name="Clear filters").click()
    table.get_by_label("filter by method").select_option("minmax")
    # order by a header, with the keyboard
    table.get_by_role("button", name="Score", exact=True).focus()
    page.keyboard.press("Enter")
    head = table.locator("th[aria-sort=descending]")
    assert head.inner_text().startswith("Score")
    scores = [float(words.split("\u00a0")[0]) for words in column(visit, "Score ↓")]
    assert scores == sorted(scores, reverse=True) and len(scores) > 10
    page.keyboard.press("Enter")
    assert table.locator("th[aria-sort=ascending]").count() == 1
    table.get_by_label("group rows by").select_option("calib")
    assert table.locator(".wb-grid-group").count() == 3
    # what is saved is what is shown, with all columns
    with page.expect_download() as download:
        table.get_by_role("button", name="Save CSV").click()
    lines = list(csv.reader(Path(download.value.path()).read_text("utf-8-sig").splitlines()))
    assert lines[0] == [column.title for column in grid.COLUMNS] and len(lines) == len(scores) + 1
    # two pins, ticked by keyboard, are compared and stay on top of whatever is filtered
    table.get_by_role("button", name="Clear filters").click()
    table.get_by_label("group rows by").select_option("")
    table.get_by_label("filter rows by words").fill("equal_vim_nano_lin")
    page.wait_for_function("document.querySelectorAll('#wb-quantize-grid tbody tr[data-id]').length === 6")
    for pin in PAIR:
        table.locator(f'input[data-id="{pin}"]').focus()
        page.keyboard.press("Space")
    page.locator("#wb-quantize-versus").get_by_text("paired on the same 1000 images").wait_for()
    table.get_by_label("filter rows by words").fill("kscale")
    assert [row.get_attribute("data-id") for row in rows.all()[:2]] == list(PAIR)
    page.keyboard.press("Tab")


@pytest.mark.full
def test_a_point_leads_to_its_row(visit: Visit):
    page = visit.page
    visit.open("Quantize")
    page.wait_for_selector("#wb-quantize-chart .main-svg")
    page.locator("#wb-quantize-grid").get_by_label("filter rows by words").fill("kscale_full")
    point = page.locator("#wb-quantize-chart .scatterlayer .points path")
    page.wait_for_function("document.querySelectorAll('#wb-quantize-chart .scatterlayer .points path').length < 25")
    page.locator("#wb-quantize-chart").scroll_into_view_if_needed()
    boxes = [one.bounding_box() for one in point.all()]
    plot = page.locator("#wb-quantize-chart .nsewdrag").bounding_box()
    (box,) = (box for box in boxes if box and plot["x"] < box["x"] < plot["x"] + plot["width"] and box["y"] > plot["y"])
    page.mouse.move(box["x"] + box["width"] / 2, box["y"] + box["height"] / 2)
    page.locator("#wb-quantize-chart .hovertext").wait_for()
    page.mouse.down()
    page.mouse.up()
    marked = page.locator("#wb-quantize-grid tr.wb-marked")
    marked.wait_for()
    assert marked.get_attribute("data-id") == "kscale_full_vim_nano.json:0"


@pytest.mark.full
def test_a_run_is_estimated_refused_compared_and_added(visit: Visit):
    page = visit.page
    visit.open("Quantize")
    page.locator("#wb-quantize-eta").get_by_text("This takes about").wait_for()
    page.locator("#wb-quantize-keep").click()
    page.get_by_text("The form is as A was kept.").wait_for()
    page.get_by_label("OuroMamba-Quant").uncheck()
    bits = page.locator("#wb-quantize-bits input")
    bits.fill("")
    bits.press_sequentially("w4x")
    page.locator("#wb-quantize-fault [role=alert]", has_text="Bits 'w4x' cannot be read").wait_for()
    page.wait_for_selector("#wb-quantize-go[disabled]")
    bits.fill("w4a8")
    bits.press("Enter")
    page.wait_for_selector("#wb-quantize-go:not([disabled])")
    page.wait_for_selector("#wb-quantize-fault p", state="detached")
    page.locator("#wb-quantize-diff").get_by_text("Bits of activations").wait_for()
    assert "Held-out images" not in page.inner_text("#wb-quantize-diff")
    page.get_by_role("button", name="Advanced").last.click()
    visit.number("wb-quantize-limit", 50)
    visit.number("wb-quantize-count", 8)
    page.locator("#wb-quantize-diff").get_by_text("Held-out images").wait_for()
    page.locator("#wb-quantize-go").click()
    assert visit.ended("wb-quantize-job").startswith("done")
    own = page.locator("#wb-quantize-grid tr.wb-own")
    own.wait_for()
    assert "this session, run 1" in own.inner_text() and "w4a8" in own.inner_text()
    page.locator("#wb-quantize-chart .legendtext").get_by_text("this session").wait_for()
    page.wait_for_selector("#wb-quantize-go:not([disabled])")
    # it is there for whoever comes later
    visit.reload()
    visit.open("Quantize")
    own.wait_for()
    page.locator("#wb-quantize-clear").click()
    own.wait_for(state="detached")


@pytest.mark.full
def test_the_table_scrolls_inside_itself_on_a_phone(server: str, browser):
    visit = Visit(browser, server, width=390, height=844, theme="dark")
    visit.open("Quantize")
    visit.page.wait_for_selector("#wb-quantize-grid tbody tr")
    assert visit.page.evaluate("document.documentElement.scrollWidth") <= 390
    scroll = visit.page.locator("#wb-quantize-grid .wb-grid-scroll")
    assert scroll.evaluate("node => node.scrollWidth > node.clientWidth && node.scrollHeight > node.clientHeight")
    assert scroll.bounding_box()["height"] <= 400
    visit.page.close()
    assert not visit.wrong, "\n".join(visit.wrong)


@unpoisoned
def test_parts_that_are_left_in_float_are_listed_before_a_run_and_said_after_it():
    refused, listed = quantize.found("vim_nano", "lin", r"layers\.0\.|head")
    count = len(re.findall("<li>", listed))
    assert not refused and f"{count} of {len(engine.sites('vim_nano', 'lin'))} tensors stay in float" in listed
    assert count and all("layers.0." in path for path in re.findall("<code>(.*?)</code>", listed))
    assert quantize.found("vim_nano", "lin", " ") == ("", "")
    for expression, words in (("layers[", "no regular expression"), ("nowhere", "found in none of")):
        assert words in quantize.found("vim_nano", "lin", expression)[0]
    assert quantize.kept_in_float(" a|b ") == {"keep": (("a|b", 32),)} and quantize.kept_in_float("") == {}
    _, listed = quantize.found("vim_nano", "lin", r"layers\.[01]\..*in_proj\.tap_in:3")
    assert "channels of 2 of" in listed and len(re.findall("<li>", listed)) == 2
    apart = row(keep=[{"sites": "x", "bits": 32, "count": 1, "channels": [3, 17]}])
    assert grid.effective(apart) == (4.0, 4.36) and "float: channels 3, 17 of x (1 sites)" in said(apart)["details"]
    known = row(keep=[{"sites": r"layers\.0\.", "bits": 32, "count": 12}])
    assert "float: layers\\.0\\. (12 sites)" in said(known)["details"] and said(known)["effective"] == "–"
    assert grid.effective(row(keep=[{"sites": "x", "bits": 8, "count": 1}])) == (4.0, 4.36)
    form = ("vim_nano", ["ouro"], "w4a4", "real", 32, None, "lin", 500, 0, "scenes")
    a, b = (quantize.configuration(*form, ignored) for ignored in ("", "head"))
    assert "Left in float" in quantize.differences(a, b) and "Seed" not in quantize.differences(a, b)


@pytest.mark.full
def test_a_link_to_another_model_shows_no_rows_of_the_first(server: str, browser):
    visit = Visit(browser, server, query="tab=quantize&model=vmamba_nano_seg")
    select = "document.querySelector('#wb-quantize-grid select')?.value"
    seen = [visit.page.wait_for_function(f"() => {select}", polling=20).json_value()]
    # until the form has followed, which is the last that an address sets
    while "measured=scenes_seg" not in visit.page.url:
        seen.append(visit.page.evaluate(f"() => {select}"))
        visit.page.wait_for_timeout(50)
    assert set(seen) == {"vmamba_nano_seg"}, seen
    visit.page.close()
    assert not visit.wrong
