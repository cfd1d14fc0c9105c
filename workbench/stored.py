"""Work that was done before: sets and runs of this machine, and the numbers in results/."""

from __future__ import annotations

import csv
import io
import itertools
import json
import logging
import re
import shutil
import tempfile
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import suppress
from functools import lru_cache
from hashlib import sha256
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from ouro.metrics import metric_of
from ouro.paper.markdown import RESULTS
from workbench import engine, workspace

if TYPE_CHECKING:
    from ouro.store import Run

log = logging.getLogger(__name__)

# ---- synthetic sets --------------------------------------------------------------------------------------------


def sets(asking: str = "") -> list[dict[str, Any]]:
    """Finished synthetic sets of this machine, newest first: the report of each, with its `path`.

    `model` is what the page calls it, see `called`; `registered` is the name behind one of a person's own.
    """

    def finished(run: Run) -> dict[str, Any] | None:
        report, spec = run.report(), run.spec()
        if report and "recognized" in report and Path(report.get("path", "")).is_file():
            return {**_set(report), "model": called(spec, asking), "registered": report["model"]}
        return None

    return _found(finished)


DAMAGED = (ValueError, OSError, TypeError, KeyError, AttributeError)
"""What comes of looking at a run that something else has written into."""


def _found(look: Callable[[Run], dict[str, Any] | None]) -> list[dict[str, Any]]:
    """What `look` makes of every run, the newest first; one that is being written, or was damaged, is passed over."""
    from ouro.store import Store

    entries = []
    for run in Store().runs():
        with suppress(*DAMAGED):
            entries.append(look(run))
    return [entry for entry in reversed(entries) if entry is not None]


def _set(report: dict[str, Any]) -> dict[str, Any]:
    """The report of a set, if it has what the page shows of it.

    Raises:
        ValueError, TypeError, KeyError, AttributeError: it has not.
    """
    texts = [report[name] for name in ("model", "method", "set_digest", "path")]
    numbers = [report[name] for name in ("num", "steps", "seed", "seconds")]
    shares = [report["recognized"]["self"], *report["judges"].values()]
    if not all(isinstance(text, str) for text in texts) or not isinstance(report["options"], dict):
        raise TypeError("a text of a set is none")
    if not all(isinstance(x, int | float) and not isinstance(x, bool) for x in (*numbers, *shares)):
        raise TypeError("a number of a set is none")
    return report


def unfinished() -> list[dict[str, Any]]:
    """Sets that were stopped after a chunk or more, newest first: {path, spec (of the job), finished (images)}."""
    from dataclasses import fields

    from ouro.jobs.synthesize import SynthesisSpec

    asked = {field.name for field in fields(SynthesisSpec)} - {"out", "device"}

    def stopped(run: Run) -> dict[str, Any] | None:
        spec, over = run.spec(), run.report() is not None
        chunks = 0 if over or not asked <= set(spec) else len(run.chunks())
        if not chunks:
            return None
        kept = {key: spec[key] for key in asked} | {"options": tuple(spec["options"].items())}
        kept["model"] = called(spec)
        return {"path": str(run.path), "spec": kept, "finished": min(spec["num"], chunks * spec["batch"])}

    return _found(stopped)


def called(spec: Mapping[str, Any], asking: str = "") -> str:
    """What the page calls the model of a run: `asking` where that stands for the same weights, as several names may."""
    names = _names(spec)
    return asking if asking in names else names[0]


def _names(spec: Mapping[str, Any]) -> list[str]:
    """All that stand for the weights of a run, the likeliest first."""
    name, weights, classes = spec["model"], spec.get("weights", ""), spec.get("class_names", ())
    own = workspace.aliases(name, weights, classes)
    if not own:
        return [name]
    # a copy of published weights is no reason to take from the model itself what was made of it
    if published(spec):
        return [*own, name] if classes else [name, *own]
    return own


def published(spec: Mapping[str, Any]) -> bool | None:
    """Whether a run is of the weights that go with its model's name, None where these are not at hand."""
    name = spec["model"]
    if name not in engine.registered() or not engine.at_hand(name):
        return None
    return engine.known_digest(name) == spec.get("weights")


def quantized(model: str) -> list[dict[str, Any]]:
    """What was made of a model in a few bits on this machine, with its weights as they are now, newest first.

    The report of `ouro.jobs.quantize` of each, with its `path`.
    """

    def made(run: Run) -> dict[str, Any] | None:
        spec, report = run.spec(), run.report()
        there = bool(report) and spec.get("job") == "quantize" and Path(report["path"]).is_file()
        if report and there and called(spec, model) == model and spec["weights"] == engine.digest(model):
            return {**report, "model": model}
        return None

    return _found(made)


