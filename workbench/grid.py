"""The table of scores: filtered, sorted, grouped and pinned in the browser, from one list of rows.

A row is what `ouro.jobs.evaluate` or `ouro.jobs.agreement` reports, or a row of a file in results/, with an `id`; see
`workbench.stored.accuracies` and `workbench.quantize.compare`.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import PurePath
from typing import Any

import gradio as gr

from ouro.metrics import METRICS, metric_of
from workbench import calib, pack, ways
from workbench.page import headline, interval, percent, score

Row = Mapping[str, Any]

SCOPES = {"lin": "linear layers", "ssm": "and scan inputs", "rec": "and state", "full": "everything"}
"""What is quantized, in the width of a column; each holds those before it."""

_ROUNDED = 8
"""The most bits that a part has that is rounded."""
NONE = "–"
"""What a cell says that knows nothing."""


@dataclass(frozen=True, slots=True)
class Column:
    """key: in the page. quiet: left out while it says the same of all rows. hint: what its numbers are."""

    key: str
    title: str
    number: bool = False
    quiet: bool = False
    hint: str = ""


COLUMNS = (
    Column("model", "Model", quiet=True),
    Column("method", "Method"),
    Column("bits", "Bits", hint="as asked for: weights, activations, outliers"),
    Column("effective", "Effective w / a", True, hint="measured: mean bits of weights and of activations, outliers included"),
    Column("scope", "Scope", hint="what is quantized"),
    Column("calib", "Calibration", hint="what kind of images the method was calibrated on"),
    Column("set", "Set", hint="how many images, or which set"),
    Column("metric", "Metric", quiet=True),
    Column("score", "Score", True),
    Column("ci95", "95 % interval", True, hint="of the images: what as many other images could have given"),
    Column("spread", "± over seeds", True, hint="standard deviation of the runs with other seeds"),
    Column("float", "Float", True, hint="the float model on the same images"),
    Column("agreement", "As float", True, hint="images with the float model's answer"),
    Column("images", "Images", True, hint="held-out images that were measured on"),
    Column("seeds", "Seeds", True, hint="runs that a row is the mean of"),
    Column("details", "Details", hint="what else was set"),
    Column("file", "From", hint="file in results/, or this session"),
)  # fmt: skip
"""Of the table, from left to right; one that knows nothing of any row shown is left out."""

FILTERS = ("model", "method", "bits", "scope", "calib")
GROUPS = ("method", "bits", "calib")


def grid_view(elem_id: str, *, value: str, chart: str) -> gr.HTML:
    """The table; its value is a text made by `grid`. Event `select` carries `pins`, the ids of the rows that were ticked.

    chart: elem_id of a `plot_view` whose points are these rows by their ids: it shows those that the filters leave, and
    a click on a point marks its row.
    """
    return gr.HTML(
        value=value,
        html_template=f'<div class="wb-grid" data-key="{elem_id}" data-chart="{chart}"></div>',
        js_on_load="wb.grid(element, props, trigger, watch); // 'select'",
        apply_default_css=False,
        elem_id=elem_id,
    )


def grid(rows: Sequence[Row], model: str) -> str:
    """The value of a `grid_view`: all rows; those of the model are what is shown first."""
    return pack.text(
        {
            "columns": [
                {"key": one.key, "title": one.title, "number": one.number, "quiet": one.quiet, "hint": one.hint}
                for one in COLUMNS
            ],
            "filters": FILTERS,
            "groups": GROUPS,
            "model": model,
            # words that are sorted by themselves are sent once
            "rows": [
                {
                    "id": row["id"],
                    "own": not row.get("file"),
                    "run": row.get("run", ""),
                    "way": ways.made_by(row),
                    "cells": [said if said == order else [said, order] for said, order in cells(row)],
                }
                for row in rows
            ],
        }
    )


def _spread(metric: str, value: float) -> str:
    # of a few seeds nobody knows more than two digits, or three behind the point
    return METRICS[metric].gap(value).lstrip("+") if METRICS[metric].share else f"{round(value, 3):.2g}"


def texts(row: Row) -> dict[str, str]:
    """The words of `cells`, by column."""
    return {column.key: cell[0] for column, cell in zip(COLUMNS, cells(row), strict=True)}


def cells(row: Row) -> list[list[Any]]:
    """What the table says of a row, column by column: [words, what it is sorted by]."""
    metric, widths = metric_of(row), effective(row)
    measured = row.get(metric) is not None
    spread, low = row.get("spread"), (row.get("ci95") or [None])[0]
    seeds = row.get("seeds", len(row.get("right") or ()) or None)
    told: dict[str, tuple[str, Any] | str] = {
        "model": str(row.get("model", "")),
        "method": str(row.get("method", "")),
        "bits": nominal(row),
        "effective": (NONE, None)
        if widths is None
        else (f"{widths[0]:.2f} / {widths[1]:.2f}", round(sum(widths) / 2, 4)),
        "scope": SCOPES.get(str(row.get("scope")), str(row.get("scope") or NONE)),
        "calib": kind(row),
        "set": calibrated_on(row),
        "metric": headline(metric) if measured else NONE,
        "score": (score(row, named=False), metric_sort(row, metric)),
        "ci95": (interval(row), low),
        # of a single seed there is nothing to spread
        "spread": (NONE, None) if spread is None or seeds == 1 else (_spread(metric, spread), spread),
        "float": (score(row, f"fp_{metric}"), row.get(f"fp_{metric}")),
        "agreement": (percent(row.get("agreement")), row.get("agreement")),
        "images": (str(row.get("n", NONE)), row.get("n")),
        "seeds": (NONE if seeds is None else str(seeds), seeds),
        "details": details(row) or NONE,
        "file": origin(row),
    }
    return [[one, one] if isinstance(one, str) else list(one) for one in (told[column.key] for column in COLUMNS)]


def metric_sort(row: Row, metric: str) -> float | None:
    """The main score such that a larger one is a better one."""
    value = row.get(metric)
    return None if value is None else METRICS[metric].better(value)


def nominal(row: Row) -> str:
    """Bits as they were asked for; of a row whose methods were brought to equal effective bits, those they started from."""
    bits = row.get("bits")
    if isinstance(bits, str):
        return bits
    asked = {setting["bits"] for setting in row.get("settings") or ()}
    return " ".join(sorted(asked)) or NONE


def effective(row: Row) -> tuple[float, float] | None:
    """Mean bits of weights and of activations as measured, None where nobody did.

    A tensor that is kept in floating point is counted by nobody, so that a row with such parts has no mean; channels are.
    """
    if any(rule["bits"] > _ROUNDED and "channels" not in rule for rule in row.get("keep") or ()):
        return None
    known = row.get("effective_bits")
    if known:
        return known["weights"], known["activations"]
    asked = widths(nominal(row))
    if isinstance(row.get("bits"), float) and asked:
        # `ouro.jobs.bench.equal` measures those of activations; weights have what was asked for
        return float(asked[0]), row["bits"]
    # without outliers there is nothing in which they could differ
    return (float(asked[0]), float(asked[1])) if asked and asked[2] is None else None


def widths(bits: str) -> tuple[int, int, int | None] | None:
    """Bits of weights, activations and outliers; None where it is not one spelling, see `ouro.quant.bits`."""
    found = re.fullmatch(r"w(\d+)a(\d+)(?:o(\d+))?(?:h\d+)?", bits)
    return None if found is None else (int(found[1]), int(found[2]), int(found[3]) if found[3] else None)


def kind(row: Row) -> str:
    """What kind of images a row's method was calibrated on: real, noise, synthetic, or pictures of one's own."""
    words = str(row.get("calib") or "").partition(":")[0]
    if words == "folder":
        return "own pictures"
    return words if words in ("real", "noise", "synthetic") else "synthetic" if words else NONE


def calibrated_on(row: Row) -> str:
    """How many images that was, or which set."""
    spelled = str(row.get("set") or row.get("calib") or "")
    head, _, count = spelled.partition(":")
    if head in ("real", "noise", "synthetic"):
        return f"{count} images" if count else NONE
    if head == "folder":
        return calib.short_name(spelled)
    # a file is called by its name, a set of this machine by its words
    return PurePath(spelled).stem if spelled.endswith(".safetensors") else spelled or NONE


def details(row: Row) -> str:
    """What else tells a row from others: options of the method, and what the file that it is from varies."""
    told = [f"{name.replace('_', ' ')} {value}" for name, value in dict(row.get("options") or {}).items()]
    for rule in row.get("keep") or ():
        width = f"{rule['bits']} bits" if rule["bits"] <= _ROUNDED else "float"
        few = shortened(", ".join(map(str, rule.get("channels", ()))), 20)
        told.append(
            f"{width}: {f'channels {few} of ' if few else ''}{shortened(rule['sites'])} ({rule['count']} sites)"
        )
    if "factor" in row:
        told.append(f"ranges × {row['factor']:g}")
    if "target" in row:
        told.append(f"target {row['target']:g} bits")
    if row.get("wide_A"):
        told.append("A in 8 bits")
    # of the only seed there is; several are counted in a column of their own
    if not row.get("file") and row.get("seed"):
        told.append(f"seed {row['seed']}")
    return ", ".join(told)


def shortened(text: str, most: int = 34) -> str:
    """The text, or what of it fits."""
    return text if len(text) <= most else f"{text[: most - 1]}…"


def origin(row: Row) -> str:
    """Where a row is from."""
    return str(row["file"]).removesuffix(".json") if row.get("file") else f"this session, {row['id']}"
