"""What cells of notebooks share: a job under a progress bar, a stored measurement beside it, a figure with its words.

Imported first of all modules of this project (see isort in pyproject.toml), it spares the notebook a warning of tqdm's.
"""

from __future__ import annotations

import json
import warnings
from collections.abc import Generator
from io import BytesIO
from pathlib import Path
from typing import Any

import tqdm
from IPython.display import Image, Markdown, clear_output, display
from matplotlib.figure import Figure

from ouro.progress import drive
from ouro.types import Progress, Report

with warnings.catch_warnings():
    # other packages ask for the bar of widgets, which complains once where there are none
    warnings.simplefilter("ignore", tqdm.TqdmWarning)
    import tqdm.auto

RESULTS = Path(__file__).resolve().parents[2] / "results"
"""Measurements that were taken once and are kept with the source, one file per run and device."""
DPI = 110


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
            f"no stored measurement {name!r} in results/ beside the package; "
            + (f"known: {known}" if known else "that folder comes with a checkout, not with an installed package")
        )
    return json.loads(path.read_text("utf-8"))


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
