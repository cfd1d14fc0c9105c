"""Every tab, light on a desk and dark on a phone: it opens without a word, fits, and axe-core finds nothing serious in it."""

from __future__ import annotations

from collections.abc import Iterator
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import pytest

from tests.browsing import Visit
from workbench import address

AXE = find_spec("axe_playwright_python")
needs_axe = pytest.mark.skipif(AXE is None, reason="axe-playwright-python is not installed, which carries axe-core")
# rows of a long table are all made alike
LOOK = (
    """rules => axe.run({ exclude: ['tbody tr:nth-child(n+12)'] }, { runOnly: rules, resultTypes: ['violations'] })"""
)
RULES = ["wcag2a", "wcag2aa"]
COLORS = ["color-contrast", "link-in-text-block"]
"""Of these what depends on the theme."""


def serious(visit: Visit, rules: list[str]) -> list[str]:
    """What axe finds of these rules that keeps somebody out."""
    found: dict[str, Any] = visit.page.evaluate(LOOK, rules)
    return [
        f"{one['impact']} {one['id']}: {node['html'][:200]}"
        for one in found["violations"]
        if one["impact"] in ("serious", "critical")
        for node in one["nodes"]
    ]


def opened(server: str, browser, theme: str, width: int, height: int) -> Visit:
    """The page in a theme and a size, once Start has looked at this machine."""
    visit = Visit(browser, server, theme=theme, width=width, height=height)
    visit.page.wait_for_selector("#wb-start-health li", timeout=180_000)
    assert "CPU" in visit.page.inner_text("#wb-device") or "CUDA" in visit.page.inner_text("#wb-device")
    paper = visit.page.evaluate("getComputedStyle(document.body).backgroundColor")
    assert (sum(map(int, paper.strip("rgb()").split(","))) < 200) == (theme == "dark")
    return visit


def each_tab(visit: Visit, width: int, pause: int = 0) -> Iterator[str]:
    """Opens one tab after the other, which have to fit; `pause`: milliseconds in which events begin, and end."""
    for tab in address.TABS:
        visit.open(tab.capitalize())
        visit.page.wait_for_timeout(pause)
        # what is being answered is pale meanwhile
        visit.page.wait_for_function("() => !document.querySelector('.html-container.pending')", polling=100)
        visit.page.wait_for_timeout(pause)
        assert visit.page.evaluate("document.documentElement.scrollWidth") <= width, tab
        yield tab


def test_every_tab_opens(server: str, browser):
    visit = opened(server, browser, "light", 1280, 900)
    assert len(list(each_tab(visit, 1280))) == len(address.TABS)
    visit.page.close()
    assert not visit.wrong, "\n".join(visit.wrong)


@needs_axe
@pytest.mark.full
@pytest.mark.parametrize(
    ("theme", "width", "height", "rules"),
    [("light", 1280, 900, RULES), ("dark", 390, 844, COLORS)],
    ids=["light", "dark"],
)
def test_tabs(server: str, browser, theme: str, width: int, height: int, rules: list[str]):
    assert AXE is not None and AXE.origin is not None
    visit = opened(server, browser, theme, width, height)
    visit.page.evaluate((Path(AXE.origin).parent / "axe.min.js").read_text("utf-8"))
    found = [f"{tab}: {words}" for tab in each_tab(visit, width, pause=500) for words in serious(visit, rules)]
    visit.page.close()
    assert not found, "\n".join(found)
    assert not visit.wrong, "\n".join(visit.wrong)


@needs_axe
@pytest.mark.full
def test_axe_sees_what_is_wrong(visit: Visit):
    assert AXE is not None and AXE.origin is not None
    visit.page.evaluate((Path(AXE.origin).parent / "axe.min.js").read_text("utf-8"))
    visit.page.evaluate(
        "document.body.insertAdjacentHTML('afterbegin', '<p style=\"color: #aaa; background: #fff\">pale</p><img src=\"data:,\">')"
    )
    found = serious(visit, RULES)
    assert any("color-contrast" in words and "pale" in words for words in found)
    assert any("image-alt" in words for words in found) and not any(
        "color-contrast" not in w and "image-alt" not in w for w in found
    )
