"""The app as a person meets it: started by a command, looked at in a browser that notes whatever goes wrong."""

from __future__ import annotations

import json
import os
import signal
import socket
import subprocess
import sys
import time
import urllib.error
import urllib.request
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
# what gradio's script says while a page goes: its requests are cut off, and a queue it asks for anew is gone already
_CUT_OFF = tuple(
    f"console: {words}"
    for words in (
        "AbortError",
        "Unexpected error Connection errored out",
        "Unexpected error 404: Not Found",
        "TypeError: network error",
        "Failed to load resource: net::ERR_INCOMPLETE_CHUNKED_ENCODING",
    )
)


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return probe.getsockname()[1]


@contextmanager
def started(command: list[str], home: Path) -> Iterator[str]:
    """The address of the app, started by this command from the root of the repository."""
    port = free_port()
    env = _environment() | {"GRADIO_SERVER_PORT": str(port), "OURO_HOME": str(home)}
    log = home / f"server-{port}.log"
    with log.open("w") as out:
        process = subprocess.Popen(
            command, cwd=ROOT, env=env, stdout=out, stderr=subprocess.STDOUT, start_new_session=True
        )
    with _answering(process.pid, port, log, lambda: process.poll() is not None) as url:
        yield url


class Nursery:
    """Starts apps as `python workbench/app.py` does, each by a fork of one process that has imported all of it."""

    def __init__(self) -> None:
        self._process = subprocess.Popen(
            [sys.executable, "-m", "tests.serving"], cwd=ROOT, env=_environment(), stdin=subprocess.PIPE,
            stdout=subprocess.PIPE, text=True, start_new_session=True,
        )  # fmt: skip

    def __enter__(self) -> Nursery:
        return self

    def __exit__(self, *_: object) -> None:
        self._process.communicate(timeout=30)

    @contextmanager
    def started(self, home: Path) -> Iterator[str]:
        """The address of a new app that keeps what it keeps in this folder."""
        assert self._process.stdin is not None and self._process.stdout is not None
        port = free_port()
        log = home / f"server-{port}.log"
        log.touch()
        self._process.stdin.write(json.dumps({"port": port, "home": str(home), "log": str(log)}) + "\n")
        self._process.stdin.flush()
        number = self._process.stdout.readline()
        assert number, "the process that apps are forked from has ended; its words are above"
        pid = int(number)
        with _answering(pid, port, log, lambda: not is_there(pid)) as url:
            yield url


def _environment() -> dict[str, str]:
    # a thread each: processes that spin for each other's threads are slow, and a process with several cannot be forked
    return os.environ | {"OMP_NUM_THREADS": "1"}


def is_there(pid: int) -> bool:
    """Whether this process runs."""
    try:
        os.kill(pid, 0)
        # Z: it has ended, and nobody has asked how
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] != "Z"
    except (ProcessLookupError, FileNotFoundError):
        return False


@contextmanager
def _answering(pid: int, port: int, log: Path, is_over: Callable[[], bool]) -> Iterator[str]:
    """The address of this port once it answers; afterwards the process and its group are ended."""
    url = f"http://127.0.0.1:{port}/"
    try:
        deadline = time.monotonic() + 180
        while True:
            try:
                with urllib.request.urlopen(url, timeout=10) as answer:
                    assert answer.status == 200
                break
            except (urllib.error.URLError, ConnectionError, TimeoutError):
                assert not is_over(), f"the app has ended: {log.read_text()}"
                assert time.monotonic() < deadline, f"no answer within 180 s: {log.read_text()}"
                time.sleep(0.1)
        yield url
    finally:
        for kind, seconds in ((signal.SIGTERM, 10), (signal.SIGKILL, 60)):
            with suppress(ProcessLookupError):
                os.killpg(pid, kind)
            deadline = time.monotonic() + seconds
            while not is_over() and time.monotonic() < deadline:
                time.sleep(0.05)
            if is_over():
                break


class Visit:
    """A page of the app that remembers what went wrong in it."""

    def __init__(
        self, browser, url: str, *, width: int = 1280, height: int = 900, theme: str = "light", query: str = ""
    ) -> None:
        self.page = browser.new_page(viewport={"width": width, "height": height})
        # the first answers import the library, which takes its time on busy cores
        self.page.set_default_timeout(60_000)
        self.wrong: list[str] = []
        self.page.on("console", lambda message: self._note(message.type == "error", f"console: {message.text}"))
        self.page.on("pageerror", lambda error: self._note(True, f"error: {error}"))
        self.page.on("request", lambda request: self._note(self._outside(request.url), f"request: {request.url}"))
        # a query of one's own says all there is to say
        self.page.goto(f"{url}?{query or f'__theme={theme}'}")
        self.page.wait_for_selector("#wb-tabs button[role=tab]")

    def _note(self, bad: bool, words: str) -> None:
        if bad:
            self.wrong.append(words)

    @staticmethod
    def _outside(url: str) -> bool:
        return not url.startswith(("http://127.0.0.1:", "data:", "blob:"))

    def open(self, tab: str) -> None:
        self.page.wait_for_selector("#wb-tabs button[role=tab]")
        shown = self.page.get_by_role("tab", name=tab, exact=True)
        if shown.count():
            shown.click()
        else:
            self.page.get_by_role("button", name="More tabs").click()
            self.page.locator(".overflow-dropdown").get_by_text(tab, exact=True).click()

    def reload(self) -> None:
        """Loads the page anew."""
        self._leave(self.page.reload)

    def go_to(self, url: str) -> None:
        """Opens another address of the app in this page."""
        self._leave(lambda: self.page.goto(url))

    def _leave(self, go: Callable[[], object]) -> None:
        # what gradio's script says of requests that are cut off here is nothing that went wrong
        before = len(self.wrong)
        go()
        self.page.wait_for_selector("#wb-tabs button[role=tab]")
        self.wrong[before:] = [words for words in self.wrong[before:] if not words.startswith(_CUT_OFF)]

    def label(self, elem_id: str) -> str:
        return self.page.get_attribute(f"#{elem_id}", "aria-label") or ""

    def until_label(self, elem_id: str, words: str) -> None:
        self.page.wait_for_function(
            "([id, words]) => (document.getElementById(id)?.getAttribute('aria-label') || '').includes(words)",
            arg=[elem_id, words],
            # as often as a frame is drawn by default, which keeps a core busy where no GPU draws
            polling=100,
        )

    def number(self, elem_id: str, value: object) -> None:
        field = self.page.locator(f"#{elem_id} input[type=number]").first
        # a field whose section has only just been opened may be put back to its first value once
        for _ in range(5):
            field.fill(str(value))
            field.press("Tab")
            self.page.wait_for_timeout(200)
            if field.input_value() == str(value):
                return
        raise AssertionError(f"{elem_id} is {field.input_value()}, not {value}")

    def ended(self, elem_id: str, *states: str) -> str:
        """The state in which the job of this bar ended, and the bar's words; by default done or failed."""
        wanted = ", ".join(f"[data-state={state}]" for state in states or ("done", "failed"))
        bar = self.page.locator(f"#{elem_id} .wb-job:is({wanted})")
        bar.wait_for()
        return f"{bar.get_attribute('data-state')}: {bar.inner_text()}"