def measured_sensitivities(model: str) -> list[dict[str, Any]]:
    """Finished scans of a model on this machine, with its weights as they are now, newest first, each with its `run`."""

    def scanned(run: Run) -> dict[str, Any] | None:
        spec, report = run.spec(), run.report()
        own = spec.get("job") == "sensitivity" and called(spec, model) == model
        if report and own and spec["weights"] == engine.digest(model):
            return {**report, "model": model, "run": run.path.name}
        return None

    return _found(scanned)


def measured(name: str) -> dict[str, Any]:
    """What was last measured of a quantized model, as a row of scores; by the run that made it, or one that measured it.

    Raises:
        ValueError: the run is no longer there, or nothing was measured of it.
    """
    from ouro.store import Store
    from ouro.types import Report

    runs = {run.path.name: run for run in Store().runs()}
    if name in runs and "run" in runs[name].spec():
        name = str(runs[name].spec()["run"])
    made = runs.get(name)
    if made is None or not (report := made.report()):
        raise ValueError(f"there is no finished run {name} any more; was it deleted meanwhile?")
    looks = [run for run in runs.values() if run.spec().get("run") == name and run.report()]
    if not looks:
        raise ValueError(f"nothing was measured of the run {name}; Tasks shows what it answers")
    spec, seen = made.spec(), looks[-1]
    found = Report(str(seen.spec()["job"]), dict(seen.report() or {}), None, seen.load_tensors(engine.OUTCOMES) or {})  # type: ignore[arg-type]
    asked = {key: spec[key] for key in ("method", "bits", "calib", "scope", "seed")}
    row = {"ci95": None, "agreement": None, "agreement_ci95": None, **asked, **report, **found.values}
    row |= engine.block_error(report["path"])
    if found.kind == "agreement":
        row["agreement_ci95"], row["ci95"] = row["ci95"], None
    else:
        row |= engine.kept(found)
    place = {"model": called(spec), "path": report["path"], "data": seen.spec()["data"], "seeds": 1, "run": name}
    return {**row, **place}


def discard(path: str) -> None:
    """Removes what a stopped set left behind.

    Raises:
        ValueError: it is not there, or was finished meanwhile.
    """
    if path not in {entry["path"] for entry in unfinished()}:
        raise ValueError("there is no such unfinished set; was it finished or discarded meanwhile?")
    shutil.rmtree(path)


def pictures(entry: Mapping[str, Any], most: int = 64) -> tuple[np.ndarray, list[str]]:
    """The first images of a set as uint8 [n 3 h w], and what classes each was made for ("" if nobody knows)."""
    from ouro.store import read_tensors

    tensors = read_tensors(entry["path"])[0]
    mean, std, _ = engine.pixels(entry["model"])
    scale, shift = (np.asarray(x, np.float32)[:, None, None] for x in (std, mean))
    images = np.rint((tensors["images"][:most].numpy() * scale + shift) * 255).clip(0, 255).astype(np.uint8)
    if "labels" not in tensors:
        return images, [""] * len(images)
    return images, engine.named_targets(entry["model"], tensors["labels"][:most])


def qualities(entries: Sequence[Mapping[str, Any]]) -> list[dict[str, Any]] | None:
    """What `ouro.jobs.quality` stored of these sets against the same real images; None if it did not look at all."""
    from ouro.store import Store

    known: dict[tuple[str, str], dict[str, dict[str, Any]]] = {}
    for run in Store().runs():
        try:
            spec, report = run.spec(), run.report()
            if spec.get("job") == "quality" and report:
                known.setdefault((spec["weights"], spec["real"]), {})[f"{spec['model']} {spec['set']}"] = report
        except DAMAGED:
            continue
    wanted = [f"{values['registered']} {values['set_digest']}" for values in entries]
    fitting = [reports for reports in known.values() if all(name in reports for name in wanted)]
    return [fitting[-1][name] for name in wanted] if fitting else None


# ---- downloads -------------------------------------------------------------------------------------------------


@lru_cache(maxsize=1)
def _exports() -> tempfile.TemporaryDirectory[str]:
    # removed when the process ends
    return tempfile.TemporaryDirectory(prefix="ouro-")


def exported(entry: Mapping[str, Any]) -> str:
    """A copy of a finished set for download: the page may serve the temporary folder, and the name says what it is."""
    folder = Path(_exports().name) / str(entry["set_digest"])
    folder.mkdir(exist_ok=True)
    name = f"{entry['model']}-{entry['method']}-{entry['num']}x{entry['steps']}-seed{entry['seed']}"
    return shutil.copyfile(entry["path"], folder / f"{_file_name(name)}.safetensors").as_posix()


def exported_table(name: str, head: Sequence[str], rows: Iterable[Sequence[Any]]) -> str:
    """A CSV file for download; another table of the same name is another file, whoever looks at that meanwhile."""
    text = io.StringIO()
    writer = csv.writer(text)
    writer.writerows([head, *([_harmless(cell) for cell in row] for row in rows)])
    content = text.getvalue().encode()
    path = Path(_exports().name) / sha256(content).hexdigest()[:16] / f"{_file_name(name)}.csv"
    path.parent.mkdir(exist_ok=True)
    path.write_bytes(content)
    return path.as_posix()


