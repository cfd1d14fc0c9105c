"""Times of one benchmark as bars with percentiles; nothing is drawn whose gate did not pass.

Takes the `values` of a report of `ouro bench scan | model | alpha | packed`, as they come from a run or from a stored file.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import plotly.graph_objects as go
from matplotlib.figure import Figure

from ouro.figures.palette import cycle

_COLUMNS = ("op", "case", "backend", "p20_ms", "p50_ms", "p80_ms", "ratio")

Values = Mapping[str, Any]


def screen(values: Values) -> go.Figure:
    """Plotly: a bar per row up to the median, on a logarithmic scale, with the 20th and the 80th percentile.

    Raises:
        ValueError: no rows, or a gate that did not pass.
    """
    labels, medians, below, above, colors = _bars(values)
    figure = go.Figure()
    figure.add_bar(
        x=medians, y=[label.replace("\n", "<br>") for label in labels], orientation="h", marker={"color": colors},
        error_x={"type": "data", "symmetric": False, "array": above, "arrayminus": below, "thickness": 1.2},
        hovertemplate="%{y}: %{x:.3g} ms<extra></extra>",
    )  # fmt: skip
    figure.update_xaxes(type="log", title="ms")
    figure.update_yaxes(autorange="reversed", automargin=True)
    figure.update_layout(title=_title(values), template="plotly_white")
    return figure


def paper(values: Values) -> Figure:
    """Matplotlib: the same bars for print.

    Raises:
        ValueError: as `screen`.
    """
    labels, medians, below, above, colors = _bars(values)
    figure = Figure(figsize=(7.2, 0.3 * len(labels) + 1), layout="constrained")
    axes = figure.subplots()
    axes.barh(range(len(labels)), medians, 0.7, xerr=[below, above], color=colors, capsize=2, error_kw={"lw": 0.8})
    axes.set_yticks(range(len(labels)), labels, fontsize=7)
    axes.invert_yaxis()
    axes.set(xscale="log", xlabel="ms")
    axes.set_title(_title(values), fontsize=9)
    return figure


def alt(values: Values) -> str:
    """The figure in a sentence per operation."""
    _bars(values)
    parts = []
    for op, case in dict.fromkeys((row["op"], row["case"]) for row in values["rows"]):
        shown = [row for row in values["rows"] if (row["op"], row["case"]) == (op, case)]
        times = ", ".join(f"{row['backend']} {row['p50_ms']:.3g} ms" for row in shown)
        parts.append(f"{op}, {case}: {times}.")
    return f"Median times on {values['device']}. {' '.join(parts)}"


def table(values: Values) -> tuple[list[str], list[list[Any]]]:
    """Header and one row per bar, for CSV."""
    return list(_COLUMNS), [[row.get(column) for column in _COLUMNS] for row in values["rows"]]


def _bars(values: Values) -> tuple[list[str], list[float], list[float], list[float], list[str]]:
    """Labels, medians, how far percentiles reach below and above, and the color of the backend."""
    rows = values["rows"]
    if not rows:
        raise ValueError("there is nothing to draw: give a benchmark that timed something")
    failed = [row["case"] for row in rows if row.get("gate", "passed") != "passed"]
    if failed or not values["gate"]["passed"]:
        raise ValueError(f"the gate did not pass ({', '.join(failed) or values['op']}); its times mean nothing")
    backends = list(dict.fromkeys(row["backend"] for row in rows))
    colors = dict(zip(backends, cycle(len(backends)), strict=True))
    return (
        [f"{row['op']}, {row['case']}\n{row['backend']}" for row in rows],
        [row["p50_ms"] for row in rows],
        [row["p50_ms"] - row["p20_ms"] for row in rows],
        [row["p80_ms"] - row["p50_ms"] for row in rows],
        [colors[row["backend"]] for row in rows],
    )


def _title(values: Values) -> str:
    return f"{values['op']} on {values['device']}"
