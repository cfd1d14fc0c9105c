"""The tour: offered once, gone through with the keyboard, there again behind "?"; and the error through time."""

from __future__ import annotations

import json

import pytest

from ouro.progress import finish
from tests.browsing import Visit
from workbench import drift, engine


@pytest.mark.full
def test_the_tour_is_offered_once_and_stays_within_reach(visit: Visit):
    page = visit.page
    # from here on the page is as it opens
    page.wait_for_url("**model=vim_nano**")
    page.locator("#wb-tour-start").focus()
    page.keyboard.press("Enter")
    titles = []
    for step in range(1, 5):
        page.locator("#wb-tour").get_by_text(f"Step {step} of 4").wait_for()
        titles.append(page.inner_text("#wb-tour-title"))
        assert page.evaluate("document.activeElement.id") == "wb-tour-title", "a screen reader begins with the title"
        page.locator("#wb-tour-next").focus()
        page.keyboard.press("Enter")
    assert len(set(titles)) == 4 and not page.locator("#wb-tour").count()
    assert page.evaluate("document.activeElement.id") == "wb-help"
    visit.open("Start")
    assert page.locator("#wb-tour-start").is_hidden()
    visit.reload()
    page.wait_for_selector("#wb-help")
    assert page.locator("#wb-tour-start").is_hidden()
    page.locator("#wb-help").click()
    page.locator("#wb-tour").get_by_text("Step 1 of 4").wait_for()
    page.keyboard.press("Escape")
    assert not page.locator("#wb-tour").count()


@pytest.mark.unpoisoned
def test_error_through_time_has_a_line_for_every_scan_and_says_which_patch_a_step_reads(tmp_path, monkeypatch):
    monkeypatch.setenv("OURO_HOME", str(tmp_path))
    assert drift.runs("vim_nano") == []
    spec = {"model": "vim_nano", "method": "minmax", "bits": "w4a4", "calib": "noise:4"}
    path = finish(engine.quantize_job(**spec)).values["path"]
    assert [one for _, one in drift.runs("vim_nano")] == [path]
    given = json.loads(
        drift.lines(engine.drifted(model="vim_nano", beside=path, layer=5, sample=0, data=engine.own_data("vim_nano")))
    )
    assert [line["name"] for line in given["lines"]] == ["forward", "backward"] and given["grid"] == [14, 14]
    one, other = (line["cells"] for line in given["lines"])
    assert one == other[::-1] and sorted(one) == list(range(-1, 196)) and one.count(-1) == 1
    assert all(line["mean"] > 0 for line in given["lines"])
