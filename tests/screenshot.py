"""The picture of the app in README.md, taken anew: `python -m tests.screenshot` (with a Chromium on this machine)."""

from __future__ import annotations

import os
import sys
import tempfile
from io import BytesIO
from pathlib import Path

from PIL import Image
from playwright.sync_api import sync_playwright

from ouro.jobs.doctor import find_browser
from ouro.store import write_bytes
from tests.browsing import ROOT, Visit, started

PICTURE = ROOT / "results" / "app.png"
WIDTH, HEIGHT = 1440, 920
VIEW = "tab=attention&model=vim_micro_cifar10&image=7&layer=7&__theme=light"
"""A photograph of CIFAR-10 in the model of real images."""


def taken() -> bytes:
    """The view as a PNG of few colors."""
    with tempfile.TemporaryDirectory() as home, sync_playwright() as playwright:
        sandbox = ["--no-sandbox"] if os.geteuid() == 0 else []
        browser = playwright.chromium.launch(executable_path=find_browser(), args=["--disable-gpu", *sandbox])
        with started([sys.executable, "workbench/app.py"], Path(home)) as url:
            visit = Visit(browser, url, width=WIDTH, height=HEIGHT, query=VIEW)
            # a first forward compiles the scan
            visit.page.set_default_timeout(300_000)
            visit.until_label("wb-attention-input", "(no. 7)")
            visit.until_label("wb-attention-h", "layer 7")
            visit.page.locator("#wb-device").get_by_text("core").wait_for()
            # what is drawn fades in
            visit.page.wait_for_timeout(3000)
            assert not visit.page.locator(".toast-body").count(), visit.page.locator(".toast-body").all_inner_texts()
            shot = visit.page.screenshot()
            # before the app goes away, which the page would complain of
            browser.close()
            assert not visit.wrong, visit.wrong
    picture = BytesIO()
    Image.open(BytesIO(shot)).convert("RGB").quantize(192, dither=Image.Dither.NONE).save(picture, "PNG", optimize=True)
    return picture.getvalue()


if __name__ == "__main__":
    print(write_bytes(PICTURE, taken()))
