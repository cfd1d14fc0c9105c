"""One browser for all tests of the page, and an app for those of a module."""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path

import pytest

from ouro.jobs.doctor import BROWSERS, find_browser
from tests.browsing import Nursery, Visit


@pytest.fixture(scope="module")
def home(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """What the app keeps is a module's own: no test sees what another module has left behind."""
    return tmp_path_factory.mktemp("home")


@pytest.fixture(scope="session")
def nursery() -> Iterator[Nursery]:
    with Nursery() as nursery:
        yield nursery


@pytest.fixture(scope="module")
def server(nursery: Nursery, home: Path) -> Iterator[str]:
    with nursery.started(home) as url:
        yield url


# no longer than the tests of this folder: while it is there, an event loop runs, and nobody else can start one
@pytest.fixture(scope="package")
def browser() -> Iterator[object]:
    from playwright.sync_api import sync_playwright

    if find_browser() is None:
        pytest.skip(f"no browser found, looked for {', '.join(BROWSERS)}")
    quiet = ["--disable-gpu", "--disable-quic", "--no-first-run", "--disable-background-networking",
             "--disable-component-update", "--disable-sync"]  # fmt: skip
    with sync_playwright() as playwright:
        sandbox = ["--no-sandbox"] if os.geteuid() == 0 else []
        chromium = playwright.chromium.launch(executable_path=find_browser(), args=[*quiet, *sandbox])
        yield chromium
        chromium.close()


@pytest.fixture
def visit(server: str, browser) -> Iterator[Visit]:
    visit = Visit(browser, server)
    yield visit
    visit.page.close()
    assert not visit.wrong, "\n".join(visit.wrong)
