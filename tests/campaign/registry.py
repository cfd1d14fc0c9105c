"""What a trial is, the kinds of trials that there are, and what counts as an offence."""

from __future__ import annotations

import random
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path

from tests.campaign.material import Material

LIMIT_S = 10.0
"""Seconds after which a trial in one process hangs."""
LONGEST = 1000
"""Characters of a refusal on the command line."""
UNCUT = 8000
"""Characters of one by the library, which quotes what it was given."""
TWO_LINES = "two\nlines"
"""Part of a file's name."""
MARKER = "CODE-RAN"
"""The file in a trial's folder that only code out of a mutated input would make."""


class Offence(Exception):
    """What must not happen; the first line is what offences are grouped by."""


@dataclass(frozen=True, slots=True)
class Verdict:
    """How a trial ended well. line: of a refusal, "" where the input was accepted. kills: processes that were killed."""

    line: str = ""
    kills: int = 0


@dataclass(slots=True)
class Trial:
    """One trial: all that it draws comes from `rng`, all that it writes goes into `folder`."""

    kind: str
    seed: int
    number: int
    folder: Path
    material: Material
    rng: random.Random = field(init=False)

    def __post_init__(self) -> None:
        self.rng = random.Random(f"{self.seed}/{self.kind}/{self.number}")

    def write(self, name: str, data: bytes) -> Path:
        """A file of this trial."""
        path = self.folder / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(data)
        return path


@dataclass(frozen=True, slots=True)
class Kind:
    """A kind of trial. weight: how often it is drawn. group: the worker process it runs in. unit: what it counts as."""

    name: str
    weight: float
    run: Callable[[Trial], Verdict]
    group: str
    unit: str
    limit: float


KINDS: dict[str, Kind] = {}


def kind(
    name: str, weight: float, *, group: str = "load", unit: str = "mutation", limit: float = LIMIT_S
) -> Callable[[Callable[[Trial], Verdict]], Callable[[Trial], Verdict]]:
    """Registers a function as a kind of trial."""

    def registered(run: Callable[[Trial], Verdict]) -> Callable[[Trial], Verdict]:
        KINDS[name] = Kind(name, weight, run, group, unit, limit)
        return run

    return registered


def tried(*calls: Callable[[], object]) -> Verdict:
    """Runs them until one refuses. Whatever else than a ValueError or OSError of one line they raise is an offence.

    Raises:
        Offence: a refusal that is no readable line.
    """
    for call in calls:
        try:
            call()
        except (ValueError, OSError) as error:
            return Verdict(readable(error))
    return Verdict()


def readable(error: BaseException) -> str:
    """The one line that an exception says.

    Raises:
        Offence: it says none, several, or one that nobody reads to its end.
    """
    # a name that a trial gives has two lines, which the command line and the page put into one
    line = str(error).strip().replace(TWO_LINES, "two lines")
    # where it is raised tells kinds of them apart
    if not line:
        raise Offence(f"{type(error).__name__} without words") from error
    if "\n" in line:
        raise Offence(f"{type(error).__name__} of several lines") from error
    if len(line) > UNCUT:
        raise Offence(f"{type(error).__name__} of more than {UNCUT} characters") from error
    return line
