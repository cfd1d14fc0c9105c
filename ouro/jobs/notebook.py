"""What cells of notebooks share: a job under a progress bar, a stored measurement, a figure with its words, tables, a verdict.

Imported first of all modules of this project (see isort in pyproject.toml), it spares the notebook a warning of tqdm's.
"""

from __future__ import annotations

import json
import warnings
from collections.abc import Callable, Generator, Iterable, Mapping, Sequence
from io import BytesIO
from typing import Any

import pandas as pd
import tqdm
from IPython.display import Image, Markdown, clear_output, display
from matplotlib.figure import Figure

from ouro.paper.markdown import RESULTS
from ouro.progress import drive
from ouro.types import Progress, Report

with warnings.catch_warnings():
    # other packages ask for the bar of widgets, which complains once where there are none
    warnings.simplefilter("ignore", tqdm.TqdmWarning)
    import tqdm.auto

DPI = 110

Row = Mapping[str, Any]
Column = str | Callable[[Row], Any]
"""A key of the rows, or what makes an entry of a row."""


def run(job: Generator[Progress, None, Report]) -> Report:
    """Runs a job to its end under a bar, which then goes away with all that its cell has printed so far."""
    with tqdm.tqdm(leave=False, bar_format="{percentage:3.0f}% |{bar:24}| {desc}") as bar:

        def show(progress: Progress) -> None:
            bar.total, bar.n = max(1, progress.total), progress.step
            bar.set_description_str(progress.message)

        report = drive(job, show)
    clear_output()
    return report


def stored(name: str) -> dict[str, Any]:
    """A measurement kept in results/, such as "neighborhoods" or "neighborhoods.json".

    Raises:
        FileNotFoundError: there is none of that name; the message has those that are there.
    """
    path = RESULTS / f"{name.removesuffix('.json')}.json"
    if not path.is_file():
        known = ", ".join(sorted(file.stem for file in RESULTS.glob("*.json")))
        raise FileNotFoundError(
            f"no stored measurement {name!r} in results/; "
            + (f"known: {known}" if known else "that folder is empty or missing, take it from a checkout")
        )
    return json.loads(path.read_text("utf-8"))


def every(pattern: str) -> dict[str, dict[str, Any]]:
    """Model -> its measurement, of all that are kept in results/ under such names, as "tasks_*".

    Raises:
        FileNotFoundError: there is none.
    """
    names = sorted(path.stem for path in RESULTS.glob(f"{pattern}.json"))
    # none is an error with the names that there are
    return {values["model"]: values for values in map(stored, names or [pattern])}


def origin(values: dict[str, Any]) -> str:
    """Device, commit and number of images of a stored measurement, in a line; what it does not say is left out."""
    said = [("commit", values.get("commit")), ("n =", values.get("n")), ("seed", values.get("seed"))]
    return "; ".join([f"stored: {values['device']}", *(f"{word} {value}" for word, value in said if value is not None)])


def show(figure: Figure, alt: str) -> None:
    """Draws a figure as PNG, with its words below it and for those who cannot see it."""
    png = BytesIO()
    figure.savefig(png, format="png", dpi=DPI)
    display(Image(data=png.getvalue(), format="png", alt=alt))
    display(Markdown(alt))


def cell(mean: float, ends: Sequence[float] | None = None, *, signed: bool = False) -> str:
    """A share in percent with its interval, as "82.3 (80.6 to 83.9)"; a difference has the sign of each of its numbers."""
    sign = "+" if signed else ""
    words = [f"{100 * value:{sign}.1f}" for value in (mean, *(ends or ()))]
    return words[0] if ends is None else f"{words[0]} ({words[1]} to {words[2]})"


def top1(row: Row) -> str:
    """The accuracy of a row {top1, ci95}, in percent."""
    return cell(row["top1"], row.get("ci95"))


def gain(row: Row) -> str:
    """The difference of a pair {difference, ci95}, in points."""
    return cell(row["difference"], row["ci95"], signed=True)


def mean(name: str) -> Callable[[Row], str]:
    """What shows the measure {mean, ci95} of this name in a row; empty where there is none."""
    return lambda row: "" if row[name] is None else cell(row[name]["mean"], row[name].get("ci95"))


def frame(
    rows: Iterable[Row],
    *,
    index: Column | Sequence[Column],
    columns: Column | Mapping[str, Column],
    value: Column | None = None,
) -> pd.DataFrame:
    """Stored rows as a table, in their own order; what there is no row for stays empty.

    Args:
        index: what names a line: one or several of `Column`.
        columns: title -> what stands there; or what names the column, and then `value` is what stands there.

    Raises:
        ValueError: two rows for one place, no rows, or a `value` that is missing or too much.
    """
    if isinstance(columns, Mapping) == (value is not None):
        raise ValueError("give titles with what stands below them, or one column and a value")
    keys = [index] if isinstance(index, str) or callable(index) else list(index)
    lines: dict[tuple[Any, ...], dict[Any, Any]] = {}
    for row in rows:
        line = lines.setdefault(tuple(_of(row, key) for key in keys), {})
        new = (
            {title: _of(row, column) for title, column in columns.items()}
            if isinstance(columns, Mapping)
            else {_of(row, columns): _of(row, value or "")}
        )
        if twice := set(line) & set(new):
            raise ValueError(f"two rows for {twice.pop()!r}; name the lines by more than {index!r}")
        line |= new
    if not lines:
        raise ValueError("there are no rows to show")
    titles = list(dict.fromkeys(title for line in lines.values() for title in line))
    names = [key if isinstance(key, str) else None for key in keys]
    if len(keys) > 1:
        labels: pd.Index = pd.MultiIndex.from_tuples(list(lines), names=names)
    else:
        labels = pd.Index([line for (line,) in lines], name=names[0])
    return pd.DataFrame([[line.get(title, "") for title in titles] for line in lines.values()], labels, titles)


def verdict(*names: str) -> None:
    """Shows what the ledger says of these figures or tables: word, claim, and point by point what decides.

    Raises:
        ValueError: the ledger has no such entry.
    """
    # not before it is asked for: models come with it, and with them the bar of widgets
    from ouro.paper.ledger import artefact, ledger

    chosen = [artefact(name).name for name in names]
    for entry in (one for name in chosen for one in ledger() if one["name"] == name):
        title = f"{entry['paper']}, {entry['title']}: {entry['verdict']}"
        display(Markdown(f"**{title}.** The paper: {entry['shows']}. Here: {entry['ours']}."))
        points = pd.DataFrame(entry["points"], columns=["claim", "word", "why"])
        with pd.option_context("display.max_colwidth", None, "display.max_rows", None):
            display(points.rename(columns={"word": "verdict", "why": "what decides"}).set_index("claim"))


def _of(row: Row, column: Column) -> Any:
    return column(row) if callable(column) else row[column]
