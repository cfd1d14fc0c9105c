"""What axe-core finds on every tab, light and dark: nothing serious."""

from __future__ import annotations

from importlib.util import find_spec
from pathlib import Path

import pytest

from ouro.jobs.doctor import BROWSERS, find_browser
from tests.browsing import Visit
from workbench import address

needs_browser = pytest.mark.skipif(find_browser() is None, reason=f"no browser found, looked for {', '.join(BROWSERS)}")
AXE = find_spec("axe_playwright_python")
needs_axe = pytest.mark.skipif(AXE is None, reason="axe-playwright-python is not installed, which carries axe-core")


@needs_browser
@needs_axe
@pytest.mark.parametrize("theme", ["light", "dark"])
def test_no_tab_has_a_serious_violation(server: str, browser, theme: str):
    assert AXE is not None and AXE.origin is not None
    visit = Visit(browser, server, theme=theme)
    visit.page.evaluate((Path(AXE.origin).parent / "axe.min.js").read_text("utf-8"))
    found = []
    for tab in address.TABS:
        visit.open(tab.capitalize())
        visit.page.wait_for_timeout(500)
        # what is being answered is pale meanwhile
        visit.page.wait_for_function("() => !document.querySelector('.html-container.pending')", polling=100)
        visit.page.wait_for_timeout(300)
        result = visit.page.evaluate(
            "axe.run(document, { runOnly: ['wcag2a', 'wcag2aa'], resultTypes: ['violations'] })"
        )
        found += [
            f"{tab}: {one['impact']} {one['id']}: {node['html'][:200]}"
            for one in result["violations"]
            if one["impact"] in ("serious", "critical")
            for node in one["nodes"]
        ]
    visit.page.close()
    assert not found, "\n".join(found)
    assert not visit.wrong, "\n".join(visit.wrong)
