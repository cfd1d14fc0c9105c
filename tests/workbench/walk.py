"""Fifteen things that people come for, done in a browser, each by whoever has a mouse or a keyboard alone.

`python -m tests.workbench.walk` does all of them in light and dark, at the width of a desk and of a phone, by mouse and by
keyboard, and writes how long each took to results/tasks.json. `test_tasks.py` does each of them once.
"""

from __future__ import annotations

import argparse
import csv
import io
import itertools
import re
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from ouro.jobs.doctor import find_browser
from ouro.jobs.provenance import commit, device_name
from ouro.models.zoo import embedded_path
from ouro.store import write_json
from tests.browsing import ROOT, Visit, started

WIDTHS = {"desk": (1280, 900), "phone": (390, 844)}
THEMES = ("light", "dark")
HANDS = ("mouse", "keyboard")


@dataclass
class Person:
    """Somebody before the page, with a mouse or without; `seconds` is what was measured on the way."""

    visit: Visit
    hand: str
    folder: Path
    seconds: dict[str, float] = field(default_factory=dict)

    @property
    def page(self) -> Any:
        return self.visit.page

    def press(self, target: Any) -> None:
        """A click, or the focus, which the keyboard must be able to give, and Enter."""
        if self.hand == "mouse":
            target.click()
            return
        self.reach(target)
        self.page.keyboard.press("Enter")

    def reach(self, target: Any) -> None:
        """Puts the focus on something that the Tab key comes to, or the arrow keys of its group."""
        target.wait_for()
        assert target.evaluate(
            "e => e.tabIndex >= 0 || e.closest('[role=radiogroup],[role=tablist],[role=listbox]') !== null"
        ), "the keyboard does not come here"
        target.focus()

    def open(self, tab: str) -> None:
        shown = self.page.get_by_role("tab", name=tab, exact=True)
        self.page.wait_for_selector("#wb-tabs button[role=tab]")
        if self.hand == "mouse":
            shown.click()
        else:
            shown.focus()
            self.page.keyboard.press("Enter")

    def write(self, target: Any, text: object) -> None:
        """Types into a field and leaves it with Enter."""
        self.reach(target)
        target.press("ControlOrMeta+a")
        self.page.keyboard.type(str(text))
        self.page.keyboard.press("Enter")

    def number(self, elem_id: str, value: object) -> None:
        self.write(self.page.locator(f"#{elem_id} input[type=number]").first, value)

    def choose(self, elem_id: str, words: str) -> None:
        """One of a drop-down list."""
        box = self.page.locator(f"#{elem_id} input").first
        if self.hand == "mouse":
            box.click()
            self.page.get_by_role("option", name=words, exact=True).click()
            return
        self.reach(box)
        self.page.keyboard.press("ArrowDown")
        for _ in range(60):
            if (
                self.page.locator("[role=option].active, [role=option][aria-selected=true].active").first.inner_text()
                == words
            ):
                break
            self.page.keyboard.press("ArrowDown")
        self.page.keyboard.press("Enter")

    def save(self, menu: str, kind: str) -> Path:
        """What comes of an entry of a menu, as a file."""
        self.press(self.page.locator(f"{menu} summary").first)
        with self.page.expect_download() as download:
            self.press(self.page.locator(menu).first.get_by_text(kind, exact=True))
        path = self.folder / download.value.suggested_filename
        download.value.save_as(path)
        return path

    def table(self, menu: str) -> list[dict[str, str]]:
        """The numbers of a figure."""
        return list(csv.DictReader(io.StringIO(self.save(menu, "CSV").read_text("utf-8"))))

    @contextmanager
    def within(self, name: str) -> Iterator[None]:
        """Measures what is done inside."""
        begun = time.perf_counter()
        yield
        self.seconds[name] = round(time.perf_counter() - begun, 2)

    def until(self, script: str) -> None:
        """Until some JavaScript is true."""
        self.page.wait_for_function(script, polling=100)


def t01_device(one: Person) -> None:
    """Open the app and tell on which device it runs."""
    one.page.get_by_text(re.compile(r"(CPU|CUDA) · ")).first.wait_for()
    assert one.page.evaluate("document.documentElement.scrollWidth <= innerWidth")


def t02_checkpoint(one: Person) -> None:
    """Load the small Vim from this file."""
    page, path = one.page, one.folder / "mine.safetensors"
    path.write_bytes(embedded_path("vim_nano.safetensors").read_bytes())
    one.open("Start")
    wrong = one.folder / "notes.txt"
    wrong.write_text("no weights")
    page.locator("#wb-start-model-file input[type=file]").set_input_files(path)
    page.get_by_text("mine.safetensors (vim_nano)").first.wait_for()
    assert "521" in page.inner_text(".wb-brought") or "k" in page.inner_text(".wb-brought")


