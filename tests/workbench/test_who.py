"""Several people at one app: each sees their own jobs and runs, and of the others no more than that they wait for them."""

from __future__ import annotations

import threading
from types import SimpleNamespace

import gradio as gr
import pytest

from ouro.types import Progress
from tests.browsing import Visit
from workbench import jobs, runner, who
from workbench.errors import guarded


def request(cookie: str) -> gr.Request:
    return gr.Request(SimpleNamespace(headers={"cookie": cookie}))  # type: ignore[arg-type]


@guarded
def answering(words: str = "") -> str:
    return f"{words}{who.current()}"


@guarded
def counting(upto: int):
    for number in range(upto):
        yield number, who.current()


def test_handlers_know_whom_they_answer():
    assert answering(request("a=1; wb_browser=ann")) == "ann" and answering(request(""), "nobody: ") == "nobody: "
    assert answering(request('wb_browser="; x=\x00')) == "" and answering("directly") == "directly"
    ann, bob = (counting(request(f"wb_browser={name}"), 2) for name in ("ann", "bob"))
    assert [next(ann), next(bob), next(ann), next(bob)] == [(0, "ann"), (0, "bob"), (1, "ann"), (1, "bob")]
    assert next(ann, None) is None and who.current() == ""


def test_a_job_belongs_to_whoever_started_it():
    go, seen = threading.Event(), []

    def make():
        seen.append(who.current())
        yield Progress(1, 2, "secret step")
        go.wait(30)
        return 1

    with who.being("ann"):
        first = runner.start("whose", make, "ann's secret model")
        list(zip(runner.follow(first), range(2), strict=False))
    with who.being("bob"):
        assert runner.latest("whose") is None and not runner.cancel("whose") and runner.numbered(first.number) is None
        second = runner.start("whose", make, "of bob")
        words = jobs.listed(runner.jobs()) + runner.bar(second)
        assert "secret" not in words and "a job of another session" in words and "of bob" in words
        assert "waiting for a job of another session, first in line" in runner.waits(second)
        second.cancel()
    go.set()
    with who.being("ann"):
        list(runner.follow(first))
        assert runner.latest("whose") is first and first.result == 1 and "secret" in jobs.listed(runner.jobs())
    with who.being("bob"):
        assert "secret" not in jobs.listed(runner.jobs())
    assert seen == ["ann"]


@pytest.mark.full
def test_two_browsers_do_not_see_each_other(server: str, browser):
    people = [Visit(browser, server) for _ in range(2)]
    for person in people:
        person.open("Samples")
        person.page.wait_for_selector("#wb-samples-go")
    ann, bob = people
    ann.number("wb-samples-num", 16)
    ann.page.locator("#wb-samples-go").click()
    ann.page.wait_for_selector("#wb-samples-job [data-state=running]")
    assert bob.page.locator("#wb-samples-job [data-state]").count() == 0
    bob.number("wb-samples-num", 4)
    bob.page.locator("#wb-samples-go").click()
    # the list of jobs, which is not open, says it as well
    waiting = bob.page.locator("#wb-samples-job").get_by_text("waiting for a job of another session, first in line")
    waiting.wait_for()
    bob.page.locator("#wb-samples-cancel").click()
    bob.ended("wb-samples-job", "cancelled")
    assert ann.page.locator("#wb-samples-job [data-state=running]").count() == 1
    ann.page.locator("#wb-samples-cancel").click()
    ann.ended("wb-samples-job", "cancelled")
    for person in people:
        assert not person.wrong
        person.page.close()
