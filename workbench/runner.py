"""Long jobs: one that computes at a time, followed by any number of pages, paused and cancelled at once.

A page that is reloaded finds its job again, because the job lives here and not in the page's event.
"""

from __future__ import annotations

import html
import itertools
import logging
import re
import threading
import time
from collections import deque
from collections.abc import Callable, Generator, Iterator
from contextvars import ContextVar
from dataclasses import dataclass, field, replace
from datetime import datetime
from typing import Any

from ouro.progress import drive
from workbench import memory, who, workspace

log = logging.getLogger(__name__)

_POLL = 0.2
_PAST = 40
"""Jobs that are over and still listed."""
_LAST = 200
"""Jobs that are over and keep what they found, one for each browser and kind: the latest of all."""


EXPECTED = (ValueError, OSError, RuntimeError)
"""What a job or a handler raises on purpose: its message is meant for a person and says it all."""


class _Cancelled(Exception):
    """Ends a job between two of its steps."""


# two jobs are never the same, however alike they are
@dataclass(eq=False)
class Job:
    """One run of a generator of Progress, `about` something of a `model`; `number` tells it from all others.

    `state` goes waiting -> running -> done, failed or cancelled; a running job may be paused and goes on by way of
    waiting. A job that only waits for a network does not `compute`, and so waits for no other and is not paused.
    """

    kind: str
    make: Callable[[], Generator[Any, None, Any]]
    about: str = ""
    computes: bool = True
    model: str = ""
    afresh: bool = False
    number: int = 0
    whose: str = ""
    version: str = ""
    since: datetime = field(default_factory=datetime.now)
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
    origins: set[bool] = field(default_factory=set)
    _stop: threading.Event = field(default_factory=threading.Event)
    _go: threading.Event = field(default_factory=threading.Event)
    _ended: threading.Event = field(default_factory=threading.Event)
    _over: threading.Event = field(default_factory=threading.Event)

    @property
    def over(self) -> bool:
        return self.state in ("done", "failed", "cancelled")

    def found(self, model: str) -> bool:
        """Whether it is done and about this model, with the weights that it has now: a file may be read once more."""
        return self.state == "done" and self.model == model and self.version == workspace.version(model)

    @property
    def working(self) -> bool:
        """Whether its thread is there: one that is cancelled goes on to its next progress."""
        return not self._ended.is_set()

    def wait(self) -> None:
        """Until its thread has ended."""
        self._ended.wait()

    @property
    def own(self) -> bool:
        """Whether it belongs to whoever asks."""
        return self.whose == who.current()

    @property
    def title(self) -> str:
        """What it is, in a line; of somebody else's no more than that it is one."""
        if not self.own:
            return "a job of another session"
        return f"{self.kind} · {self.about}" if self.about else self.kind

    @property
    def cached(self) -> bool:
        """Whether it is done and computed nothing: all of its result was stored before."""
        return self.state == "done" and self.origins == {True}

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
            self._over.set()
            self._go.set()
            _DEVICE.give_up(self)

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
        try:
            if self.computes:
                _DEVICE.enter(self)
            if not self._stop.is_set():
                self._run()
        finally:
            _DEVICE.leave(self)
            self._ended.set()
            memory.give_back()

    def _run(self) -> None:
        self.state, self.started = "running", time.monotonic()
        self._go.set()
        # every job has a thread of its own, so nobody else sees this
        _OWN.set(self)
        try:
            with who.being(self.whose):
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
            self._over.set()

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
        _DEVICE.leave(self)
        self._go.wait()
        _DEVICE.enter(self)
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