def t03_patch(one: Person) -> None:
    """Show how the patch in row 7, column 4 attends in layer 2, h beside h_p."""
    one.open("Attention")
    one.page.wait_for_selector("#wb-attention-h")
    one.number("wb-attention-layer", 2)
    one.visit.until_label("wb-attention-h", "layer 2")
    one.write(one.page.locator("#wb-attention-board .wb-row"), 7)
    one.write(one.page.locator("#wb-attention-board .wb-col"), 4)
    labels = [one.visit.label(f"wb-attention-{name}") for name in ("h", "hp")]
    assert all("layer 2" in label and "row 7, column 4" in label for label in labels) and labels[0] != labels[1]


def t04_strongest(one: Person) -> None:
    """Point at the strongest cell of h and read its value."""
    one.open("Attention")
    one.page.wait_for_selector("#wb-attention-h")
    rows = one.table("#wb-attention-board .wb-save")
    best = max(rows, key=lambda row: float(row["h"]))
    canvas = one.page.locator("#wb-attention-h")
    if one.hand == "mouse":
        box, side = canvas.bounding_box(), 14
        canvas.hover(
            position={
                "x": (int(best["column"]) + 0.5) * box["width"] / side,
                "y": (int(best["row"]) + 0.5) * box["height"] / side,
            }
        )
    else:
        one.write(one.page.locator("#wb-attention-board .wb-row"), best["row"])
        one.write(one.page.locator("#wb-attention-board .wb-col"), best["column"])
    read = one.page.locator("#wb-attention-board .wb-read")
    read.get_by_text(f"row {best['row']}, column {best['column']}").wait_for()
    assert re.search(r"h [\d.]+", read.inner_text())


def t05_play(one: Person) -> None:
    """Play through the time steps, stop, go to step 57 and ten back."""
    one.open("Outliers")
    page = one.page
    page.wait_for_selector("#wb-outliers-step-map")
    page.locator("#wb-outliers-step select").select_option("25")
    page.evaluate(
        "() => { window.seen = new Set(); const map = document.getElementById('wb-outliers-step-map');"
        "new MutationObserver(() => seen.add(map.getAttribute('aria-label'))).observe(map, { attributes: true }); }"
    )
    one.press(page.locator("#wb-outliers-step .wb-play"))
    one.until("seen.size >= 20")
    one.press(page.locator("#wb-outliers-step .wb-play"))
    one.write(page.locator("#wb-outliers-step").get_by_label("step number"), 57)
    one.reach(page.locator("#wb-outliers-step-map"))
    page.keyboard.press("PageUp")
    one.visit.until_label("wb-outliers-step-map", "at step 47")
    # the patch that this step reads is the one that Attention asks about
    place = re.search(r"row \d+, column \d+", one.visit.label("wb-outliers-step-where")).group()
    one.open("Attention")
    one.press(page.get_by_role("radio", name="One query patch"))
    one.visit.until_label("wb-attention-h", place)


def t06_generate(one: Person) -> None:
    """Make 16 images, watch them form, and stop early."""
    one.open("Samples")
    page = one.page
    one.number("wb-samples-num", 16)
    one.number("wb-samples-steps", 100)
    one.press(page.locator("#wb-samples-go"))
    page.wait_for_selector("#wb-samples-gallery img", timeout=120_000)
    page.wait_for_selector("#wb-samples-job [data-state=running]")
    with one.within("cancel"):
        one.press(page.locator("#wb-samples-cancel"))
        page.wait_for_selector("#wb-samples-job [data-state=cancelled]")


def t07_two_steps(one: Person) -> None:
    """Which channels are outliers at step 30 and not at step 90?"""
    one.open("Outliers")
    page = one.page
    page.wait_for_selector("#wb-outliers-step-map")
    number = page.locator("#wb-outliers-step").get_by_label("step number")
    one.write(number, 30)
    one.press(page.get_by_role("button", name="Compare with this step"))
    one.write(number, 90)
    versus = page.locator("#wb-outliers-step-versus")
    versus.get_by_text("outliers at step 30 only").wait_for()
    table = one.table("#wb-outliers-step .wb-save")
    at = {
        step: {row["channel"] for row in table if row["step"] == step and row["outlier"] == "1"}
        for step in ("30", "90")
    }
    group = versus.get_by_role("group", name=re.compile("outliers at step 30 only"))
    assert {chip.get_attribute("data-chip") for chip in group.locator(".wb-chip").all()} == at["30"] - at["90"]


