"""An ablation: top-1 by variant, mean and spread over seeds, and the claims of the paper beside what was seen.

Takes one of the `studies` in a report of `ouro.jobs.bench.ablation`.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import plotly.graph_objects as go
from matplotlib.figure import Figure

from ouro.figures.palette import cycle

Study = Mapping[str, Any]


def screen(study: Study) -> go.Figure:
    """Plotly: a line of points per measure over the variants, bars of one standard deviation.

    Raises:
        ValueError: no rows.
    """
    labels, series = _series(study)
    figure = go.Figure()
    for (name, (means, spreads)), color in zip(series.items(), cycle(len(series)), strict=True):
        figure.add_scatter(
            x=labels, y=means, name=name, mode="lines+markers", line={"color": color},
            error_y={"type": "data", "array": spreads, "thickness": 1.2},
            hovertemplate="%{x}: %{y:.1f} %<extra>" + name + "</extra>",
        )  # fmt: skip
    figure.update_layout(title=_title(study), template="plotly_white", yaxis={"title": "top-1, %"},
                         xaxis={"type": "category"}, legend={"orientation": "h", "y": -0.2})  # fmt: skip
    return figure


def paper(study: Study) -> Figure:
    """Matplotlib: the same for print.

    Raises:
        ValueError: no rows.
    """
    labels, series = _series(study)
    figure = Figure(figsize=(max(3.6, 0.8 * len(labels)), 3), layout="constrained")
    axes = figure.subplots()
    for (name, (means, spreads)), color in zip(series.items(), cycle(len(series)), strict=True):
        axes.errorbar(labels, means, spreads, fmt="o-", ms=3, lw=1, capsize=2, label=name,
                      color=color)  # fmt: skip
    axes.set_ylabel("top-1, %")
    axes.tick_params(axis="x", labelrotation=20, labelsize=7)
    axes.set_title(_title(study), fontsize=9)
    figure.legend(fontsize=7, ncols=3, loc="outside lower center")
    return figure


def alt(study: Study) -> str:
    """What was seen of the paper's claims, in a sentence per measure."""
    parts = []
    for name in dict.fromkeys(claim["measure"] for claim in study["claims"]):
        claims = [claim for claim in study["claims"] if claim["measure"] == name]
        verdicts = [f"{claim['better']} over {claim['worse']}: {claim['seen']}" for claim in claims]
        parts.append(f"{name}: {'; '.join(verdicts)}")
    return f"{study['title']} on {study['model']}. {'. '.join(parts)}."


def table(study: Study) -> tuple[list[str], list[list[Any]]]:
    """Header and one row per variant, for CSV."""
    names = list(study["rows"][0]["top1"]) if study["rows"] else []
    head = ["study", "model", "label", "num", *(f"{name} {part}" for name in names for part in ("mean", "spread"))]
    rows = [
        [
            study["study"],
            study["model"],
            row["label"],
            row["num"],
            *(row["top1"][name][part] for name in names for part in ("mean", "spread")),
        ]
        for row in study["rows"]
    ]
    return head, rows


def _series(study: Study) -> tuple[list[str], dict[str, tuple[list[float], list[float]]]]:
    """Labels, and measure -> (means, spreads) in percent."""
    rows = study["rows"]
    if not rows:
        raise ValueError("there is nothing to draw: give a study with at least one row")
    series = {}
    for name in rows[0]["top1"]:
        cells = [row["top1"][name] for row in rows]
        series[name] = ([100 * cell["mean"] for cell in cells], [100 * cell["spread"] for cell in cells])
    return [row["label"] for row in rows], series


def _title(study: Study) -> str:
    return f"{study['title']} ({study['source']}), {study['model']}, n = {study['n']}"
