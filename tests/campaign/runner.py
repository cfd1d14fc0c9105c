"""Draws kinds of trials from a seed until the time is up, counts how they end, and keeps what offends."""

from __future__ import annotations

import itertools
import os
import random
import shutil
import tempfile
import time
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from ouro.jobs.provenance import commit, device_name
from ouro.store import write_bytes, write_json
from tests.campaign import kills, options, workbench
from tests.campaign.material import prepared
from tests.campaign.registry import KINDS, Kind
from tests.campaign.worker import Outcome, Worker

_LARGEST = 2**20
"""Bytes of an input that is kept."""
_MOST = 200
"""Files of an input that are kept."""
_SHARED = Path("/dev/shm")


@dataclass(slots=True)
class Count:
    """Trials of one kind."""

    tried: int = 0
    refused: int = 0
    accepted: int = 0
    offences: int = 0
    kills: int = 0
    seconds: float = 0.0

    def add(self, outcome: Outcome) -> None:
        """One more."""
        self.tried += 1
        self.kills += outcome.verdict.kills
        self.seconds += outcome.seconds
        if outcome.signature:
            self.offences += 1
        elif outcome.verdict.line:
            self.refused += 1
        else:
            self.accepted += 1


@dataclass(slots=True)
class Tally:
    """What a campaign has found so far: counts by kind, offences by what they are, with the first of each."""

    counts: dict[str, Count] = field(default_factory=dict)
    offences: Counter[str] = field(default_factory=Counter)
    first: dict[str, dict[str, Any]] = field(default_factory=dict)

    def add(self, kind: Kind, number: int, outcome: Outcome) -> bool:
        """Counts a trial; whether its offence is the first of its kind."""
        self.counts.setdefault(kind.name, Count()).add(outcome)
        if not outcome.signature:
            return False
        signature = f"{kind.name}: {outcome.signature}"
        self.offences[signature] += 1
        return self.first.setdefault(signature, {"kind": kind.name, "trial": number})["trial"] == number

    def total(self, unit: str) -> int:
        """Trials of this unit; of kills the processes that were killed."""
        if unit == "kill":
            return sum(count.kills for count in self.counts.values())
        return sum(count.tried for name, count in self.counts.items() if KINDS[name].unit == unit)

    def values(self) -> dict[str, Any]:
        """For a file."""
        rows = [
            {"kind": name, "unit": KINDS[name].unit, "tried": count.tried, "refused": count.refused, "accepted": count.accepted,
             "offences": count.offences, "seconds": round(count.seconds, 1)}
            for name, count in sorted(self.counts.items())
        ]  # fmt: skip
        found = [{"what": what, "count": count, **self.first[what]} for what, count in self.offences.most_common()]
        units = {unit: self.total(unit) for unit in ("mutation", "kill", "machine")}
        return {"tried": units, "offences": sum(self.offences.values()), "kinds": rows, "found": found}

    def table(self) -> str:
        """For a person."""
        lines = [f"{'kind':24}{'tried':>9}{'refused':>9}{'accepted':>9}{'offences':>9}{'ms each':>9}"]
        for name, count in sorted(self.counts.items()):
            each = 1000 * count.seconds / count.tried
            lines.append(f"{name:24}{count.tried:9}{count.refused:9}{count.accepted:9}{count.offences:9}{each:9.1f}")
        lines.append(
            f"{self.total('mutation')} mutations, {self.total('kill')} kills, {self.total('machine')} trials of the machine, "
            f"{sum(self.offences.values())} offences of {len(self.offences)} sorts"
        )
        for what, count in self.offences.most_common():
            first = self.first[what]
            lines.append(f"{count:6} x {what}  [--only '{first['kind']}' --trial {first['trial']}]")
        return "\n".join(lines)


