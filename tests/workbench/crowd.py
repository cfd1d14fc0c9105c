"""Several people at one app for a while: what they see is their own, how long it takes, and what the server keeps of it.

`python -m tests.workbench.crowd --sessions 5 --minutes 60` gives each of them a browser, a seed and half a dozen seconds to
think between two things done, and writes results/crowd.json: the server's memory minute by minute, the seconds of every
kind of act, and whatever went wrong. It fails where somebody saw another's work, or the page said that something was wrong.
"""

from __future__ import annotations

import argparse
import os
import random
import re
import sys
import tempfile
import threading
import time
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import numpy as np
from playwright.sync_api import TimeoutError as PlaywrightTimeout
from playwright.sync_api import sync_playwright

from ouro.jobs.doctor import find_browser
from ouro.jobs.provenance import commit, device_name
from ouro.store import write_json
from tests.browsing import ROOT, Visit, started

TABS = {
    "Attention": "#wb-attention-h",
    "Outliers": "#wb-outliers-step-map",
    "Samples": "#wb-samples-go",
    "Quantize": "#wb-quantize-go",
    "Sensitivity": "#wb-sensitivity-go",
    "Kernels": "#wb-kernels-times .main-svg",
    "Runs": "#wb-runs-filters",
}
"""Tab -> what is there once it is open."""

FIRST_SEED = 7101
"""Of the first person; a seed is what tells one's jobs from those of others, so nobody else writes such numbers."""

ARRIVING = 8.0
"""Seconds between two arrivals."""


@dataclass
class Visitor:
    """Somebody with a browser of their own, and what they found."""

    number: int
    url: str
    until: float
    pause: float
    patience: float
    chromium: Path
    pictures: Path
    seconds: dict[str, list[float]] = field(default_factory=dict)
    faults: list[str] = field(default_factory=list)

    def stay(self) -> None:
        """Does one thing after the other until the time is up."""
        chance = random.Random(self.number)
        with sync_playwright() as playwright:
            # nobody comes at the same second as all others
            time.sleep(ARRIVING * self.number)
            browser = playwright.chromium.launch(executable_path=self.chromium, args=["--no-sandbox", "--disable-gpu"])
            begun = time.perf_counter()
            try:
                visit = Visit(browser, self.url, theme=chance.choice(("light", "dark")))
            except Exception as error:
                self.faults.append(f"arrive: {_line(error)}")
                return
            self.seconds["arrive"] = [round(time.perf_counter() - begun, 3)]
            visit.page.set_default_timeout(1000 * self.patience)
            while time.monotonic() < self.until:
                act = chance.choices(list(ACTS), [weight for _, weight in ACTS.values()])[0]
                begun = time.perf_counter()
                try:
                    ACTS[act][0](self, visit, chance)
                    self.seconds.setdefault(act, []).append(round(time.perf_counter() - begun, 3))
                except Exception as error:
                    # what a browser waited for, and what was in its way
                    self.faults.append(f"{act}: {_line(error)}")
                    with suppress(Exception):
                        visit.page.screenshot(path=self.pictures / f"fault-{self.number}-{len(self.faults)}.png")
                self.faults += visit.wrong
                visit.wrong.clear()
                time.sleep(chance.uniform(0.5, 1.5) * self.pause)
            browser.close()

    @property
    def seed(self) -> int:
        return FIRST_SEED + self.number

    def mine_alone(self, visit: Visit) -> None:
        """Nothing on the page was made with another's seed."""
        others = set(re.findall(r"seed (71\d\d)", visit.page.inner_text("body"))) - {str(self.seed)}
        assert not others, f"person {self.seed} sees seeds {', '.join(sorted(others))}"


def _line(error: Exception) -> str:
    return " | ".join(map(str.strip, str(error).splitlines()))[:1000]


def look_around(one: Visitor, visit: Visit, chance: random.Random) -> None:
    """Another tab, until what it is for is there."""
    tab = chance.choice(list(TABS))
    visit.open(tab)
    try:
        visit.page.locator(TABS[tab]).first.wait_for()
    except Exception as error:
        raise AssertionError(f"{tab} is not there: {error}") from error
    one.mine_alone(visit)


def ask_a_layer(one: Visitor, visit: Visit, chance: random.Random) -> None:
    """The attention of a layer, until both maps say that they are of it."""
    visit.open("Attention")
    layer = chance.randrange(6)
    visit.page.wait_for_selector("#wb-attention-h")
    visit.number("wb-attention-layer", layer)
    for name in ("h", "hp"):
        visit.until_label(f"wb-attention-{name}", f"layer {layer}")


def ask_a_step(one: Visitor, visit: Visit, chance: random.Random) -> None:
    """The outlier channels of a step."""
    visit.open("Outliers")
    step = chance.randrange(196)
    number = visit.page.locator("#wb-outliers-step").get_by_label("step number")
    number.fill(str(step))
    number.press("Enter")
    visit.until_label("wb-outliers-step-map", f"at step {step}")


def quantize(one: Visitor, visit: Visit, chance: random.Random) -> None:
    """A small quantization with one's own seed, to its end or until one has had enough."""
    visit.open("Quantize")
    page = visit.page
    page.wait_for_selector("#wb-quantize-go")
    if not page.locator("#wb-quantize-seed").is_visible():
        page.locator("[id^=wb-quantize]").get_by_role("button", name="Advanced").or_(
            page.get_by_role("button", name="Advanced")
        ).last.click()
    visit.number("wb-quantize-seed", one.seed)
    visit.number("wb-quantize-count", 8)
    visit.number("wb-quantize-limit", 50)
    page.locator("#wb-quantize-go:not([disabled])").click()
    page.wait_for_selector("#wb-quantize-job :is([data-state=running], [data-state=waiting], [data-state=done])")
    stop = page.locator("#wb-quantize-cancel:not([disabled])")
    if chance.random() < 0.5 and stop.count():
        # a job may end while somebody is about to stop it
        with suppress(PlaywrightTimeout):
            stop.click(timeout=2000)
    visit.ended("wb-quantize-job", "done", "cancelled")
    one.mine_alone(visit)


