"""Long jobs: one that computes at a time, followed by any number of pages, paused and cancelled at once.

A page that is reloaded finds its job again, because the job lives here and not in the page's event.
"""

from __future__ import annotations

import html
import itertools
import logging
import threading
import time
from collections.abc import Callable, Generator, Iterator
from contextlib import nullcontext
from dataclasses import dataclass, field
from typing import Any

from ouro.progress import drive

log = logging.getLogger(__name__)

_POLL = 0.2
_DEVICE = threading.Lock()
"""Held by the job that computes: two at once on one device only slow each other down."""


EXPECTED = (ValueError, OSError, RuntimeError)
"""What a job or a handler raises on purpose: its message is meant for a person and says it all."""


class _Cancelled(Exception):
    """Ends a job between two of its steps."""


@dataclass
class Job:
    """One run of a generator of Progress, `about` something.

    `state` goes waiting -> running -> done, failed or cancelled; a running job may be paused and goes on by way of
    waiting. A job that only waits for a network does not `compute`, and so waits for no other and is not paused.
    """

    kind: str
    make: Callable[[], Generator[Any, None, Any]]
    about: str = ""
    computes: bool = True
    state: str = "waiting"
    updates: int = 0
    step: int = 0
    total: int = 0
    message: str = ""
    data: dict[str, Any] = field(default_factory=dict)
    history: list[dict[str, Any]] = field(default_factory=list)
    result: Any = None
    error: BaseException | None = None
    started: float = field(default_factory=time.monotonic)
    first: tuple[int, float] | None = None
    ended: float | None = None
    paused: float | None = None
    _stop: threading.Event = field(default_factory=threading.Event)
    _go: threading.Event = field(default_factory=threading.Event)

    @property
    def over(self) -> bool:
        return self.state in ("done", "failed", "cancelled")

    @property
    def seconds(self) -> float:
        return (self.ended or self.paused or time.monotonic()) - self.started

    @property
    def remaining(self) -> float | None:
        """Seconds to go at the pace so far; None while that is a guess.

        Time spent and time to go are as work done and work to do, so that they never contradict the percentage.
        """
        if self.state != "running" or self.seconds < 1:
            return None
        step, at = self.first or (0, self.started)
        if self.step <= step:
            return None
        return (time.monotonic() - at) / (self.step - step) * (self.total - self.step)

    def cancel(self) -> None:
        """Ends the job for whoever follows it, now; its thread ends at the next progress."""
        if not self.over:
            self._stop.set()
            self.state, self.ended = "cancelled", self.paused or time.monotonic()
            self._go.set()

    def pause(self) -> bool:
        """Stops for whoever follows it, now, and computes no more after the next update; False if it does not run."""
        if self.state != "running" or not self.computes:
            return False
        self._go.clear()
        self.state, self.paused = "paused", time.monotonic()
        return True

    def resume(self) -> bool:
        """Goes on after a pause, which counts neither as time spent nor into the pace; False if it was not paused."""
        if self.state != "paused" or self.paused is None:
            return False
        rest = time.monotonic() - self.paused
        self.started += rest
        self.first = self.first and (self.first[0], self.first[1] + rest)
        self.state, self.paused = "waiting", None
        self._go.set()
        return True

    def run(self) -> None:
        """Iterates the generator to its end, or to the cancellation."""
        with _DEVICE if self.computes else nullcontext():
            if self._stop.is_set():
                return
            self.state, self.started = "running", time.monotonic()
            self._go.set()
            try:
                result = drive(self.make(), self._watch)
                if not self._stop.is_set():
                    self.result, self.state = result, "done"
            except _Cancelled:
                pass
            # whatever the job raises belongs to the page that asked for it
            except Exception as error:
                if not self._stop.is_set():
                    if isinstance(error, EXPECTED):
                        log.warning("%s failed: %s", self.kind, first_line(error))
                    else:
                        log.exception("%s failed", self.kind)
                    self.error, self.state = error, "failed"
            finally:
                self.ended = self.ended or time.monotonic()

    def _watch(self, progress: Any) -> None:
        """Keeps a progress, and waits while the job is paused."""
        if self._stop.is_set():
            raise _Cancelled
        self._take(progress)
        if not self._go.is_set() or self.state == "waiting":
            self._rest()
            if self._stop.is_set():
                raise _Cancelled

    def _rest(self) -> None:
        """Until the pause is over; meanwhile the device is for others."""
        _DEVICE.release()
        try:
            self._go.wait()
        finally:
            _DEVICE.acquire()
        if self.state == "waiting":
            self.state = "running"

    def _take(self, progress: Any) -> None:
        self.step, self.total, self.message = progress.step, max(1, progress.total), progress.message
        self.data = {**self.data, **progress.data}
        if "loss" in progress.data:
            self.history.append({"step": progress.step, **progress.data["loss"]})
        # what was finished by an earlier run took no time and says nothing about the pace
        if "finished" in progress.data:
            self.first = (progress.step, time.monotonic())
        self.updates += 1


