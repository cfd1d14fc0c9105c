"""Implicit attention of one image for h and h_p, and AUROC of every layer and reduction side by side.

Takes the report of `ouro.jobs.explain`. Source of the form: OuroMamba (arXiv 2503.10959), figure 1.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
import plotly.graph_objects as go
from matplotlib.figure import Figure
from plotly.subplots import make_subplots

from ouro.types import Report

_NAMES = {"h": "h", "h_p": "h<sub>p</sub>"}
_MATH = {"h": "$h$", "h_p": "$h_p$"}
_INK, _OUTLINE = "#333333", "#e69f00"
_COLUMNS = (
    "layer", "direction", "source", "reduction", "auroc", "auroc_lo", "auroc_hi", "pointing", "pointing_lo",
    "pointing_hi", "leakage",
)  # fmt: skip


def attention_plotly(
    report: Report,
    *,
    layer: int | None = None,
    direction: str = "both",
    reduction: str = "received",
    query: int | None = None,
) -> go.Figure:
    """Plotly: input, h, h_p and their difference. Maps are in multiples of their mean; the line is the object.

    Args:
        layer: the chosen one of the report by default.
        query: a patch; shows what it attends to, in the chosen layer, instead of a reduction.

    Raises:
        ValueError: the report holds no such map.
    """
    h, h_p = _maps(report, layer, direction, reduction, query)
    place = _place(report, layer, direction, reduction, query)
    scores = {} if query is not None else _scores(report, layer, direction, reduction)
    titles = ["input", *(_NAMES[name] + _note(scores, name) for name in _NAMES), f"{_NAMES['h_p']} − {_NAMES['h']}"]
    figure = make_subplots(
        rows=1, cols=5, subplot_titles=titles, horizontal_spacing=0.015, column_widths=[1, 1, 1, 0.25, 1],
        specs=[[{}, {}, {}, None, {}]],
    )  # fmt: skip
    image = report.arrays["image"].permute(1, 2, 0).numpy()
    figure.add_trace(go.Image(z=image, hoverinfo="skip"), row=1, col=1)
    top, reach = max(h.max(), h_p.max()), max(abs(h_p - h).max(), 1e-12)
    for column, values in ((2, h), (3, h_p)):
        figure.add_heatmap(
            z=values, zmin=min(0.0, h.min(), h_p.min()), zmax=top, colorscale="Viridis", row=1, col=column,
            showscale=column == 2, colorbar=_bar("× mean", 0.715),
            hovertemplate="row %{y}, column %{x}: %{z:.2f} × mean<extra></extra>",
        )  # fmt: skip
    figure.add_heatmap(
        z=h_p - h, zmin=-reach, zmax=reach, colorscale="RdBu", row=1, col=5, colorbar=_bar("difference", 1.005),
        hovertemplate="row %{y}, column %{x}: %{z:+.2f}<extra></extra>",
    )  # fmt: skip
    outline = _outline(report, h.shape)
    if outline is not None:
        x, y, mask = outline
        for column in (2, 3, 5):
            figure.add_contour(
                x=x, y=y, z=mask, contours={"start": 0.5, "end": 0.5, "size": 1, "coloring": "none"},
                line={"color": _OUTLINE, "width": 2}, showscale=False, showlegend=False, hoverinfo="skip", row=1, col=column,
            )  # fmt: skip
    if query is not None:
        row, column = divmod(query, h.shape[1])
        for panel in (2, 3, 5):
            figure.add_scatter(
                x=[column], y=[row], mode="markers", hoverinfo="skip", showlegend=False, row=1, col=panel,
                marker={"symbol": "square-open", "size": 12, "color": _OUTLINE, "line": {"width": 2}},
            )  # fmt: skip
    figure.update_xaxes(visible=False, constrain="domain")
    for panel in range(1, 5):
        axis = "" if panel == 1 else str(panel)
        figure.layout[f"yaxis{axis}"].update(visible=False, scaleanchor=f"x{axis}", autorange="reversed")
    figure.update_layout(
        title=place, height=330, margin={"l": 10, "r": 70, "t": 80, "b": 10}, font={"size": 13, "color": _INK}
    )
    return figure


def attention_matplotlib(
    report: Report,
    *,
    layer: int | None = None,
    direction: str = "both",
    reduction: str = "received",
    query: int | None = None,
) -> Figure:
    """Matplotlib: the same four panels for print.

    Raises:
        ValueError: as `attention_plotly`.
    """
    h, h_p = _maps(report, layer, direction, reduction, query)
    scores = {} if query is not None else _scores(report, layer, direction, reduction)
    figure = Figure(figsize=(8.6, 2.7), layout="constrained")
    axes = figure.subplots(1, 4)
    axes[0].imshow(report.arrays["image"].permute(1, 2, 0).numpy(), interpolation="nearest")
    axes[0].set_title("input")
    bounds = {"vmin": min(0.0, h.min(), h_p.min()), "vmax": max(h.max(), h_p.max())}
    for panel, name, values in ((axes[1], "h", h), (axes[2], "h_p", h_p)):
        shown = panel.imshow(values, cmap="viridis", interpolation="nearest", **bounds)
        panel.set_title(_MATH[name] + _note(scores, name))
    _ruler(figure, shown, axes[2], "× mean")
    reach = max(abs(h_p - h).max(), 1e-12)
    shown = axes[3].imshow(h_p - h, cmap="RdBu", vmin=-reach, vmax=reach, interpolation="nearest")
    axes[3].set_title(f"{_MATH['h_p']} − {_MATH['h']}")
    _ruler(figure, shown, axes[3], "difference")
    outline = _outline(report, h.shape)
    for panel in axes[1:]:
        if outline is not None:
            panel.contour(*outline, levels=[0.5], colors=_OUTLINE, linewidths=1.2)
        if query is not None:
            row, column = divmod(query, h.shape[1])
            panel.plot(column, row, "s", mfc="none", mec=_OUTLINE, mew=1.5, ms=6)
    for panel in axes:
        panel.title.set_fontsize(9)
        panel.set_axis_off()
    figure.suptitle(_place(report, layer, direction, reduction, query), fontsize=9)
    return figure


def scores_plotly(report: Report, *, direction: str = "both") -> go.Figure:
    """Plotly: AUROC by layer and reduction, h and h_p side by side; white is chance.

    Raises:
        ValueError: the report has no scores of that direction.
    """
    layers, grids = _grids(report, direction)
    reach = _reach(grids)
    figure = make_subplots(rows=1, cols=2, subplot_titles=[_NAMES[name] for name in grids], horizontal_spacing=0.1)
    for column, (reductions, values) in enumerate(grids.values(), 1):
        figure.add_heatmap(
            z=values, x=reductions, y=layers, zmin=0.5 - reach, zmax=0.5 + reach, colorscale="RdBu", row=1, col=column,
            xgap=2, ygap=2, showscale=column == 2, colorbar=_bar("AUROC", 1.01), texttemplate="%{z:.2f}",
            hovertemplate="layer %{y}, %{x}: %{z:.3f}<extra></extra>",
        )  # fmt: skip
    figure.update_yaxes(title="layer", dtick=1 if len(layers) < 16 else 4, autorange="reversed", row=1, col=1)
    figure.update_yaxes(dtick=1 if len(layers) < 16 else 4, autorange="reversed", row=1, col=2)
    figure.update_layout(
        title=_scored(report, direction), height=150 + 32 * len(layers), font={"size": 13, "color": _INK},
        margin={"l": 60, "r": 70, "t": 80, "b": 40}, plot_bgcolor="white",
    )  # fmt: skip
    return figure


def scores_matplotlib(report: Report, *, direction: str = "both") -> Figure:
    """Matplotlib: the same two panels for print.

    Raises:
        ValueError: as `scores_plotly`.
    """
    layers, grids = _grids(report, direction)
    reach = _reach(grids)
    figure = Figure(figsize=(6.4, 1.5 + 0.24 * len(layers)), layout="constrained")
    axes = figure.subplots(1, 2, width_ratios=[len(reductions) for reductions, _ in grids.values()])
    for panel, (name, (reductions, values)) in zip(axes, grids.items(), strict=True):
        shown = panel.imshow(values, cmap="RdBu", vmin=0.5 - reach, vmax=0.5 + reach, aspect="auto")
        for (row, column), value in np.ndenumerate(values):
            ink = "white" if abs(value - 0.5) > 0.7 * reach else _INK
            panel.text(column, row, f"{value:.2f}", ha="center", va="center", fontsize=7, color=ink)
        panel.set_xticks(range(len(reductions)), reductions, fontsize=8)
        panel.set_yticks(range(len(layers)), [str(layer) for layer in layers], fontsize=8)
        panel.tick_params(length=0)
        panel.spines[:].set_visible(False)
        panel.set_title(_MATH[name], fontsize=10)
    axes[0].set_ylabel("layer", fontsize=8)
    _ruler(figure, shown, list(axes), "AUROC")
    figure.suptitle(_scored(report, direction), fontsize=9)
    return figure


def alt(report: Report) -> str:
    """The finding in one or two sentences."""
    values = report.values
    text = f"Implicit attention of {values['model']}, layer {values['layer']}, window {values['window']}"
    h, h_p = values["auroc"]["h"], values["auroc"]["h_p"]
    if h is None:
        return f"{text}; no mask is known, so nothing is scored."
    over = f"{values['scored']} images" if values["scored"] > 1 else "this image"
    return f"{text}: AUROC against the object's mask is {h:.3f} for h and {h_p:.3f} for h_p, over {over}."


def table(report: Report) -> tuple[list[str], list[list[Any]]]:
    """Header and one row per layer, direction, source and reduction, for CSV."""
    return list(_COLUMNS), [[row[name] for name in _COLUMNS] for row in report.values["table"]]


def _maps(
    report: Report, layer: int | None, direction: str, reduction: str, query: int | None
) -> tuple[np.ndarray, np.ndarray]:
    """h and h_p [H W], each in multiples of its mean."""
    maps = []
    chosen = report.values["layer"] if layer is None else layer
    for source in ("h", "h_p"):
        if query is None:
            key = f"map/{chosen}/{direction}/{source}/{reduction}"
            if key not in report.arrays:
                raise ValueError(
                    f"the report holds no map {key!r}; was it made for an image, and does {source} have it?"
                )
            values = report.arrays[key].numpy().astype(np.float64)
        else:
            matrix = report.arrays.get(f"matrix/{source}")
            if matrix is None or not 0 <= query < len(matrix) or chosen != report.values["layer"]:
                raise ValueError(f"the report holds no row of patch {query} in layer {chosen}")
            values = np.abs(matrix[query].numpy().astype(np.float64)).reshape(report.values["grid"])
        maps.append(values / max(np.abs(values).mean(), 1e-300))
    return maps[0], maps[1]


def _scores(report: Report, layer: int | None, direction: str, reduction: str) -> Mapping[str, float]:
    wanted = (report.values["layer"] if layer is None else layer, direction, reduction)
    rows = report.values["table"] if report.values["n"] == 0 else ()
    return {r["source"]: r["auroc"] for r in rows if (r["layer"], r["direction"], r["reduction"]) == wanted}


def _note(scores: Mapping[str, float], source: str) -> str:
    return f", AUROC {scores[source]:.2f}" if source in scores else ""


def _place(report: Report, layer: int | None, direction: str, reduction: str, query: int | None) -> str:
    values = report.values
    seen = f"attention {reduction}" if query is None else f"attention of patch {query}"
    # matrices are kept for all directions together
    scans = _scans("both" if query is not None else direction)
    where = f"{values['model']}, layer {values['layer'] if layer is None else layer}, {scans}"
    return f"{where}: {seen}; window {values['window']}, {values['weights']} weights"


def _scans(direction: str) -> str:
    return "all directions" if direction == "both" else f"{direction} scan"


def _outline(report: Report, grid: tuple[int, ...]) -> tuple[np.ndarray, np.ndarray, np.ndarray] | None:
    """Pixel centers in units of patches, and the mask; None where nobody knows it."""
    if "mask" not in report.arrays:
        return None
    mask = report.arrays["mask"].numpy().astype(float)
    y, x = ((np.arange(pixels) + 0.5) * cells / pixels - 0.5 for pixels, cells in zip(mask.shape, grid, strict=True))
    return x, y, mask


def _grids(report: Report, direction: str) -> tuple[list[int], dict[str, tuple[list[str], np.ndarray]]]:
    """(layers, {source: (reductions, AUROC [layers reductions])})."""
    rows = [row for row in report.values["table"] if row["direction"] == direction and row["source"] in _NAMES]
    if not rows:
        raise ValueError(f"the report holds no scores of direction {direction!r}; was there a mask?")
    layers = sorted({row["layer"] for row in rows})
    grids = {}
    for source in _NAMES:
        scores = {(row["layer"], row["reduction"]): row["auroc"] for row in rows if row["source"] == source}
        reductions = list(dict.fromkeys(reduction for _, reduction in scores))
        grids[source] = reductions, np.array([[scores[layer, name] for name in reductions] for layer in layers])
    return layers, grids


def _reach(grids: Mapping[str, tuple[list[str], np.ndarray]]) -> float:
    """How far the scores are from 0.5, both ways, so that white stays in the middle."""
    return max(0.05, *(float(np.abs(values - 0.5).max()) for _, values in grids.values()))


def _scored(report: Report, direction: str) -> str:
    values = report.values
    over = f"{values['scored']} images" if values["scored"] > 1 else "one image"
    return f"{values['model']}, {_scans(direction)}, window {values['window']}: maps against masks, {over}"


def _ruler(figure: Figure, shown: Any, axes: Any, label: str) -> None:
    bar = figure.colorbar(shown, ax=axes, shrink=0.75, pad=0.02)
    bar.set_label(label, fontsize=8)
    bar.ax.tick_params(labelsize=7)
    bar.outline.set_visible(False)


def _bar(title: str, x: float) -> dict[str, Any]:
    return {"title": {"text": title, "side": "right"}, "x": x, "thickness": 10, "len": 0.9}