class _Line:
    """The device, handed on in the order in which it was asked for: two jobs at once on it only slow each other down."""

    def __init__(self) -> None:
        self._jobs: list[Job] = []
        self._moved = threading.Condition()

    def join(self, job: Job) -> None:
        """Takes a place at the end, without waiting; one who has a place keeps it."""
        with self._moved:
            if job not in self._jobs:
                self._jobs.append(job)

    def enter(self, job: Job) -> None:
        """Waits until it is this job's turn, or the job was cancelled."""
        self.join(job)
        with self._moved:
            if job.over:
                self._drop(job)
            self._moved.wait_for(lambda: job not in self._jobs or self._jobs[0] is job)

    def leave(self, job: Job) -> None:
        """Gives the place back, whichever it is."""
        with self._moved:
            self._drop(job)

    def give_up(self, job: Job) -> None:
        """Leaves without a turn; who has the device keeps it until its thread has stopped."""
        with self._moved:
            if job in self._jobs[1:]:
                self._drop(job)

    def before(self, job: Job) -> list[Job]:
        """Those who come before a job, the one at the device first; none if it does not wait."""
        with self._moved:
            return self._jobs[: self._jobs.index(job)] if job in self._jobs else []

    def taken(self) -> bool:
        """Whether anybody has it."""
        with self._moved:
            return bool(self._jobs)

    def _drop(self, job: Job) -> None:
        if job in self._jobs:
            self._jobs.remove(job)
            self._moved.notify_all()


_OWN: ContextVar[Job | None] = ContextVar("own", default=None)
_DEVICE = _Line()


def busy() -> bool:
    """Whether a job computes now: whatever is timed meanwhile seems slower than it is."""
    return _DEVICE.taken()


_JOBS: dict[tuple[str, str], Job] = {}
"""(whose, kind) -> the last job."""
_OLD: deque[Job] = deque(maxlen=_PAST)
_NUMBERS = itertools.count(1)
_GATE = threading.Lock()


def start(
    kind: str,
    make: Callable[[], Generator[Any, None, Any]],
    about: str = "",
    *,
    computes: bool = True,
    model: str = "",
    afresh: bool = False,
) -> Job:
    """Starts a job of this kind; `about` is shown above its bar until it is done.

    Args:
        model: that its result is about, if it is one.
        afresh: compute also what the store has.

    Raises:
        RuntimeError: one of the kind is at work.
    """
    with _GATE:
        place = (who.current(), kind)
        running = _JOBS.get(place)
        if running is not None and not running.over:
            raise RuntimeError(f"{kind} is already at work; wait for it or cancel it first")
        if running is not None:
            # what an older one left is shown nowhere any more
            _OLD.append(replace(running, make=_nothing, data={}, history=[], result=None))
        # at the end, where the latest is
        _JOBS.pop(place, None)
        job = _JOBS[place] = Job(
            kind, make, about, computes, model, afresh, next(_NUMBERS), who.current(), workspace.version(model)
        )
        for old in [other for other, one in _JOBS.items() if one.over][:-_LAST]:
            del _JOBS[old]
        if computes:
            _DEVICE.join(job)
    threading.Thread(target=job.run, name=f"job-{kind}", daemon=True).start()
    return job


def _nothing() -> Generator[Any, None, None]:
    yield from ()


def again(kind: str) -> Job:
    """Starts the last job of a kind once more, which computes all of it for real.

    Raises:
        RuntimeError: there is none, or it is at work.
    """
    job = latest(kind)
    if job is None:
        raise RuntimeError(f"there was no {kind} since the app was started; run it first")
    return start(kind, job.make, job.about, computes=job.computes, model=job.model, afresh=True)


def from_store(there: bool) -> bool:
    """Said inside a job of a part of its result: whether that is stored already; says whether to take it from there."""
    job = _OWN.get()
    taken = there and not (job is not None and job.afresh)
    if job is not None:
        job.origins.add(taken)
    return taken


def jobs() -> list[Job]:
    """All jobs of this process: those at the device and in line by their places, then the rest, the latest first.

    Of other people's only those that are at work, which is why one's own have to wait.
    """
    with _GATE:
        known = [job for job in (*_JOBS.values(), *_OLD) if job.own or not job.over]
    places = {job.number: (len(_DEVICE.before(job)), job.state == "paused") for job in known if not job.over}
    working = sorted(
        (job for job in known if job.number in places), key=lambda job: (places[job.number][::-1], job.number)
    )
    return working + sorted((job for job in known if job.number not in places), key=lambda job: -job.number)


def numbered(number: int) -> Job | None:
    """One's own job of this number, if it is at work or was the last of its kind."""
    with _GATE:
        return next((job for job in _JOBS.values() if job.number == number and job.own), None)