def busy() -> bool:
    """Whether a job computes now: whatever is timed meanwhile seems slower than it is."""
    return _DEVICE.locked()


_JOBS: dict[str, Job] = {}
_GATE = threading.Lock()


def start(kind: str, make: Callable[[], Generator[Any, None, Any]], about: str = "", *, computes: bool = True) -> Job:
    """Starts a job of this kind; `about` is shown above its bar until it is done.

    Raises:
        RuntimeError: one of the kind is at work.
    """
    with _GATE:
        running = _JOBS.get(kind)
        if running is not None and not running.over:
            raise RuntimeError(f"{kind} is already at work; wait for it or cancel it first")
        job = _JOBS[kind] = Job(kind, make, about, computes)
    threading.Thread(target=job.run, name=f"job-{kind}", daemon=True).start()
    return job


def latest(kind: str) -> Job | None:
    """The last job of this kind, whether it is over or not."""
    return _JOBS.get(kind)


def cancel(kind: str) -> bool:
    """Cancels the running job of this kind; False when there is none."""
    job = _JOBS.get(kind)
    if job is None or job.over:
        return False
    job.cancel()
    return True


def pause(kind: str) -> bool:
    """Pauses the running job of this kind, or lets the paused one go on; False when there is neither."""
    job = _JOBS.get(kind)
    return job is not None and (job.pause() or job.resume())


def follow(job: Job) -> Iterator[Job]:
    """The job, again whenever it moved and at least every second, until it is over."""
    seen, last = (-1, ""), 0.0
    for _ in itertools.count():
        over, now = job.over, (job.updates, job.state)
        if over or now != seen or time.monotonic() - last > 1:
            seen, last = now, time.monotonic()
            yield job
        if over:
            return
        time.sleep(_POLL)


def bar(job: Job | None, idle: str = "") -> str:
    """The job as a progress bar in HTML."""
    if job is None:
        return f'<div class="wb-job"><span class="wb-note">{html.escape(idle)}</span></div>' if idle else ""
    share = 1.0 if job.state == "done" else job.step / job.total if job.total else 0.0
    words = {
        "waiting": "waiting for another job to end",
        "running": job.message or "starting; the first run of a kind also compiles its kernels",
        "paused": f"paused at {100 * share:.0f} %: {job.message}",
        "done": "done",
        "cancelled": f"cancelled at {100 * share:.0f} %",
        "failed": f"failed: {first_line(job.error)}",
    }[job.state]
    right = f"{clock(job.seconds)}"
    if job.remaining is not None:
        right = f"{100 * share:.0f} % · {clock(job.seconds)} · {clock(job.remaining)} left"
    look = {"waiting": " wb-wait", "failed": " wb-failed", "cancelled": " wb-stopped", "paused": " wb-stopped"}.get(
        job.state, ""
    )
    if job.state == "running" and job.step == 0:
        look = " wb-wait"
    about = f'<div class="wb-about">{html.escape(job.about)}</div>' if job.about and job.state != "done" else ""
    return (
        f'<div class="wb-job{look}" data-state="{job.state}"{" role=alert" if job.state == "failed" else ""}>'
        f'{about}<div class="wb-track" role="progressbar" aria-label="{html.escape(job.kind)}" aria-valuemin="0" '
        f'aria-valuemax="100" aria-valuenow="{100 * share:.0f}">'
        f'<div class="wb-fill" style="width:{100 * share:.1f}%"></div></div>'
        f'<div class="wb-line"><span>{html.escape(words)}</span><span>{right}</span></div></div>'
    )


def clock(seconds: float) -> str:
    """3.2 s, 1 min 05 s, 2 h 10 min."""
    if seconds < 60:
        return f"{seconds:.1f} s" if seconds < 10 else f"{seconds:.0f} s"
    minutes, rest = divmod(round(seconds), 60)
    if minutes < 60:
        return f"{minutes} min {rest:02d} s"
    return f"{minutes // 60} h {minutes % 60:02d} min"


def first_line(error: BaseException | None) -> str:
    """What an exception says, in one line."""
    if error is None:
        return ""
    said = str(error).strip()
    return said.splitlines()[0] if said else type(error).__name__
