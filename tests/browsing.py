"""The app as a person meets it: started by a command, looked at in a browser that notes whatever goes wrong."""

from __future__ import annotations

import os
import signal
import socket
import subprocess
import time
import urllib.error
import urllib.request
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[1]
_CUT_OFF = ("console: AbortError", "console: Unexpected error Connection errored out")


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return probe.getsockname()[1]


@contextmanager
def started(command: list[str], home: Path) -> Iterator[str]:
    """The address of the app, started by this command from the root of the repository."""
    port = free_port()
    env = os.environ | {"GRADIO_SERVER_PORT": str(port), "OURO_HOME": str(home), "OMP_NUM_THREADS": "1"}
    log = (home / f"server-{port}.log").open("w+")
    process = subprocess.Popen(command, cwd=ROOT, env=env, stdout=log, stderr=subprocess.STDOUT, start_new_session=True)
    url = f"http://127.0.0.1:{port}/"
    try:
        for _ in range(900):
            try:
                with urllib.request.urlopen(url, timeout=2) as answer:
                    assert answer.status == 200
                break
            except (urllib.error.URLError, ConnectionError, TimeoutError):
                log.seek(0)
                assert process.poll() is None, f"the app ended with {process.returncode}: {log.read()}"
                time.sleep(0.2)
        else:
            log.seek(0)
            pytest.fail(f"no answer within 180 s: {log.read()}")
        yield url
    finally:
        os.killpg(process.pid, signal.SIGTERM)
        try:
            process.wait(10)
        except subprocess.TimeoutExpired:
            os.killpg(process.pid, signal.SIGKILL)
            process.wait()
        log.close()


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
        """Loads the page anew; what gradio's script says of requests that this cuts off is nothing that went wrong."""
        before = len(self.wrong)
        self.page.reload()
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
        bar.wait_for(timeout=60_000)
        return f"{bar.get_attribute('data-state')}: {bar.inner_text()}"
