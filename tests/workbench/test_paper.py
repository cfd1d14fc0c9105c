"""The Paper tab says what the ledger says: every entry with its verdict, its points, and the way to a tab."""

from __future__ import annotations

import html
import re

import pytest

from ouro.paper.verdict import NOTHING_TO_DECIDE, WORDS
from tests.browsing import Visit
from workbench import engine, paper


@pytest.fixture(scope="module")
def rows():
    return engine.ledger()


def text(markup: str) -> str:
    return html.unescape(re.sub(r"<[^>]+>", " ", markup))


def test_every_verdict_has_a_mark_and_a_place_in_the_filter(rows):
    assert set(paper.WORDS) == set(paper._MARKS) == {*WORDS, NOTHING_TO_DECIDE}
    choices = paper.counted(rows)
    assert choices[0] == (f"All {len(rows)}", paper.ALL)
    assert sum(int(words.split()[-1]) for words, _ in choices[1:]) == len(rows)


def test_an_entry_shows_all_its_points_with_what_decides_them(rows):
    shown = text(paper.listed(rows))
    for row in rows:
        assert row["shows"] in shown and row["title"] in shown
        for point in row["points"]:
            assert point["claim"] in shown and point["why"] in shown


def test_an_interval_is_drawn_around_its_line(rows):
    drawn = paper.whisker((2.0, 1.0, 3.0, 0.0), 4.0)
    line = re.search(r'<line x1="([\d.]+)" x2="([\d.]+)" y1="7"', drawn)
    low, high = map(float, line.groups())
    middle = float(re.search(r'cx="([\d.]+)"', drawn)[1])
    assert low > paper._HALF and low < middle < high < 2 * paper._HALF
    assert middle - paper._HALF == pytest.approx(2 * (low - paper._HALF), abs=0.2)
    # the line that decides is the middle, whatever it stands for
    assert f'cx="{paper._HALF}.0"' in paper.whisker((0.5, 0.4, 0.6, 0.5), 0.0)
    for row in rows:
        wanted = sum(point["interval"] is not None for point in row["points"])
        assert paper.listed([row]).count("<svg") == wanted, row["name"]
    assert any(point["interval"] for row in rows for point in row["points"])


def test_the_way_takes_the_model_that_decides_along(rows):
    models = {row["name"]: paper.model_of(row) for row in rows}
    assert (
        models["fig4"] == "vim_micro_cifar10"
        and models["fig9a"] == "vim_micro_cifar10"
        and models["fig9b"] == "vim_micro_cifar10"
        and models["fig6"] == ""
    )
    assert 'data-name="outliers vim_micro_cifar10"' in paper.listed(rows)


def test_the_filter_keeps_what_has_the_verdict(rows):
    for word in {row["verdict"] for row in rows}:
        named = re.findall(r'id="wb-paper-([^"]+)"', paper.listed(rows, word))
        assert named == [row["name"] for row in rows if row["verdict"] == word]
    assert "No figure and no table has the verdict" in paper.listed([rows[0] | {"verdict": "seen"}], "opposite")
    assert "No stored runs" in paper.listed([])


def test_ways_lead_to_tabs_that_there_are(rows):
    from workbench.app import demo

    tabs = {block.id for block in demo.blocks.values() if type(block).__name__ == "Tab"}
    assert set(paper._TABS.values()) <= tabs and set(paper._TABS) <= {row["name"] for row in rows}


@pytest.mark.full
def test_an_entry_opens_and_leads_to_its_tab(visit: Visit):
    page = visit.page
    visit.open("Paper")
    entry = page.locator("#wb-paper-fig4")
    entry.wait_for()
    assert not entry.get_by_text("a step later").first.is_visible()
    entry.locator("summary").press("Enter")
    entry.get_by_text("a step later").first.wait_for()
    page.locator("#wb-paper-filter").get_by_label("opposite", exact=False).check()
    page.locator("#wb-paper-fig2").wait_for()
    page.locator("#wb-paper-fig4").wait_for(state="detached")
    page.locator("#wb-paper-filter").get_by_label("All", exact=False).check()
    # what the address names is open again
    entry.get_by_text("a step later").first.wait_for()
    # with the model whose points decide; a page that has only just been opened may put its own back once
    for _ in range(5):
        entry.get_by_role("button", name="Try it").click()
        page.locator("#wb-outliers-facts").wait_for()
        page.wait_for_timeout(2000)
        if page.evaluate("document.querySelector('#wb-model input').value") == "vim_micro_cifar10":
            break
        visit.open("Paper")
    else:
        pytest.fail("the way to a tab does not take its model along")
