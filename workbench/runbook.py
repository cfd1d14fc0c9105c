"""What the runs of this machine were asked, what came of them, what they take on disk, and what makes them again."""

from __future__ import annotations

import json
import logging
import math
import os
import re
import shlex
import shutil
import time
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from datetime import datetime
from hashlib import sha256
from pathlib import Path
from typing import Any

from ouro.metrics import METRICS, metric_of
from workbench import (
    address,
    calib,
    compare,
    engine,
    quantize,
    runner,
    samples,
    sensitivity,
    stored,
    tasks,
    whatif,
    workspace,
)
from workbench.page import interval, percent, score

log = logging.getLogger(__name__)

GENERATION = "generation"
"""The kind of runs that make a set; their specs are the only ones that do not name their job."""

TABS = {GENERATION: "samples", "quantize": "tasks", "sensitivity": "sensitivity", "quality": "samples",
        "accuracy": "quantize", "agreement": "quantize", "familiarity": "attention"}  # fmt: skip
"""Kind of a run -> the tab that shows what came of it."""

_MADE_BY = {
    GENERATION: (samples.KIND,),
    "quantize": (quantize.KIND, tasks.KIND, sensitivity.BUDGET, whatif.KIND),
    "sensitivity": (sensitivity.KIND,),
    "accuracy": (quantize.KIND, sensitivity.BUDGET, whatif.KIND),
    "agreement": (quantize.KIND, sensitivity.BUDGET, whatif.KIND),
}
"""Kind of a run -> kinds of jobs that write it; of the rest any job might."""

_NAME = re.compile(r"[0-9a-f]{16}")
_NOTES = "notes.json"
_RECENT = 120
"""Seconds after which an unfinished run is hardly at work in another process."""


@dataclass(frozen=True, slots=True)
class Entry:
    """One run: the name of its folder, what it was asked, what came of it if it is finished, its files with their sizes
    in bytes, and a person's notes. `measured`: what was last measured of a quantized model, which is a run of its own.
    """

    name: str
    spec: Mapping[str, Any]
    report: Mapping[str, Any] | None
    when: datetime
    files: Mapping[str, int]
    notes: str = ""
    measured: Mapping[str, Any] | None = None

    @property
    def kind(self) -> str:
        if "job" in self.spec:
            return str(self.spec["job"])
        return GENERATION if {"method", "num", "steps"} <= set(self.spec) else "other"

    @property
    def model(self) -> str:
        return str(stored.called(self.spec)) if "model" in self.spec else ""

    @property
    def size(self) -> int:
        return sum(self.files.values())

    @property
    def state(self) -> str:
        return "unfinished" if self.report is None else "finished"

    @property
    def seconds(self) -> float | None:
        values = self.report or {}
        return _number(values.get("seconds", values.get("calibration_seconds")))

    @property
    def calibration(self) -> str:
        return calib.short_name(self.spec.get("calib", ""))

    @property
    def scored(self) -> Mapping[str, Any]:
        """The report that has the main score, with the name of the score as `metric` where there is one."""
        values = {**(self.report or {}), **(self.measured or {})}
        # parts of longer jobs do not name theirs
        name = next((name for name in METRICS if values.get(name) is not None), None)
        return values if name is None else {"metric": name, **values}

    @property
    def score(self) -> str:
        """The main score with its name, "–" without one."""
        values = self.scored
        if values.get(metric_of(values)) is not None:
            return score(values)
        share, kl = self._share, self._kl
        if share is not None:
            return f"{'recognized' if self.kind == GENERATION else 'as float'} {percent(share)}"
        return "–" if kl is None else f"KL {kl:.3g}"

    @property
    def better(self) -> float:
        """The score with a sign under which larger is better, minus infinity without one."""
        values = self.scored
        name = metric_of(values)
        if (own := _number(values.get(name))) is not None:
            return METRICS[name].better(own)
        share, kl = _number(self._share), _number(self._kl)
        if share is not None:
            return share
        return -math.inf if kl is None else -kl

    @property
    def _share(self) -> float | None:
        values = self.scored
        return values["recognized"]["self"] if self.kind == GENERATION and self.report else values.get("agreement")

    @property
    def _kl(self) -> float | None:
        values = self.scored
        return values.get("measured_kl", values.get("whole", {}).get("kl"))

    @property
    def title(self) -> str:
        """The run in one line."""
        parts = (self.kind, self.model, self.spec.get("method"), self.spec.get("bits"), self.calibration)
        seed = f"seed {self.spec['seed']}" if "seed" in self.spec else None
        return " · ".join(str(part) for part in (*parts, seed) if part)


