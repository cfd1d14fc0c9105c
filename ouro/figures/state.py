"""What rounding the hidden state costs by rule: error of h that is carried on, and what becomes of y.

Takes the `values` of a report of `ouro.jobs.bench.state`, as they come from a run or from a stored file.
Source: the claim of arXiv 2501.16738 that h divided by rank-1 factors is rounded with less error.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import plotly.graph_objects as go
from matplotlib.figure import Figure
from plotly.subplots import make_subplots

from ouro.figures.palette import cycle

RULES = {
    "tensor": "per tensor", "step": "per time step", "shared factors": "per tensor, factors",
    "step factors": "per time step, factors", "searched": "per time step, searched",
    "searched factors": "per time step, factors, searched",
}  # fmt: skip
"""What steps of h are shared by; "factors": h is divided by rank-1 factors first."""
_MEASURES = {"h_error": "||h_q - h|| / ||h||", "y_error": "1 - cos y"}
_COLUMNS = ("model", "bits", "rule", "h_error", "y_error", "layers_better_than_step", "layers")

Values = Mapping[str, Any]


def screen(values: Values) -> go.Figure:
    """Plotly: a bar per rule and width, errors of h on the left, of y on the right on a logarithmic scale.

    Raises:
        ValueError: no means.
    """
    rules, widths = _rules(values)
    figure = make_subplots(rows=1, cols=2, shared_yaxes=True, subplot_titles=list(_MEASURES.values()))
    for column, key in enumerate(_MEASURES, 1):
        for bits, color in zip(widths, cycle(len(widths)), strict=True):
            figure.add_bar(
                x=_errors(values, rules, bits, key), y=[RULES.get(rule, rule) for rule in rules], orientation="h",
                name=f"{bits} bits", marker={"color": color}, showlegend=column == 1, row=1, col=column,
                hovertemplate="%{y}: %{x:.2g}<extra>" + f"{bits} bits</extra>",
            )  # fmt: skip
    figure.update_xaxes(type="log", row=1, col=2)
    figure.update_yaxes(autorange="reversed", automargin=True)
    figure.update_layout(title=_title(values), template="plotly_white", legend={"orientation": "h", "y": -0.15})
    return figure


def paper(values: Values) -> Figure:
    """Matplotlib: the same bars for print.

    Raises:
        ValueError: as `screen`.
    """
    rules, widths = _rules(values)
    figure = Figure(figsize=(7.2, 0.36 * len(rules) + 1.4), layout="constrained")
    axes = figure.subplots(1, 2, sharey=True)
    height = 0.8 / len(widths)
    for axis, (key, label) in zip(axes, _MEASURES.items(), strict=True):
        for place, (bits, color) in enumerate(zip(widths, cycle(len(widths)), strict=True)):
            at = np.arange(len(rules)) + (place - (len(widths) - 1) / 2) * height
            axis.barh(at, _errors(values, rules, bits, key), height, color=color, label=f"{bits} bits")
        axis.set_xlabel(label)
    axes[0].set_yticks(range(len(rules)), [RULES.get(rule, rule) for rule in rules], fontsize=7)
    axes[0].invert_yaxis()
    axes[1].set_xscale("log")
    figure.suptitle(_title(values), fontsize=9)
    figure.legend(*axes[0].get_legend_handles_labels(), fontsize=7, ncols=3, loc="outside lower center")
    return figure


def alt(values: Values) -> str:
    """The figure in a sentence per width."""
    _, widths = _rules(values)
    parts = []
    for bits in widths:
        rows = [row for row in values["means"] if row["bits"] == bits]
        most, least = max(rows, key=lambda row: row["h_error"]), min(rows, key=lambda row: row["h_error"])
        said = [f"{row['h_error']:.3f} ({RULES.get(row['rule'], row['rule'])})" for row in (least, most)]
        parts.append(f"At {bits} bits the error of h goes from {said[0]} to {said[1]}.")
    return f"Rounding the hidden state of {values['model']}. {' '.join(parts)}"


def table(values: Values) -> tuple[list[str], list[list[Any]]]:
    """Header and one row per rule and width, for CSV."""
    rows = [{"model": values["model"], **row} for row in values["means"]]
    return list(_COLUMNS), [[row[column] for column in _COLUMNS] for row in rows]


def _rules(values: Values) -> tuple[list[str], list[int]]:
    """Rules and widths, in order of appearance."""
    if not values["means"]:
        raise ValueError("there is nothing to draw: give a report with at least one rule")
    rules = list(dict.fromkeys(row["rule"] for row in values["means"]))
    return rules, list(dict.fromkeys(row["bits"] for row in values["means"]))


def _errors(values: Values, rules: Sequence[str], bits: int, key: str) -> list[float]:
    errors = {row["rule"]: row[key] for row in values["means"] if row["bits"] == bits}
    return [errors.get(rule, np.nan) for rule in rules]


def _title(values: Values) -> str:
    return f"hidden state of {values['model']}, calibrated on {values['calib']}, n = {values['n']}"
