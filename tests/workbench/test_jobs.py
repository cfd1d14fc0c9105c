"""Jobs: the fair line in front of the device, what a waiting bar says, the list, and its panel in a browser."""

from __future__ import annotations

import re
import threading
import time
from collections.abc import Generator

import pytest

from ouro.types import Progress
from tests.browsing import Visit
from tests.waiting import until
from workbench import jobs, runner


class Held:
    """A generator of progress that goes on until it is let go."""

    def __init__(self) -> None:
        self.go = threading.Event()

    def __call__(self) -> Generator[Progress, None, str]:
        while not self.go.is_set():
            yield Progress(1, 4, "held")
            time.sleep(0.02)
        return "let go"


def end_of(job: runner.Job) -> runner.Job:
    *_, last = runner.follow(job)
    return last


@pytest.fixture
def line() -> Generator[list[runner.Job], None, None]:
    """Three jobs, the first at the device and two in line behind it, which end with the test."""
    works = [Held() for _ in range(3)]
    made = [runner.start(f"kind {at}", work, f"model <{at}>", model="m") for at, work in enumerate(works)]
    until(lambda: made[0].state == "running")
    yield made
    for work in works:
        work.go.set()
    for job in made:
        end_of(job)


def test_the_device_is_handed_on_in_the_order_of_starting():
    first, order = Held(), []
    held = runner.start("holder", first)

    def noted(name: int) -> Generator[Progress, None, None]:
        order.append(name)
        yield Progress(1, 1, "")

    waiting = [runner.start(f"noted {name}", lambda name=name: noted(name)) for name in range(8)]
    first.go.set()
    for job in (held, *waiting):
        assert end_of(job).state == "done"
    assert order == list(range(8))


def test_a_waiting_bar_names_what_it_waits_for_and_its_place(line):
    assert runner.waits(line[1]) == "waiting for kind 0 · model <0>, first in line"
    assert runner.waits(line[2]) == "waiting for kind 0 · model <0>, second in line"
    assert "waiting for kind 0 · model &lt;0&gt;, second in line" in runner.bar(line[2])


def test_one_that_gives_up_makes_room_at_once(line):
    line[1].cancel()
    assert runner.waits(line[2]).endswith("first in line")
    assert "cancelled before it began" in runner.bar(line[1])


def test_a_paused_one_goes_to_the_end_of_the_line(line):
    assert line[0].pause()
    until(lambda: line[1].state == "running")
    assert line[0].resume()
    until(lambda: runner.waits(line[0]).endswith("second in line"))
    assert runner.waits(line[0]).startswith("waiting for kind 1")


def test_the_list_has_them_by_place_and_counts_those_at_work(line):
    names = [job.kind for job in runner.jobs() if not job.over]
    assert names == ["kind 0", "kind 1", "kind 2"]
    text = jobs.listed(runner.jobs())
    assert text.startswith('<div data-at-work="3">')
    rows = re.findall(r"<li .*?</li>", text)
    assert "model &lt;0&gt;" in rows[0] and 'data-act="pause"' in rows[0] and 'data-act="cancel"' in rows[0]
    assert 'data-act="pause"' not in rows[1], "who waits cannot be paused"
    assert "Cancel · kind 1 · model &lt;1&gt;" in rows[1], "a button says what it would cancel"
    line[2].cancel()
    assert jobs.listed(runner.jobs()).startswith('<div data-at-work="2">')


def test_an_older_job_stays_listed_without_what_it_made():
    for number in range(2):
        work = Held()
        work.go.set()
        assert end_of(runner.start("twice", work, f"no. {number}")).result == "let go"
    new, old = (job for job in runner.jobs() if job.kind == "twice")
    assert (new.about, old.about) == ("no. 1", "no. 0") and new.result == "let go"
    assert old.result is None and old.state == "done"
    assert runner.numbered(new.number) is new and runner.numbered(old.number) is None


def test_no_place_of_this_machine_is_said():
    error = ValueError("'/home/a b/.cache/ouro/runs/95dcf2f65be040fb/tensors.safetensors' is no set of m")
    assert (
        runner.first_line(ValueError("/x/runs/95dcf2f65be040fb/spec.json: cut off")) == "run 95dcf2f65be040fb: cut off"
    )
    assert "/runs/" not in runner.first_line(error)


def test_every_kind_leads_to_a_tab():
    from workbench.app import demo

    ids = {block.id for block in demo.blocks.values() if block.__class__.__name__ == "Tab"}
    assert set(jobs.TABS.values()) <= ids


def test_again_computes_what_is_stored():
    seen = []

    def looking() -> Generator[Progress, None, None]:
        seen.append(runner.from_store(True))
        yield Progress(1, 1, "")

    first = end_of(runner.start("looking", looking, "about it"))
    assert first.cached and "cached" in runner.bar(first)
    second = end_of(runner.again("looking"))
    assert seen == [True, False] and not second.cached and "cached" not in runner.bar(second)
    with pytest.raises(RuntimeError, match="there was no such kind"):
        runner.again("such kind")


@pytest.mark.full
def test_the_panel_follows_cancels_and_leads_there(visit: Visit):
    page = visit.page
    visit.open("Samples")
    visit.number("wb-samples-num", 8)
    visit.number("wb-samples-steps", 500)
    page.locator("#wb-samples-go").click()
    page.wait_for_selector("#wb-samples-job [data-state=running]")
    # nobody has opened the panel, and yet the number is there
    page.get_by_role("button", name="Jobs, 1 at work").focus()
    visit.open("Quantize")
    page.wait_for_selector("#wb-quantize-go:not([disabled])")
    page.locator("#wb-quantize-go").click()
    page.locator("#wb-quantize-job").get_by_text(
        "waiting for generation · vim_nano · ouro · 8 images, 500 steps, seed 0, first in line"
    ).wait_for()
    opener = page.locator(".wb-jobopener")
    opener.focus()
    page.keyboard.press("Enter")
    page.wait_for_selector("#wb-jobs-panel li:nth-child(2)[data-state=waiting]")
    page.get_by_role("button", name="Cancel · quantization").focus()
    page.keyboard.press("Enter")
    page.wait_for_selector("#wb-jobs-panel li[data-state=cancelled]")
    page.get_by_role("button", name="Cancel · generation").click()
    page.wait_for_selector("#wb-jobs-panel li[data-state=cancelled] >> nth=1")
    page.wait_for_selector(".wb-jobcount:empty", state="attached")
    page.get_by_role("button", name="Open Samples").click()
    page.wait_for_selector("#wb-samples-job [data-state=cancelled]")
    assert opener.get_attribute("aria-expanded") == "false"


@pytest.mark.full
def test_escape_closes_the_panel_on_a_phone(server: str, browser):
    visit = Visit(browser, server, width=390, height=844, theme="dark")
    page = visit.page
    page.locator(".wb-jobopener").click()
    box = page.locator("#wb-jobs-panel").bounding_box()
    assert box["x"] >= 0 and 300 < box["width"] <= 390 and page.evaluate("document.documentElement.scrollWidth") <= 390
    page.keyboard.press("Escape")
    page.wait_for_selector("#wb-jobs-panel", state="hidden")
    assert page.evaluate("document.activeElement.className") == "wb-jobopener"
    page.close()
    assert not visit.wrong, "\n".join(visit.wrong)
