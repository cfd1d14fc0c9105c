"""What a step of an event shows reaches the page, however late the page comes to draw it."""

from __future__ import annotations

import time
from copy import deepcopy
from typing import Any

import pytest

from tests.browsing import Visit


def edited(value: Any, edits: list) -> Any:
    """A value with the edits that it is sent, made in place, as the browser makes them."""
    for act, path, new in edits:
        if not path:
            value = value + new if act == "append" else new
            continue
        inner = value
        for key in path[:-1]:
            inner = inner[key]
        if act == "delete":
            del inner[path[-1]]
        else:
            inner[path[-1]] = new
    return value


def test_a_step_leaves_what_the_one_before_it_said():
    from workbench.steps import Blocks

    class Event:
        outputs = ("bar", "images", "button")

    nothing = {"__type__": "update"}
    steps = [
        ["running", nothing, {**nothing, "interactive": False}],
        ["running, 4 of 4", {**nothing, "visible": True, "value": [1, 2]}, {**nothing, "interactive": False}],
        ["done", nothing, {**nothing, "interactive": True}],
    ]
    page, shown, heard = Blocks(), [], []
    for at, step in enumerate(steps):
        sent = page.handle_streaming_diffs(Event, deepcopy(step), "session", "run", final=False)
        shown = [edited(old, new) for old, new in zip(shown, sent, strict=True)] if at else sent
        heard.append(list(shown))
    assert heard == steps
    # and at its end the last one once more
    assert page.handle_streaming_diffs(Event, [None] * 3, "session", "run", final=True) == steps[-1]
    assert not page.pending_diff_streams


@pytest.mark.full
def test_a_set_is_shown_though_the_page_hears_late_that_it_was_begun(visit: Visit):
    page = visit.page
    # another event is being answered, so that answers find their way before this one is known to have been taken
    visit.open("Sensitivity")
    page.wait_for_selector("#wb-sensitivity-go:not([disabled])")
    page.locator("#wb-sensitivity-go").click()
    page.wait_for_selector("#wb-sensitivity-job [data-state=running]")
    page.locator("#wb-jobs button").first.click()
    page.locator("#wb-jobs").get_by_role("button", name="Pause").click()
    page.wait_for_selector("#wb-sensitivity-job [data-state=paused]")
    page.keyboard.press("Escape")
    visit.open("Samples")
    page.get_by_label("Gaussian noise").check()
    visit.number("wb-samples-num", 4)
    page.wait_for_selector("#wb-samples-go:not([disabled])")

    def late(route) -> None:
        answer = route.fetch()
        time.sleep(2)
        route.fulfill(response=answer)

    page.route("**/queue/join*", late)
    page.locator("#wb-samples-go").click()
    assert visit.ended("wb-samples-job").startswith("done")
    page.wait_for_selector("#wb-samples-gallery img")
    page.unroute("**/queue/join*")
    page.locator("#wb-jobs button").first.click()
    page.locator("#wb-jobs").get_by_role("button", name="Cancel").click()
    page.wait_for_selector("#wb-sensitivity-job [data-state=cancelled]", state="attached")