def t08_channel(one: Person) -> None:
    """Open channel 61 and read its step size; go on to the next channel."""
    one.open("Outliers")
    page = one.page
    page.wait_for_selector("#wb-outliers-step-map")
    one.write(page.locator("#wb-outliers-step").get_by_label("channel", exact=True), 61)
    drawer = page.locator("#wb-outliers-step-channel")
    drawer.get_by_text("Channel 61 in 4 bits").wait_for()
    assert {"SQNR", "step size"} <= {
        word for word in ("SQNR", "step size") if word.lower() in drawer.inner_text().lower()
    }
    one.reach(page.locator("#wb-outliers-step-map"))
    page.keyboard.press(".")
    drawer.get_by_text("Channel 62 in 4 bits").wait_for()


def t09_config(one: Person) -> None:
    """Make B = W4A4 with outliers in 8 bits and show only what differs from A."""
    one.open("Quantize")
    page = one.page
    one.write(page.locator("#wb-quantize-bits input").first, "w8a8")
    page.wait_for_selector("#wb-quantize-go:not([disabled])")
    one.press(page.locator("#wb-quantize-keep"))
    one.write(page.locator("#wb-quantize-bits input").first, "w4a4o8")
    rows = page.locator("#wb-quantize-diff tbody tr")
    one.until("document.querySelectorAll('#wb-quantize-diff tbody tr').length === 3")
    words = " ".join(rows.all_inner_texts()).lower()
    assert all(key in words for key in ("weights", "activations", "outliers"))
    one.write(page.locator("#wb-quantize-bits input").first, "w4x")
    page.wait_for_selector("#wb-quantize-go[disabled]")
    assert page.inner_text("#wb-quantize-fault").strip()


def t10_accuracy(one: Person) -> None:
    """Quantize and tell the accuracy with its uncertainty; the second time it is known."""
    one.open("Quantize")
    page = one.page
    page.wait_for_selector("#wb-quantize-method")
    while page.locator("#wb-quantize-method input:checked").count():
        page.locator("#wb-quantize-method input:checked").first.uncheck()
    page.locator("#wb-quantize-method").get_by_label("MinMax", exact=True).check()
    one.number("wb-quantize-count", 8)
    one.press(
        page.locator("#wb-quantize").get_by_role("button", name="Advanced")
        if page.locator("#wb-quantize").count()
        else page.get_by_role("button", name="Advanced").last
    )
    one.number("wb-quantize-limit", 50)
    one.press(page.locator("#wb-quantize-go"))
    assert one.visit.ended("wb-quantize-job").startswith("done")
    page.wait_for_selector("#wb-quantize-go:not([disabled])")
    # the new point is drawn, whatever that takes, before the cached answer is asked for
    page.evaluate("() => new Promise(done => requestAnimationFrame(() => requestIdleCallback(done)))")
    # and its event has ended, a moment after the button is back: gradio drops a click that comes between
    page.wait_for_timeout(300)
    before = page.locator("#wb-quantize-job .wb-job").get_attribute("data-number")
    with one.within("again"):
        one.press(page.locator("#wb-quantize-go"))
        again = page.locator(f"#wb-quantize-job [data-state=done]:not([data-number='{before}'])")
        again.get_by_text("cached").wait_for()


def t11_sensitivity(one: Person) -> None:
    """Find what does most harm, cancel after a while, find the work again after a reload, and take the numbers along."""
    one.open("Sensitivity")
    page = one.page
    page.wait_for_selector("#wb-sensitivity-map .main-svg")
    page.get_by_label("Single sites").check()
    one.press(page.locator("#wb-sensitivity-go"))
    page.wait_for_selector("#wb-sensitivity-job [data-state=running]")
    one.visit.reload()
    one.open("Sensitivity")
    page.wait_for_selector("#wb-sensitivity-job [data-state=running]")
    with one.within("cancel"):
        one.press(page.locator("#wb-sensitivity-cancel"))
        page.wait_for_selector("#wb-sensitivity-job [data-state=cancelled]")
    with page.expect_download() as download:
        one.press(page.locator("#wb-sensitivity-file"))
    assert Path(download.value.path()).read_text("utf-8").startswith("name,block,kind")


def t12_kernels(one: Person) -> None:
    """Is the kernel faster? Where nothing was measured, nothing is said."""
    one.open("Kernels")
    page = one.page
    page.wait_for_selector("#wb-kernels-times .main-svg")
    for line in page.locator("#wb-kernels-rows tbody tr").all_inner_texts():
        assert "×" not in line or "passed" in line, line


def t13_link(one: Person) -> None:
    """Send somebody exactly this view."""
    t03_patch(one)
    one.page.wait_for_url("**layer=2**patch=102**")
    other = Visit(one.page.context.browser, one.page.url.partition("?")[0], query=one.page.url.partition("?")[2])
    for name in ("input", "h", "hp"):
        other.until_label(f"wb-attention-{name}", one.visit.label(f"wb-attention-{name}"))
    other.page.close()
    assert not other.wrong
    one.visit.go_to(re.sub("layer=2", "layer=nope", one.page.url))
    one.page.get_by_text("layer=nope is not there").wait_for()