def latest(kind: str) -> Job | None:
    """The last job of this kind of whoever asks, whether it is over or not."""
    return _JOBS.get((who.current(), kind))


def cancel(kind: str) -> bool:
    """Cancels the running job of this kind; False when there is none."""
    job = latest(kind)
    if job is None or job.over:
        return False
    job.cancel()
    return True


def stopped(kind: str) -> str:
    """Cancels the running job of this kind; its bar, for whoever pressed: a page that is being loaded hears of it late."""
    cancel(kind)
    return bar(latest(kind))


def pause(kind: str) -> bool:
    """Pauses the running job of this kind, or lets the paused one go on; False when there is neither."""
    job = latest(kind)
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
        job._over.wait(_POLL)


def bar(job: Job | None, idle: str = "") -> str:
    """The job as a progress bar in HTML."""
    if job is None:
        return f'<div class="wb-job"><span class="wb-note">{html.escape(idle)}</span></div>' if idle else ""
    share = 1.0 if job.state == "done" else job.step / job.total if job.total else 0.0
    words = {
        "waiting": waits(job),
        "running": job.message or "starting; the first run of a kind also compiles its kernels",
        "paused": f"paused at {100 * share:.0f} %: {job.message}",
        "done": "cached: it was in the store, and nothing was made anew" if job.cached else "done",
        "cancelled": f"cancelled at {100 * share:.0f} %" if job.updates else "cancelled before it began",
        "failed": f"failed: {first_line(job.error)}",
    }[job.state]
    # how long somebody stands in a line says nothing of the job
    right = "" if job.state == "waiting" else clock(job.seconds)
    if job.remaining is not None:
        right = f"{100 * share:.0f} % · {clock(job.seconds)} · {clock(job.remaining)} left"
    look = {"waiting": " wb-wait", "failed": " wb-failed", "cancelled": " wb-stopped", "paused": " wb-stopped"}.get(
        job.state, ""
    )
    if job.state == "running" and job.step == 0:
        look = " wb-wait"
    # a bar that is drawn anew goes on moving where it was
    moving = f";animation-delay:-{time.monotonic() % 3.2:.1f}s" if look == " wb-wait" else ""
    about = f'<div class="wb-about">{html.escape(job.about)}</div>' if job.about and job.state != "done" else ""
    return (
        f'<div class="wb-job{look}" data-state="{job.state}" data-number="{job.number}"{" role=alert" if job.state == "failed" else ""}>'
        f'{about}<div class="wb-track" role="progressbar" aria-label="{html.escape(job.kind)}" aria-valuemin="0" '
        f'aria-valuemax="100" aria-valuenow="{100 * share:.0f}">'
        f'<div class="wb-fill" style="width:{100 * share:.1f}%{moving}"></div></div>'
        f'<div class="wb-line"><span>{html.escape(words)}</span><span>{right}</span></div></div>'
    )


_ORDINALS = ("first", "second", "third", "fourth", "fifth", "sixth")


def waits(job: Job) -> str:
    """For which job a waiting one waits, and its place in the line."""
    before = _DEVICE.before(job)
    if not before:
        return "about to begin"
    place = _ORDINALS[len(before) - 1] if len(before) <= len(_ORDINALS) else f"number {len(before)}"
    stopping = ", which is stopping" if before[0].over else ""
    return f"waiting for {before[0].title}{stopping}, {place} in line"


def clock(seconds: float) -> str:
    """3.2 s, 1 min 05 s, 2 h 10 min."""
    if seconds < 60:
        return f"{seconds:.1f} s" if seconds < 10 else f"{seconds:.0f} s"
    minutes, rest = divmod(round(seconds), 60)
    if minutes < 60:
        return f"{minutes} min {rest:02d} s"
    return f"{minutes // 60} h {minutes % 60:02d} min"


_PLACE = re.compile(r"[^\s'\"]*/runs/([0-9a-f]{16})(?:/[^\s'\",;:]*)?")
"""Where a run lies on this machine, which says nothing to a person; its name stands in the list of runs."""


def first_line(error: BaseException | None) -> str:
    """What an exception says, in one line."""
    if error is None:
        return ""
    said = _PLACE.sub(r"run \1", str(error).strip())
    return said.splitlines()[0] if said else type(error).__name__
