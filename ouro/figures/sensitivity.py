"""What rounding single sites costs: a map of blocks and kinds of sites, and what adds up site after site.

Takes the `values` of a report of `ouro.jobs.sensitivity`, as they come from a run or from a stored file: the map needs
damages of sites alone (modes isolated and cumulative), the curve the mode cumulative.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
import plotly.graph_objects as go
from matplotlib.colors import LogNorm
from matplotlib.figure import Figure
from plotly.subplots import make_subplots

from ouro.metrics import METRICS, damaged

_KL, _SCORE = "#0072b2", "#d55e00"
_COLUMNS = ("name", "block", "kind", "sites", "bits", "kl", "{}_drop", "sqnr_db", "isolated_kl")
"""With the place of the score's name."""

Values = Mapping[str, Any]


def screen(values: Values) -> go.Figure:
    """Plotly: KL of every site alone on a logarithmic scale, kinds over blocks; blank where there is no damage.

    Raises:
        ValueError: no rows, or none that were measured alone.
    """
    blocks, kinds, damage = _grid(values)
    figure = go.Figure()
    figure.add_heatmap(
        x=blocks, y=kinds, z=np.log10(damage), customdata=damage, colorscale="Cividis",
        colorbar={"title": "log₁₀ KL"}, hovertemplate="%{x}, %{y}: KL %{customdata:.3g}<extra></extra>",
    )  # fmt: skip
    figure.update_layout(title=_title(values), template="plotly_white", xaxis={"type": "category"},
                         yaxis={"type": "category", "autorange": "reversed", "automargin": True})  # fmt: skip
    return figure


def paper(values: Values) -> Figure:
    """Matplotlib: the same map for print.

    Raises:
        ValueError: as `screen`.
    """
    blocks, kinds, damage = _grid(values)
    figure = Figure(figsize=(0.45 * len(blocks) + 3.4, 0.24 * len(kinds) + 1.4), layout="constrained")
    axes = figure.subplots()
    image = axes.imshow(np.ma.masked_invalid(damage), norm=LogNorm(*_ends(damage)), cmap="cividis", aspect="auto")
    axes.set_xticks(range(len(blocks)), blocks, rotation=45, ha="right", fontsize=7)
    axes.set_yticks(range(len(kinds)), kinds, fontsize=7)
    axes.set_title(_title(values), fontsize=9)
    figure.colorbar(image, ax=axes, label="KL, nats")
    return figure


def screen_curve(values: Values) -> go.Figure:
    """Plotly: KL (logarithmic) and the score while one row after the other is rounded, most harmless first.

    Raises:
        ValueError: no rows, or another mode than cumulative.
    """
    steps, kl, scores = _curve(values)
    metric = METRICS[damaged(values)]
    names = [row["name"] for row in values["rows"]]
    figure = make_subplots(specs=[[{"secondary_y": True}]])
    figure.add_scatter(
        x=steps, y=kl, name="KL", mode="lines+markers", line={"color": _KL}, customdata=names,
        hovertemplate="%{x}: with %{customdata}<br>KL %{y:.3g}<extra></extra>",
    )  # fmt: skip
    figure.update_yaxes(title="KL, nats", type="log", secondary_y=False)
    if scores:
        figure.add_scatter(
            x=steps, y=scores, name=metric.title, mode="lines", line={"color": _SCORE, "dash": "dash"}, secondary_y=True,
            hovertemplate=f"%{{x}}: {metric.title} %{{y:.1f}} %<extra></extra>",
        )  # fmt: skip
        figure.update_yaxes(title=metric.axis, range=[0, 102], showgrid=False, secondary_y=True)
    figure.update_layout(title=_title(values), template="plotly_white", xaxis={"title": _counted(values)},
                         legend={"orientation": "h", "y": -0.2})  # fmt: skip
    return figure