def shown_at(entry: Entry) -> str:
    """The address of what came of a run, in the tab that shows it; "" where there is none."""
    tab = TABS.get(entry.kind)
    if tab is None or entry.report is None:
        return address.link(tab, model=entry.model) if tab else ""
    if entry.kind == "quality":
        return address.link(tab)
    if tab == "quantize":
        return address.link(tab, model=entry.model, run=entry.spec.get("run", ""), row="")
    named = {"samples": "set", "tasks": "run", "sensitivity": "run"}.get(tab)
    return address.link(tab, model=entry.model, **({named: entry.name} if named else {}))


# ---- results/ --------------------------------------------------------------------------------------------------


def result_command(place: str) -> str:
    """What makes a file in results/ again."""
    name = place.partition(":")[0]
    own = stored.result(name).get("commands")
    known = own or [command for entry in engine.ledger() if name in entry["results"] for command in entry["commands"]]
    # of an entry that several commands measure, the one that writes this file
    writes = [command for command in known if _writes(command, name)]
    return (
        " && ".join(dict.fromkeys(writes or known))
        or "no command is written down for this file; results/README.md says more"
    )


def _writes(command: str, name: str) -> bool:
    """Whether a command, in which MODEL stands for a name, puts out this file."""
    out = re.search(r"results/(\S+)", command)
    return bool(out and re.fullmatch(re.escape(out[1]).replace("MODEL", ".+"), name))


_MANY = 40