def _file_name(words: str) -> str:
    """The words without what ends a path or an address, which a person's own name of a model may have, and not too long."""
    return re.sub(r"[^\w.()+ -]", "_", words)[-_LONGEST:]


_LONGEST = 80
"""Characters of a file name: a file system counts bytes, up to 255, and most letters have no more than three."""


def _harmless(cell: Any) -> Any:
    """What a spreadsheet does not take for a formula, see `harmless` of save.js."""
    if not isinstance(cell, str) or cell[:1] not in {*"=+-@\t\r"} or re.fullmatch(r"[+-][\d.,%()eto\s+-]*", cell):
        return cell
    return f"'{cell}"


# ---- results/ --------------------------------------------------------------------------------------------------


def accuracies() -> list[dict[str, Any]]:
    """Rows of scores that lie in results/*.json, but for budgets; a file of another kind is passed over.

    Beside what the files say each has {file, id (of the row)}, and as far as they were kept {set (what `calib` stands for,
    as jobs take it), options (of the method), right (packed outcomes, one per seed, see `ouro.evaluate.paired`) or
    resampled (scores of resamples, one list per seed)}.
    """
    return [row for row in _rows() if metric_of(row) in row and "budget" not in row]


def budgets() -> list[dict[str, Any]]:
    """Rows of budgets of average bits that lie in results/*.json."""
    return [row for row in _rows() if "budget" in row and "predicted_kl" in row]


def sensitivities() -> list[dict[str, Any]]:
    """Reports of sensitivity that lie in results/*.json, each with its `file`, without importing the library."""
    return [
        {**report, "file": name}
        for name, report in _files()
        if "whole" in report and "mode" in report and report.get("rows")
    ]


def benchmarks() -> list[dict[str, Any]]:
    """Files of `ouro bench` with times behind a gate that lie in results/, each with its name as `file`."""
    return [
        {**content, "file": name}
        for name, content in _files()
        if "op" in content and "gate" in content and isinstance(content.get("rows"), list)
    ]


def result(name: str) -> dict[str, Any]:
    """A file in results/ by its name.

    Raises:
        ValueError: there is none of that name.
    """
    content = dict(_files()).get(name)
    if content is None:
        raise ValueError(f"there is no file {name} in results/; it may be of another version")
    return content


def row(place: str) -> dict[str, Any] | None:
    """A row of a file in results/ by its id, as the file says it; None where there is none."""
    return next((one for one in _rows() if one["id"] == place), None)


def _files() -> Iterator[tuple[str, Mapping[str, Any]]]:
    """Name and content of what lies in results/."""
    for path in sorted(RESULTS.glob("*.json")):
        try:
            facts = path.stat()
            content = _content(path, facts.st_mtime_ns, facts.st_size)
        except (ValueError, OSError):
            log.warning("%s is no readable JSON", path.name)
            continue
        if isinstance(content, dict):
            yield path.name, content


@lru_cache(maxsize=256)
def _content(path: Path, written: int, size: int) -> Any:
    """A JSON file as it was then; nobody changes what is given, since every tab of every page reads all of them."""
    return json.loads(path.read_text("utf-8"))


def _rows() -> Iterator[dict[str, Any]]:
    for file, content in _files():
        tables = content.get("tables", [content])
        number = itertools.count()
        for one in tables if isinstance(tables, list) else []:
            if isinstance(one, dict) and isinstance(one.get("rows"), list):
                # what all rows of a table share stands beside them
                shared = {key: value for key, value in one.items() if isinstance(value, str | int | float)}
                for row in one["rows"]:
                    if isinstance(row, dict):
                        known = {**shared, **row}
                        place = {"file": file, "id": f"{file}:{next(number)}"}
                        yield {**known, **place, **_made_of(one, known), **_outcomes(one, known)}


def _made_of(table: Mapping[str, Any], row: Mapping[str, Any]) -> dict[str, Any]:
    """{set, options} of a row as far as its table's spec says them: what it was calibrated on, and how its method was set."""
    made = {}
    # a table that was extended has a spec for each time that it was
    for spec in table.get("specs") or [table.get("spec") or {}]:
        sets, options = dict(spec.get("calibs") or ()), dict(spec.get("options") or ())
        if row.get("calib") in sets:
            made["set"] = sets[row["calib"]]
        if row.get("method") in options:
            made["options"] = dict(options[row["method"]])
    return made


def _outcomes(table: Mapping[str, Any], row: Mapping[str, Any]) -> dict[str, Any]:
    """What the single runs of a row kept of every image, or of every resample of them."""
    for kept in ("right", "resampled"):
        runs = [
            cell[kept]
            for cell in table.get("cells") or ()
            if kept in cell and all(cell.get(key) == row.get(key) for key in ("method", "bits", "calib"))
        ]
        if runs:
            return {kept: runs}
    return {}
