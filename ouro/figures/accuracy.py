"""Scores of quantized models as bars with their intervals, by bits, method and calibration set.

Takes the `values` of reports of `ouro.jobs.evaluate`, as they come from a run or from a stored file; the score is the one
that their `metric` names, top-1 where they name none.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import plotly.graph_objects as go
from matplotlib.figure import Figure

from ouro.figures.palette import cycle
from ouro.metrics import METRICS, metric_of

_COLUMNS = ("model", "data", "scope", "bits", "method", "calib", "n")

Row = Mapping[str, Any]


def screen(rows: Sequence[Row]) -> go.Figure:
    """Plotly: a group of bars per bit width, a bar per method and calibration set, a dotted line for the float model.

    Raises:
        ValueError: no rows, or rows of more than one model, data set, scope or metric.
    """
    bits, series = _series(rows)
    metric, figure = METRICS[metric_of(rows[0])], go.Figure()
    unit = " %" if metric.share else ""
    for (name, cells), color in zip(series.items(), cycle(len(series)), strict=True):
        scores, below, above = _heights(cells, bits)
        figure.add_bar(
            x=bits, y=scores, name=name, marker={"color": color},
            error_y={"type": "data", "symmetric": False, "array": above, "arrayminus": below, "thickness": 1.2},
            customdata=[cells[b]["n"] if b in cells else None for b in bits],
            hovertemplate=f"%{{x}}, {name}: %{{y:.1f}}{unit} of %{{customdata}}<extra></extra>",
        )  # fmt: skip
    figure.add_hline(y=_float(rows), line={"dash": "dot", "color": "#444444"}, annotation_text="float")
    figure.update_layout(
        barmode="group", title=_title(rows), template="plotly_white", yaxis={"title": metric.axis, "range": _range(rows)},
        legend={"orientation": "h", "y": -0.15},
    )  # fmt: skip
    return figure


def paper(rows: Sequence[Row]) -> Figure:
    """Matplotlib: the same bars for print.

    Raises:
        ValueError: as `screen`.
    """
    bits, series = _series(rows)
    figure = Figure(figsize=(max(4.0, 0.35 * len(bits) * len(series) + 2), 3.2), layout="constrained")
    axes = figure.subplots()
    width = 0.8 / len(series)
    for place, ((name, cells), color) in enumerate(zip(series.items(), cycle(len(series)), strict=True)):
        scores, below, above = _heights(cells, bits)
        at = np.arange(len(bits)) + (place - (len(series) - 1) / 2) * width
        axes.bar(at, scores, width, label=name, color=color, yerr=[below, above], capsize=2, error_kw={"lw": 0.8})
    axes.axhline(_float(rows), ls=":", color="#444444", lw=1, label="float")
    axes.set_xticks(range(len(bits)), bits)
    axes.set(
        ylabel=METRICS[metric_of(rows[0])].axis, ylim=_range(rows), xlim=(-0.5, len(bits) - 0.5), title=_title(rows)
    )
    axes.title.set_fontsize(9)
    figure.legend(fontsize=7, ncols=3, loc="outside lower center")
    return figure


def alt(rows: Sequence[Row]) -> str:
    """The figure in one sentence."""
    name = metric_of(rows[0])
    metric = METRICS[name]
    ranked = sorted(rows, key=lambda row: metric.better(row[name]))
    said = [f"{row['method']} at {row['bits']} with {metric.shown(row[name])}" for row in (ranked[-1], ranked[0])]
    exact = metric.shown(_float(rows) / metric.factor)
    title = metric.title[0].upper() + metric.title[1:] if metric.title.islower() else metric.title
    return f"{title} of {len(rows)} quantized models: best {said[0]}, worst {said[1]}; float {exact}."


def table(rows: Sequence[Row]) -> tuple[list[str], list[list[Any]]]:
    """Header and one row per bar, for CSV."""
    name = metric_of(rows[0]) if rows else "top1"
    columns = [*_COLUMNS, name, "ci95", f"fp_{name}"]
    return columns, [[row.get(column) for column in columns] for row in rows]


def _series(rows: Sequence[Row]) -> tuple[list[str], dict[str, dict[str, Row]]]:
    """Bit widths in order of appearance, and per method and calibration set its row at each of them."""
    if not rows:
        raise ValueError("there is nothing to draw: give at least one evaluated model")
    for key in ("model", "data", "scope", "metric"):
        values = sorted({metric_of(row) if key == "metric" else str(row[key]) for row in rows})
        if len(values) > 1:
            raise ValueError(f"these rows differ in {key} ({', '.join(values)}); draw a figure for each")
    sets = {row.get("calib") for row in rows}
    series: dict[str, dict[str, Row]] = {}
    groups = []
    for row in rows:
        # w4a4 and w4a4o8 stand side by side, the outliers' width goes into the name
        group, _, outliers = row["bits"].partition("o")
        name = f"{row['method']} o{outliers}" if outliers else row["method"]
        groups.append(group)
        series.setdefault(name if len(sets) == 1 else f"{name}, {row.get('calib')}", {})[group] = row
    return list(dict.fromkeys(groups)), series


def _heights(cells: Mapping[str, Row], bits: Sequence[str]) -> tuple[list[float], list[float], list[float]]:
    """Per bit width: the bar, shares in percent, and how far its interval reaches below and above; NaN where there is none."""
    name = metric_of(next(iter(cells.values())))
    nothing = {name: np.nan, "ci95": (np.nan, np.nan)}
    rows, factor = [cells.get(width, nothing) for width in bits], METRICS[name].factor
    return (
        [factor * row[name] for row in rows],
        [factor * (row[name] - row["ci95"][0]) for row in rows],
        [factor * (row["ci95"][1] - row[name]) for row in rows],
    )


def _range(rows: Sequence[Row]) -> list[float] | None:
    """Of the axis: all of 0 to 100 % for shares, else from 0 to a little above the tallest interval."""
    if METRICS[metric_of(rows[0])].share:
        return [0, 102]
    return [0, 1.08 * max(_float(rows), *(row["ci95"][1] for row in rows))]


def _float(rows: Sequence[Row]) -> float:
    name = metric_of(rows[0])
    return METRICS[name].factor * float(np.mean([row[f"fp_{name}"] for row in rows]))


def _title(rows: Sequence[Row]) -> str:
    row = rows[0]
    least, most = min(row["n"] for row in rows), max(row["n"] for row in rows)
    n = f"{least}" if least == most else f"{least} to {most}"
    return f"{row['model']} on {row['data']}, scope {row['scope']}, n = {n}"