def brief(value: Any) -> Any:
    """Values without what nobody reads: of long lists and long texts it is said how long they are."""
    if isinstance(value, Mapping):
        return {key: brief(item) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [brief(item) for item in value] if len(value) <= _MANY else f"{len(value)} values"
    return f"{len(value)} characters" if isinstance(value, str) and len(value) > 400 else value


# ---- reading ---------------------------------------------------------------------------------------------------


def entries() -> list[Entry]:
    """Every run of this machine, newest first; what cannot be read is passed over."""
    from ouro.store import Store

    found = []
    for run in Store().runs():
        try:
            found.append(_showable(_entry(run)))
        except stored.DAMAGED as error:
            log.warning("run %s cannot be read: %r", run.path.name, error)
    found.sort(key=lambda entry: entry.when)
    # the newest comes last, and stays
    measured = {entry.spec["run"]: entry.report for entry in found if entry.report and "run" in entry.spec}
    return [replace(entry, measured=measured.get(entry.name)) for entry in reversed(found)]


def _entry(run: Any) -> Entry:
    from ouro.store import read_json

    report, notes = run.report(), run.path / _NOTES
    files = {path.name: path.stat() for path in run.path.iterdir() if path.is_file() and path.name != _NOTES}
    written = files["report.json"].st_mtime if report else max(stat.st_mtime for stat in files.values())
    kept = read_json(notes).get("notes", "") if notes.exists() else ""
    sizes = {name: stat.st_size for name, stat in files.items()}
    return Entry(run.path.name, run.spec(), report, datetime.fromtimestamp(written), sizes, kept)


def _showable(entry: Entry) -> Entry:
    """The run, if all that is shown of it can be: another program or version may have written anything into it."""
    cells(entry), shown(entry.spec), losses(entry, ()), _text(entry), entry.better, entry.title
    hash(entry.spec.get("run"))
    if not isinstance(entry.seconds, int | float | None):
        raise ValueError(f"seconds is {entry.seconds!r}")
    return entry


def entry_of(name: str) -> Entry:
    """The run of this name.

    Raises:
        ValueError: it is not, or no longer, among the runs of this machine.
    """
    from ouro.store import Run

    try:
        return _showable(_entry(Run(_folder(name))))
    except (TypeError, KeyError, AttributeError) as error:
        raise ValueError(f"run {name} is damaged ({error!r})") from error
    except OSError as error:
        raise ValueError(f"there is no run {name} any more; was it deleted meanwhile?") from error


def _folder(name: str) -> Path:
    """Where a run lies; nothing else than a folder of a run, whatever the page sends."""
    from ouro.store import Store

    if not _NAME.fullmatch(name):
        raise ValueError(f"{name!r} is no name of a run; they have 16 hexadecimal digits")
    path = Store().folder / name
    if path.is_symlink() or not (path / "spec.json").is_file():
        raise ValueError(f"there is no run {name} any more; was it deleted meanwhile?")
    return path


def _number(found: Any) -> float | None:
    """A number, None for all else that something else may have written into a run's folder."""
    return float(found) if isinstance(found, int | float) else None


SORTS = {
    "newest": ("Newest first", lambda entry: -entry.when.timestamp()),
    "oldest": ("Oldest first", lambda entry: entry.when.timestamp()),
    "score": ("Best score first", lambda entry: (entry.kind, -entry.better)),
    "size": ("Largest first", lambda entry: -entry.size),
    "seconds": ("Longest first", lambda entry: -(entry.seconds or 0)),
    "model": ("By model", lambda entry: (entry.model, entry.kind, -entry.when.timestamp())),
}
"""Orders of the list: words and key."""


def chosen(
    found: Iterable[Entry], words: str = "", kind: str = "", model: str = "", sort: str = "newest"
) -> list[Entry]:
    """Those that hold all of the words, are of the kind and the model ("" for any), in this order."""
    wanted = words.lower().split()
    kept = [
        entry
        for entry in found
        if kind in ("", entry.kind) and model in ("", entry.model) and all(word in _text(entry) for word in wanted)
    ]
    return sorted(kept, key=SORTS[sort][1])


def _text(entry: Entry) -> str:
    return " ".join(
        (entry.name, entry.title, entry.state, entry.score, entry.notes, json.dumps(shown(entry.spec)))
    ).lower()


HEADS = ("Run", "Kind", "Model", "Method", "Bits", "Calibration", "Score", "95 % interval", "Seed", "When", "Seconds",
         "Size, bytes", "State", "Notes")  # fmt: skip


def cells(entry: Entry) -> list[str]:
    """A run as a row of a table, in the order of HEADS."""
    spec, values = entry.spec, entry.scored
    seconds = "" if entry.seconds is None else f"{entry.seconds:.1f}"
    return [
        entry.name, entry.kind, entry.model, str(spec.get("method", "")), str(values.get("bits", spec.get("bits", ""))),
        entry.calibration, entry.score.replace("\u00a0", " "), interval(values), str(spec.get("seed", "")),
        f"{entry.when:%Y-%m-%d %H:%M}", seconds, str(entry.size), entry.state, entry.notes,
    ]  # fmt: skip


def size(number: int) -> str:
    """1234567 -> 1.2 MB."""
    for unit, words in ((1e9, "GB"), (1e6, "MB"), (1e3, "kB")):
        if number >= unit:
            return f"{number / unit:.1f} {words}"
    return f"{number} B"


# ---- beside each other -----------------------------------------------------------------------------------------


def differences(several: Sequence[Entry]) -> tuple[list[tuple[str, list[str]]], int]:
    """(key, what each run has there) of everything in spec and report that is not the same in all; how many are."""
    flat = [_flat("asked", shown(entry.spec)) | _flat("found", shown(entry.report or {})) for entry in several]
    keys = list(dict.fromkeys(key for one in flat for key in one))
    rows = [(key, [one.get(key, "–") for one in flat]) for key in keys]
    differing = [(key, values) for key, values in rows if len(set(values)) > 1]
    return differing, len(rows) - len(differing)


_FEW = 6


def _flat(where: str, value: Any) -> dict[str, str]:
    """Nested values by the way that leads to them; of long lists it is only said whether they are the same."""
    if isinstance(value, Mapping) and value:
        return {key: x for name, item in value.items() for key, x in _flat(f"{where}.{name}", item).items()}
    if isinstance(value, list | tuple):
        if len(value) > _FEW or any(isinstance(item, Mapping | list | tuple) for item in value):
            return {where: f"{len(value)} values, {sha256(json.dumps(value).encode()).hexdigest()[:6]}"}
        return {where: ", ".join(map(_plain, value)) or "none"}
    return {where: _plain(value)}


def _plain(value: Any) -> str:
    if value is None or value == {} or value == "":
        return "none"
    return f"{value:.6g}" if isinstance(value, float) else str(value)


# ---- words for people ------------------------------------------------------------------------------------------


def shown(value: Any) -> Any:
    """Specs and reports with the places of files as they are on any machine, not on this one."""
    if isinstance(value, Mapping):
        return {key: shown(item) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [shown(item) for item in value]
    return _place(value) if isinstance(value, str) else value


def _place(text: str) -> str:
    return text.replace(*_root())


def _root() -> tuple[str, str]:
    """The folder that places begin with on this machine, and what stands for it on any."""
    from ouro.store import default_root

    own = os.environ.get("OURO_HOME")
    return (str(default_root()), "$OURO_HOME") if own else (str(Path.home()), "$HOME")


NO_COMMAND = "no command makes exactly this: it is a part of a longer job, or of weights that are not on Start"


def command(entry: Entry) -> str:
    """The command line that makes a run again, "" where there is none for it."""
    try:
        return _command(entry)
    except (KeyError, TypeError, AttributeError) as error:
        log.warning("run %s does not say all that its command needs: %r", entry.name, error)
        return ""


def _command(entry: Entry) -> str:
    spec = dict(entry.spec)
    if entry.kind not in (GENERATION, "quantize", "sensitivity") or "device" in spec:
        return ""
    parts = ["ouro", "generate" if entry.kind == GENERATION else entry.kind, spec["model"]]
    own = workspace.model(entry.model)
    if own is not None:
        parts += ["--weights", own.path]
    elif stored.published(spec) is False:
        # of weights that nobody knows the place of; without them it would be another run
        return ""
    if names := spec.get("class_names"):
        parts += ["--class-names", str(workspace.names_file(names))]
    for key, value in spec.get("config", {}).items():
        parts += ["--config", f"{key}={json.dumps(value)}"]
    if entry.kind == GENERATION:
        names = ("method", "num", "steps", "batch", "lr", "seed")
    elif entry.kind == "quantize":
        budget = ("budget", "widths", "by") if spec["budget"] is not None else ()
        names = ("method", "bits", "calib", "scope", *budget, "seed")
    else:
        # without labels only the page measures
        if not spec["labels"]:
            return ""
        names = ("method", "bits", "calib", "scope", "mode", "by", "data", "limit", "seed")
    for name in names:
        value = spec[name]
        parts += [f"--{name}", ",".join(map(str, value)) if isinstance(value, list) else str(value)]
    for key, value in spec["options"].items():
        parts += ["--option", f"{key}={value if isinstance(value, str) else json.dumps(value)}"]
    for expression, width in spec.get("keep", ()):
        parts += ["--keep", f"{expression}={width}"]
    if spec.get("packed"):
        parts += ["--packed", "--floats", spec["floats"]]
    return " ".join(map(_quoted, parts))


def _quoted(part: str) -> str:
    folder, variable = _root()
    # the shell puts the folder in where the quotes are double
    return f'"{variable}"'.join(shlex.quote(piece) if piece else "" for piece in part.split(folder))


def losses(entry: Entry, others: Iterable[Entry]) -> str:
    """What would be lost with a run, in a sentence or two."""
    values, chunks = entry.report or {}, sum(name.startswith("chunk-") for name in entry.files)
    what = {
        GENERATION: f"the set of {entry.spec.get('num')} images"
        if entry.report
        else f"{chunks} finished chunks of images",
        "quantize": "the quantized model that Tasks compares with" if entry.report else "an unfinished calibration",
        "sensitivity": "the damage of every site",
    }.get(entry.kind, "its report")
    took = f" ({runner.clock(entry.seconds)} of computing)" if entry.seconds else ""
    words = f"{what}{took}" + (", your notes" if entry.notes else "") + f", and {size(entry.size)} on disk."
    words = words[:1].upper() + words[1:]
    users = [other for other in others if entry.name in str(other.spec.get("calib", ""))]
    if users:
        words += f" {len(users)} run{'s' * (len(users) > 1)} calibrated on it: they stay, and cannot be made again."
    if entry.report is None and time.time() - entry.when.timestamp() < _RECENT:
        words += " It was written to just now: is another process at work on it?"
    if str(values.get("path", "")) and Path(values["path"]).parent.name != entry.name:
        words += f" The file {Path(values['path']).name}, which was written elsewhere, stays."
    return words


# ---- changing --------------------------------------------------------------------------------------------------


def note(name: str, words: str) -> None:
    """Keeps notes beside a run; empty ones are removed.

    Raises:
        ValueError: there is no such run.
        WriteError: they cannot be written; what was there before is untouched.
    """
    from ouro.store import write_json

    path = _folder(name) / _NOTES
    if words.strip():
        write_json(path, {"notes": words.strip()})
    else:
        path.unlink(missing_ok=True)


def delete(name: str) -> None:
    """Removes a run with all that it holds.

    Raises:
        ValueError: there is no such run, or a job is at work that may write it.
    """
    folder, entry = _folder(name), entry_of(name)
    if (job := writer(entry)) is not None:
        raise ValueError(f"{job.title} is at work and may write this run; wait for it or cancel it first")
    # out of the list at once and as a whole, even if removing the files takes a while or fails
    aside = folder.parent.with_name(f".deleted-{name}-{time.time_ns()}")
    folder.rename(aside)
    shutil.rmtree(aside)


def writer(entry: Entry) -> runner.Job | None:
    """A job at work that may write this run."""
    kinds = _MADE_BY.get(entry.kind, (compare.KIND, quantize.KIND))
    fitting = (job for job in runner.jobs() if not job.over and job.kind in kinds)
    return next((job for job in fitting if job.model in ("", stored.called(entry.spec, job.model))), None)
