"""Jobs: states, progress, cancellation at once, failures, and one job of a kind at a time."""

from __future__ import annotations

import threading
import time
from collections.abc import Generator

import pytest

from ouro.types import Progress
from tests.waiting import until
from workbench import runner


def counting(total: int, pause: float = 0.0, closed: threading.Event | None = None) -> Generator[Progress, None, str]:
    try:
        for step in range(total):
            time.sleep(pause)
            yield Progress(step + 1, total, f"step {step + 1}", {"loss": {"a": float(step)}})
        return "finished"
    finally:
        if closed is not None:
            closed.set()


def end_of(job: runner.Job) -> runner.Job:
    for last in runner.follow(job):
        seen = last
    return seen


def test_job_ends_in_its_result():
    job = end_of(runner.start("counting", lambda: counting(3)))
    assert (job.state, job.result, job.step, job.message) == ("done", "finished", 3, "step 3")
    assert [row["a"] for row in job.history] == [0.0, 1.0, 2.0]
    assert runner.latest("counting") is job and not runner.cancel("counting")


def test_cancel_is_seen_at_once_though_a_step_takes_long():
    closed = threading.Event()
    job = runner.start("slow", lambda: counting(5, pause=1.2, closed=closed))
    states = runner.follow(job)
    next(states)
    began = time.monotonic()
    assert runner.cancel("slow")
    assert [each.state for each in states][-1] == "cancelled"
    assert time.monotonic() - began < 1.0, "a step takes 1.2 s"
    assert closed.wait(3), "the generator was not closed"
    time.sleep(0.05)
    assert job.result is None and job.state == "cancelled"


def test_who_presses_cancel_is_answered_with_the_bar_itself():
    assert runner.stopped("never begun") == ""
    job = runner.start("pressed", lambda: counting(5, pause=0.3))
    until(lambda: job.step)
    assert 'data-state="cancelled"' in runner.stopped("pressed") and job.over


def test_a_second_job_of_a_kind_is_refused_and_one_of_another_kind_waits():
    first = runner.start("kind", lambda: counting(4, pause=0.2))
    with pytest.raises(RuntimeError, match="kind is already at work; wait for it or cancel it first"):
        runner.start("kind", lambda: counting(1))
    other = runner.start("other kind", lambda: counting(1))
    states = {job.state for job in runner.follow(other)}
    assert first.state == "done" and states >= {"waiting", "done"}


def test_a_job_that_only_waits_for_a_network_neither_takes_the_device_nor_waits_for_it():
    first = runner.start("computing", lambda: counting(8, pause=0.2))
    loads = runner.start("loading", lambda: counting(2), computes=False)
    assert end_of(loads).state == "done" and not first.over
    assert not loads.pause() and end_of(first).state == "done"


def test_paused_job_computes_nothing_and_lends_the_device():
    began = time.monotonic()
    job = runner.start("long", lambda: counting(40, pause=0.05), about="forty <steps>")
    while job.step < 3:
        time.sleep(0.02)
    assert runner.pause("long") and job.state == "paused" and "paused at" in runner.bar(job)
    assert "forty &lt;steps&gt;" in runner.bar(job)
    # it would wait for good if the paused one kept the device
    assert end_of(runner.start("short", lambda: counting(2))).state == "done"
    step, spent = job.step, job.seconds
    time.sleep(0.3)
    assert (job.step, job.seconds) == (step, spent)
    assert runner.pause("long") and job.state in ("waiting", "running")
    assert end_of(job).state == "done" and job.step == 40
    assert job.seconds < time.monotonic() - began - 0.3
    assert not runner.pause("long") and not runner.pause("no such kind")


def test_cancel_ends_a_paused_job_without_another_step():
    closed = threading.Event()
    job = runner.start("rests", lambda: counting(40, pause=0.05, closed=closed))
    while job.step < 2:
        time.sleep(0.02)
    assert job.pause()
    time.sleep(0.2)
    step = job.step
    job.cancel()
    assert closed.wait(3) and job.step == step and end_of(job).state == "cancelled"


def test_pace_is_that_of_what_is_computed_now():
    def resumed() -> Generator[Progress, None, None]:
        for done in (10, 20):
            yield Progress(done, 40, "read", {"finished": done})
        for step in range(21, 41):
            time.sleep(0.15)
            yield Progress(step, 40, "made")

    job = runner.start("resumed", resumed)
    per_step = [seen.remaining / (40 - seen.step) for seen in runner.follow(job) if 27 < seen.step < 36]
    # were the 20 that took no time counted, it would be half of it or less
    assert per_step and min(per_step) > 0.13


def test_failure_is_kept_for_the_page():
    def failing() -> Generator[Progress, None, None]:
        yield Progress(1, 2, "well so far")
        raise ValueError("bits 'w9' cannot be read\nmore")

    job = end_of(runner.start("failing", failing))
    assert job.state == "failed"
    assert "failed: bits &#x27;w9&#x27; cannot be read<" in runner.bar(job)


@pytest.mark.parametrize(("error", "traced"), [(ValueError("no network"), False), (KeyError("lost"), True)])
def test_only_what_is_unforeseen_is_logged_with_its_trace(error, traced, caplog):
    def failing() -> Generator[Progress, None, None]:
        yield Progress(1, 2, "well so far")
        raise error

    assert end_of(runner.start(f"fails {traced}", failing)).state == "failed"
    (record,) = caplog.records
    assert bool(record.exc_info) == traced


def test_percent_and_time_left_never_disagree():
    def uneven() -> Generator[Progress, None, None]:
        # opens for long, then is quick, then slow
        for step, pause in enumerate([0.8, *[0.02] * 10, *[0.2] * 8], start=1):
            time.sleep(pause)
            yield Progress(step, 20, "step")

    said = []
    for job in runner.follow(runner.start("uneven", uneven)):
        spent, left = job.seconds, job.remaining
        if left is not None:
            said.append((spent / (spent + left), job.step / 20))
    assert len(said) > 3
    assert all(abs(by_time - by_work) < 0.06 for by_time, by_work in said), said


def test_bar_shows_progress_and_time_left():
    job = runner.Job("demo", lambda: counting(1), state="running", step=25, total=100, message="25 of <100>")
    job.started = time.monotonic() - 10
    job.first = (5, time.monotonic() - 8)
    text = runner.bar(job)
    assert 'aria-valuenow="25"' in text and "25 of &lt;100&gt;" in text and "25 % · 10 s · 30 s left" in text


@pytest.mark.parametrize(
    ("seconds", "words"), [(3.21, "3.2 s"), (42.4, "42 s"), (65, "1 min 05 s"), (7860, "2 h 11 min")]
)
def test_clock(seconds, words):
    assert runner.clock(seconds) == words


def test_a_job_that_cannot_begin_fails_too():
    def refused() -> Generator[Progress, None, None]:
        raise ValueError("num is 0, expected 1 or more")

    job = end_of(runner.start("refused", refused))
    assert job.state == "failed" and runner.first_line(job.error) == "num is 0, expected 1 or more"