def t14_export(one: Person) -> None:
    """This figure as SVG, its numbers as CSV, the page as one file."""
    one.open("Attention")
    one.page.wait_for_selector("#wb-attention-auroc .main-svg")
    assert one.save("#wb-attention-auroc .wb-save", "SVG").read_text("utf-8").startswith("<svg")
    assert len(one.table("#wb-attention-auroc .wb-save")) == 18
    page = one.page.context.browser.new_page()
    page.goto(one.save("#wb-share", "Save as HTML").as_uri())
    assert page.locator(".main-svg").count() >= 1 and page.locator("canvas").count() >= 5
    page.close()


def t15_phone(one: Person) -> None:
    """Tasks 3 and 9 on a phone, in the dark, without a mouse."""
    person = Person(one.visit, "keyboard", one.folder, one.seconds)
    t03_patch(person)
    t09_config(person)
    assert one.page.evaluate("document.documentElement.scrollWidth <= innerWidth")


TASKS: dict[int, Callable[[Person], None]] = {
    int(name[1:3]): task for name, task in sorted(globals().items()) if re.match(r"t\d\d_", name)
}
"""Number -> task."""


@contextmanager
def before_the_page(browser: Any, url: str, theme: str, width: str, hand: str) -> Iterator[Person]:
    """Somebody who has just opened the page."""
    with tempfile.TemporaryDirectory() as folder:
        begun = time.perf_counter()
        wide, high = WIDTHS[width]
        visit = Visit(browser, url, width=wide, height=high, theme=theme)
        person = Person(visit, hand, Path(folder))
        visit.page.wait_for_selector("#wb-tabs img, #wb-tabs canvas")
        person.seconds["first picture"] = round(time.perf_counter() - begun, 2)
        yield person
        visit.page.close()
        assert not visit.wrong, "\n".join(visit.wrong)


def ways(number: int, pairs: bool) -> list[tuple[str, str, str]]:
    """(theme, width, hand) in which a task is done; with `pairs` those of which any two choices meet once."""
    if number == 15:
        return [("dark", "phone", "keyboard")]
    chosen = itertools.product(enumerate(THEMES), enumerate(WIDTHS), enumerate(HANDS))
    return [(theme, width, hand) for (i, theme), (j, width), (k, hand) in chosen if not pairs or (i + j + k) % 2 == 0]


def main(arguments: list[str]) -> int:
    """Every task in every way; 1 if one of them failed."""
    from playwright.sync_api import sync_playwright

    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--task", type=int, action="append", choices=list(TASKS), help="repeatable; all by default")
    parser.add_argument(
        "--pairs", action="store_true", help="four ways in place of eight, with every pair of choices once"
    )
    parser.add_argument("--out", type=Path, default=ROOT / "results" / "tasks.json")
    options = parser.parse_args(arguments)
    rows = []
    with tempfile.TemporaryDirectory() as home, sync_playwright() as playwright:
        path = find_browser()
        browser = playwright.chromium.launch(executable_path=path, args=["--no-sandbox", "--disable-gpu"])
        shown_by = f"{Path(path or '').name} {browser.version}"
        with started([sys.executable, "workbench/app.py"], Path(home)) as url:
            for number in options.task or TASKS:
                for theme, width, hand in ways(number, options.pairs):
                    row: dict[str, Any] = {
                        "task": number,
                        "words": TASKS[number].__doc__,
                        "theme": theme,
                        "width": width,
                        "hand": hand,
                    }
                    begun = time.perf_counter()
                    try:
                        with before_the_page(browser, url, theme, width, hand) as person:
                            begun = time.perf_counter()
                            TASKS[number](person)
                            row |= {
                                "seconds": round(time.perf_counter() - begun, 2),
                                "measured": person.seconds,
                                "failed": "",
                            }
                    except Exception as error:
                        row |= {
                            "seconds": round(time.perf_counter() - begun, 2),
                            "measured": {},
                            "failed": str(error).splitlines()[0][:200],
                        }
                    rows.append(row)
                    sys.stdout.write(
                        f"{number:2d} {theme:5s} {width:5s} {hand:8s} {row['seconds']:7.2f} s  {row['failed'] or 'done'}\n"
                    )
                    sys.stdout.flush()
    failed = sum(bool(row["failed"]) for row in rows)
    write_json(
        options.out,
        {
            "op": "tasks of the app",
            "rows": rows,
            "failed": failed,
            "browser": shown_by,
            "device": device_name(),
            "commit": commit(),
        },
    )
    return int(failed > 0)


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