def chosen(names: list[str]) -> list[Kind]:
    """The kinds of these names, or of groups; all of them where none is named.

    Raises:
        ValueError: there is no such kind.
    """
    for name in names:
        if not any(name in (kind.name, kind.group) for kind in KINDS.values()):
            raise ValueError(f"unknown kind {name!r}; known: {', '.join(KINDS)}")
    return [kind for kind in KINDS.values() if not names or kind.name in names or kind.group in names]


def drawn(kinds: list[Kind], seed: int) -> Iterator[tuple[Kind, int]]:
    """(kind, number of the trial) without end, the same for the same seed and kinds; the first round has each kind once."""
    rng, numbers = random.Random(f"{seed}/order"), Counter[str]()
    weights = [kind.weight for kind in kinds]
    while True:
        for kind in kinds if not numbers else rng.choices(kinds, weights, k=100):
            yield kind, numbers[kind.name]
            numbers[kind.name] += 1


def campaign(
    seed: int,
    seconds: float,
    names: list[str],
    keep: Path | None = None,
    *,
    trials: int | None = None,
    numbers: list[int] | None = None,
    say: Callable[[str], object] = lambda words: None,
) -> Tally:
    """Runs trials one after the other until the time or their number is up.

    Args:
        names: of kinds or of groups; all where there is none.
        keep: folder for the first input of each sort of offence.
        trials: at most so many. numbers: these trials of each kind, in place of what the seed draws.
    """
    kinds, tally, began, told = chosen(names), Tally(), time.monotonic(), 0.0
    order = drawn(kinds, seed) if numbers is None else ((kind, number) for number in numbers for kind in kinds)
    with ExitStack() as stack:
        place = _SHARED if os.access(_SHARED, os.W_OK) else None
        folder = Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="ouro-campaign-", dir=place)))
        material = prepared(folder / "material")
        os.environ["OURO_HOME"] = str(folder / "home")
        if any(kind.name == "options" for kind in kinds):
            options.warm_up(material, folder / "commands")
        if any(kind.group == "jobs" for kind in kinds):
            kills.warm_up(material, folder / "jobs")
        if any(kind.group == "app" for kind in kinds):
            workbench.warm_up()
        say(f"material after {time.monotonic() - began:.1f} s")
        workers = {group: Worker(group, folder, material, seed) for group in {kind.group for kind in kinds}}
        for worker in workers.values():
            stack.callback(worker.close)
        started = time.monotonic()
        for done, (kind, number) in enumerate(order):
            now = time.monotonic() - started
            if numbers is None and (now > seconds or (trials is not None and done >= trials)):
                break
            if now > told + 30:
                told = now
                say(
                    f"{now:.0f} s: {done} trials, {sum(tally.offences.values())} offences of {len(tally.offences)} sorts"
                )
            worker = workers[kind.group]
            outcome = worker.run(kind, number)
            if tally.add(kind, number, outcome):
                tally.first[f"{kind.name}: {outcome.signature}"]["detail"] = outcome.detail.strip().splitlines()[-1:]
                say(f"offence: {kind.name} {number}: {outcome.signature}")
                if keep is not None:
                    kept(worker.trial_folder(kind, number), keep, outcome.detail)
            if outcome.signature:
                shutil.rmtree(worker.trial_folder(kind, number), ignore_errors=True)
    return tally


def kept(folder: Path, keep: Path, detail: str) -> None:
    """Copies a trial's input where it can be looked at."""
    target = keep / folder.name
    write_bytes(target / "what.txt", (detail + "\n").encode("utf-8", "replace"))
    for path in itertools.islice(folder.rglob("*"), _MOST):
        if path.is_file() and not path.is_symlink() and path.stat().st_size <= _LARGEST:
            write_bytes(target / path.relative_to(folder), path.read_bytes())


def written(out: Path, tally: Tally, seed: int, minutes: float) -> Path:
    """Stores what a campaign came to."""
    made = {
        "commit": commit(),
        "seed": seed,
        "minutes": round(minutes, 2),
        "machine": f"{device_name()}, {os.cpu_count()} CPUs",
    }
    return write_json(out, {**made, **tally.values()})