def alt(values: Values) -> str:
    """The figures in one or two sentences."""
    rows = [row for row in values["rows"] if row["isolated_kl"] is not None] or values["rows"]
    alone = "alone" if rows[0]["isolated_kl"] is not None else "left out"
    key = "isolated_kl" if alone == "alone" else "kl"
    most, least = max(rows, key=lambda row: row[key]), min(rows, key=lambda row: row[key])
    whole, name, score = values["whole"], damaged(values), ""
    if (exact := values[f"fp_{name}"]) is not None:
        metric = METRICS[name]
        score = f", {metric.title} {metric.shown(exact - whole[f'{name}_drop'])} of {metric.shown(exact)}"
    return (
        f"{len(rows)} row(s) of {values['model']} at {values['bits']} {alone}: KL from {least[key]:.2g} ({least['name']}) "
        f"to {most[key]:.2g} ({most['name']}). All rounded: KL {whole['kl']:.2g}{score}."
    )


def table(values: Values) -> tuple[list[str], list[list[Any]]]:
    """Header and one row per site or group, for CSV; several widths are joined by spaces."""
    rows = [{**row, "bits": " ".join(map(str, row["bits"]))} for row in values["rows"]]
    columns = [column.format(damaged(values)) for column in _COLUMNS]
    return columns, [[row[column] for column in columns] for row in rows]


def _grid(values: Values) -> tuple[list[str], list[str], np.ndarray]:
    """Blocks, kinds, and the KL [kinds blocks] alone; NaN where there is no such site or no damage."""
    rows = _rows(values)
    if any(row["isolated_kl"] is None for row in rows):
        raise ValueError(
            f"mode {values['mode']!r} does not measure sites alone; draw one that was isolated or cumulative"
        )
    blocks = sorted({row["block"] for row in rows}, key=_place)
    kinds = sorted({row["kind"] for row in rows})
    damage = np.full((len(kinds), len(blocks)), np.nan)
    for row in rows:
        if row["isolated_kl"] > 0:
            damage[kinds.index(row["kind"]), blocks.index(row["block"])] = row["isolated_kl"]
    return blocks, kinds, damage


def _place(block: str) -> tuple[int, list[tuple[int, str]]]:
    """The stem, blocks by the numbers in their path, the head."""
    rank = {"stem": 0, "head": 2}.get(block, 1)
    return rank, [(int(part), "") if part.isdecimal() else (-1, part) for part in block.split(".")]


def _curve(values: Values) -> tuple[list[int], list[float], list[float]]:
    """Rows rounded so far, KL (NaN for none: a logarithmic axis has no place for it), the score, shares in percent, if known."""
    rows = _rows(values)
    if values["mode"] != "cumulative":
        raise ValueError(f"mode {values['mode']!r} rounds no row after another; draw one that was cumulative")
    kl = [row["kl"] if row["kl"] > 0 else np.nan for row in rows]
    name = damaged(values)
    exact, factor = values[f"fp_{name}"], METRICS[name].factor
    scores = [] if exact is None else [factor * (exact - row[f"{name}_drop"]) for row in rows]
    return list(range(1, len(rows) + 1)), kl, scores


def _rows(values: Values) -> list[Mapping[str, Any]]:
    if not values["rows"]:
        raise ValueError("there is nothing to draw: give a report with at least one site")
    return list(values["rows"])


def _ends(damage: np.ndarray) -> tuple[float, float]:
    """What the colors reach from and to."""
    if np.isnan(damage).all():
        return 0.1, 1.0
    low, high = float(np.nanmin(damage)), float(np.nanmax(damage))
    return low, max(high, 1.001 * low)


def _counted(values: Values) -> str:
    return {"site": "sites", "group": "groups of sites"}[values["by"]] + " rounded, most harmless first"


def _title(values: Values) -> str:
    return (
        f"{values['model']} on {values['data']}, {values['bits']} by {values['method']}, scope {values['scope']}, "
        f"n = {values['n']}"
    )