def generate(one: Visitor, visit: Visit, chance: random.Random) -> None:
    """Begins a set of one's own and stops it once it is listed."""
    visit.open("Samples")
    page = visit.page
    page.wait_for_selector("#wb-samples-go")
    visit.number("wb-samples-num", 4)
    visit.number("wb-samples-steps", 10)
    visit.number("wb-samples-seed", one.seed)
    page.locator("#wb-samples-go:not([disabled])").click()
    page.locator(".wb-jobopener").click()
    page.locator("#wb-jobs-panel").get_by_text(f"seed {one.seed}").first.wait_for()
    one.mine_alone(visit)
    page.keyboard.press("Escape")
    visit.ended("wb-samples-job", "done", "cancelled")


def come_back(one: Visitor, visit: Visit, chance: random.Random) -> None:
    """Loads the page anew."""
    visit.reload()
    one.mine_alone(visit)


ACTS: dict[str, tuple[Callable[[Visitor, Visit, random.Random], None], float]] = {
    "tab": (look_around, 5),
    "layer": (ask_a_layer, 4),
    "step": (ask_a_step, 4),
    "quantize": (quantize, 1),
    "generate": (generate, 0.5),
    "reload": (come_back, 0.5),
}
"""What people do -> how often, against each other."""


def server_of(url: str) -> int:
    """The process that answers on this port."""
    wanted = f"GRADIO_SERVER_PORT={urlsplit(url).port}".encode()
    mine = {os.getpid()}
    for place in Path("/proc").glob("[0-9]*"):
        try:
            if int(place.name) not in mine and wanted in (place / "environ").read_bytes().split(b"\0"):
                return int(place.name)
        except OSError:
            continue
    raise RuntimeError(f"no process with {wanted.decode()}")


def resident_mb(process: int) -> float:
    """Memory of a process as the kernel counts it, in MB of 2^20 bytes."""
    return int(re.search(r"VmRSS:\s+(\d+)", Path(f"/proc/{process}/status").read_text())[1]) / 1024


def slope(minutes: list[float], mb: list[float]) -> float:
    """Of a line through the second half, in MB a minute: what still grows when all has been seen once."""
    half = len(mb) // 2
    return float(np.polyfit(minutes[half:], mb[half:], 1)[0]) if len(mb) - half > 2 else 0.0


def last_in_line(folder: Path) -> Path:
    """A command that starts the browser such that the server gets the cores first: people have machines of their own."""
    command = folder / "chromium"
    command.write_text(f'#!/bin/sh\nexec nice -n 19 "{find_browser()}" "$@"\n')
    command.chmod(0o755)
    return command


def main(arguments: list[str]) -> int:
    """1 if anybody saw what was not theirs, or anything went wrong."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--sessions", type=int, default=5)
    parser.add_argument("--minutes", type=float, default=60)
    parser.add_argument("--pause", type=float, default=6, help="mean seconds of thought between two acts")
    parser.add_argument("--out", type=Path, default=ROOT / "results" / "crowd.json")
    parser.add_argument("--pictures", type=Path, default=ROOT / "out", help="folder for what a fault looked like")
    options = parser.parse_args(arguments)
    options.pictures.mkdir(parents=True, exist_ok=True)
    minutes: list[float] = []
    memory: list[float] = []
    with tempfile.TemporaryDirectory() as home, started([sys.executable, "workbench/app.py"], Path(home)) as url:
        begun, server = time.monotonic(), server_of(url)
        end = begun + 60 * options.minutes
        chromium = last_in_line(Path(home))
        # jobs wait for those of all others
        patience = 60 * max(1.0, options.sessions / 5)
        people = [
            Visitor(n, url, end, options.pause, patience, chromium, options.pictures) for n in range(options.sessions)
        ]
        threads = [threading.Thread(target=one.stay) for one in people]
        for thread in threads:
            thread.start()
        every = min(60.0, 6 * options.minutes)
        while any(thread.is_alive() for thread in threads):
            minutes.append(round((time.monotonic() - begun) / 60, 2))
            memory.append(round(resident_mb(server), 1))
            sys.stdout.write(
                f"{minutes[-1]:6.2f} min {memory[-1]:8.1f} MB, {sum(len(one.faults) for one in people)} faults\n"
            )
            sys.stdout.flush()
            for thread in threads:
                thread.join(every / len(threads))
    acts = {
        name: sorted(second for one in people for second in one.seconds.get(name, [])) for name in ("arrive", *ACTS)
    }
    values: dict[str, Any] = {
        "op": "a crowd at the app",
        "sessions": options.sessions,
        "minutes": options.minutes,
        "pause": options.pause,
        "memory": [{"minute": at, "mb": mb} for at, mb in zip(minutes, memory, strict=True)],
        "mb_per_minute": round(slope(minutes, memory), 3),
        "acts": {
            name: {"times": len(all_), **{f"p{p}": round(float(np.percentile(all_, p)), 2) for p in (20, 50, 80, 95)}}
            for name, all_ in acts.items()
            if all_
        },
        "faults": [fault for one in people for fault in one.faults],
        "device": device_name(),
        "commit": commit(),
    }
    write_json(options.out, values)
    sys.stdout.write(
        "\n".join([*values["faults"][:20], f"{values['acts']}", f"{values['mb_per_minute']} MB a minute\n"])
    )
    return int(bool(values["faults"]))


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
