"""Outlier channels over time steps: a heat map, how many there are at each step, and the channels that stand out.

Takes the report of `ouro.jobs.outliers`. Source of the form: OuroMamba (arXiv 2503.10959), figure on dynamic outliers.
"""

from __future__ import annotations

import numpy as np
import plotly.graph_objects as go
from matplotlib.colors import ListedColormap, LogNorm
from matplotlib.figure import Figure
from plotly.subplots import make_subplots

from ouro.types import Report

_DYNAMIC, _STATIC, _INK = "#d55e00", "#0072b2", "#444444"


def screen(report: Report) -> go.Figure:
    """Plotly: |x| by step and channel with the dynamic list on top, the share per step below, top channels beside."""
    size, lists, static = _arrays(report)
    share, peaks = 100 * lists.mean(1), size.max(0)
    top = report.values["top_channels"]
    figure = make_subplots(
        rows=2, cols=2, column_widths=[0.82, 0.18], row_heights=[0.72, 0.28], shared_xaxes="columns",
        horizontal_spacing=0.13, vertical_spacing=0.08, specs=[[{}, {"rowspan": 2}], [{}, None]],
    )  # fmt: skip
    figure.add_heatmap(
        z=_log(size).T, customdata=size.T, colorscale="Cividis", row=1, col=1,
        colorbar={"title": "log₁₀ |x|", "len": 0.68, "y": 0.67, "x": 0.72, "thickness": 10},
        hovertemplate="step %{x}, channel %{y}<br>|x| = %{customdata:.4g}<extra></extra>",
    )  # fmt: skip
    figure.add_heatmap(
        z=np.where(lists.T, 1.0, np.nan), colorscale=[[0, _DYNAMIC], [1, _DYNAMIC]], opacity=0.6, showscale=False,
        hoverinfo="skip", row=1, col=1,
    )  # fmt: skip
    listed = np.flatnonzero(static)
    figure.add_scatter(
        x=np.full(len(listed), -1), y=listed, mode="markers", name="static list", row=1, col=1,
        marker={"symbol": "triangle-right", "color": _STATIC, "size": 8},
        hovertemplate="channel %{y}: in the static list<extra></extra>",
    )  # fmt: skip
    figure.add_scatter(
        y=share, mode="lines", line={"color": _DYNAMIC, "shape": "hv"}, name="dynamic list", row=2, col=1,
        hovertemplate="step %{x}: %{y:.1f} % of the channels<extra></extra>",
    )  # fmt: skip
    figure.add_bar(
        x=peaks[top], y=[str(channel) for channel in top], orientation="h", showlegend=False, row=1, col=2,
        marker={"color": [_STATIC if static[channel] else _DYNAMIC for channel in top]},
        hovertemplate="channel %{y}: max |x| = %{x:.4g}<extra></extra>",
    )  # fmt: skip
    figure.update_xaxes(title="time step", row=2, col=1)
    # room for the marks of the static list, and none beside the map
    figure.update_xaxes(range=[-3, len(size) - 0.5], row=1, col=1)
    figure.update_yaxes(title="channel", range=[-0.5, size.shape[1] - 0.5], row=1, col=1)
    figure.update_yaxes(title="listed, %", rangemode="tozero", row=2, col=1)
    figure.update_xaxes(title="max |x| of the top channels", row=1, col=2)
    figure.update_yaxes(type="category", autorange="reversed", row=1, col=2)
    figure.update_layout(
        title=_title(report),
        template="plotly_white",
        legend={"orientation": "h", "y": -0.14},
        margin={"l": 60, "r": 20, "t": 60, "b": 60},
    )
    return figure


def paper(report: Report) -> Figure:
    """Matplotlib: the same three panels for print."""
    size, lists, static = _arrays(report)
    top = report.values["top_channels"]
    figure = Figure(figsize=(7.2, 4.2), layout="constrained")
    axes = figure.subplot_mosaic([["map", "top"], ["share", "top"]], width_ratios=[3.4, 1], height_ratios=[2.6, 1])
    floor = _floor(size)
    image = axes["map"].imshow(
        np.maximum(size, floor).T, norm=LogNorm(floor, max(size.max(), 10 * floor)), cmap="cividis", aspect="auto",
        origin="lower", interpolation="nearest",
    )  # fmt: skip
    mask = np.ma.masked_equal(lists.T, 0)
    axes["map"].imshow(mask, cmap=ListedColormap([_DYNAMIC]), alpha=0.6, aspect="auto", origin="lower",
                       interpolation="nearest")  # fmt: skip
    listed = np.flatnonzero(static)
    axes["map"].plot(np.full(len(listed), -2), listed, ">", color=_STATIC, ms=4)
    axes["map"].set(ylabel="channel", title=_title(report), xlim=(-4, len(size) - 0.5))
    axes["map"].title.set_fontsize(9)
    figure.colorbar(image, ax=axes["map"], label="|x|", pad=0.01)
    axes["share"].step(range(len(lists)), 100 * lists.mean(1), where="post", color=_DYNAMIC, lw=1)
    axes["share"].set(xlabel="time step", ylabel="listed, %", ylim=(0, None), xlim=(-4, len(lists) - 0.5))
    colors = [_STATIC if static[channel] else _DYNAMIC for channel in top]
    axes["top"].barh(range(len(top)), size.max(0)[top], color=colors)
    axes["top"].set_yticks(range(len(top)), [str(channel) for channel in top], fontsize=7)
    axes["top"].invert_yaxis()
    axes["top"].set(xlabel="max |x|", title="top channels")
    axes["top"].title.set_fontsize(9)
    return figure


def alt(report: Report) -> str:
    """The figure in one or two sentences."""
    values = report.values
    text = (
        f"{values['steps']} time steps by {values['channels']} channels of {values['path']}: "
        f"{100 * values['share_dynamic']:.1f} % are on the dynamic outlier list"
    )
    missed = values["missed_by_static"]
    return text + ("." if missed is None else f"; a static list misses {100 * missed:.0f} % of the outliers.")


def table(report: Report) -> tuple[list[str], list[list[float]]]:
    """Header and one row per time step, for CSV."""
    size, lists, _ = _arrays(report)
    raw, bound = report.arrays["raw"].numpy(), report.arrays["threshold"].numpy()
    rows = zip(size.max(1), bound, raw.sum(1), lists.sum(1), strict=True)
    header = ["step", "max_abs", "threshold", "outliers", "listed"]
    return header, [[step, *map(float, row)] for step, row in enumerate(rows)]


def _arrays(report: Report) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    size, lists, static = (report.arrays[name].numpy() for name in ("magnitude", "dynamic", "static"))
    return size, lists, static


def _floor(size: np.ndarray) -> float:
    """What zeros and nearly zeros are drawn as on a logarithmic scale."""
    return max(float(size.max()) * 1e-4, 1e-12)


def _log(size: np.ndarray) -> np.ndarray:
    return np.log10(np.maximum(size, _floor(size)))


def _title(report: Report) -> str:
    values = report.values
    missed = values["missed_by_static"]
    tail = "" if missed is None else f", a static list misses {100 * missed:.0f} %"
    return f"{values['model']}, {values['path']}: {100 * values['share_dynamic']:.1f} % listed{tail}"
