"""What h_p gains over h: AUROC by layer, window and weights, one map per reduction.

Takes one of the `models` in a report of `ouro.jobs.bench.neighborhoods`.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
import plotly.graph_objects as go
from matplotlib.figure import Figure
from plotly.subplots import make_subplots

REDUCTIONS = ("received", "given")
"""Those that h and h_p both have."""

Model = Mapping[str, Any]


def screen(model: Model) -> go.Figure:
    """Plotly: red where h_p is behind, blue where it is ahead; a dot where the interval excludes zero.

    Raises:
        ValueError: no row of h_p.
    """
    figure = make_subplots(1, len(REDUCTIONS), subplot_titles=REDUCTIONS, shared_yaxes=True, horizontal_spacing=0.05)
    reach = max(_reach(_grid(model, reduction)[2]) for reduction in REDUCTIONS)
    for place, reduction in enumerate(REDUCTIONS):
        layers, sources, gains, sure = _grid(model, reduction)
        marks = np.where(sure, "●", "")
        figure.add_heatmap(
            x=layers, y=sources, z=gains, zmin=-reach, zmax=reach, colorscale="RdBu", text=marks, texttemplate="%{text}",
            colorbar={"title": "gain"}, showscale=place == 0,
            hovertemplate="layer %{x}, %{y}: %{z:+.3f}<extra>" + reduction + "</extra>", row=1, col=place + 1,
        )  # fmt: skip
        figure.update_xaxes(title="layer", type="category", row=1, col=place + 1)
    figure.update_yaxes(type="category", autorange="reversed", automargin=True)
    figure.update_layout(title=_title(model), template="plotly_white")
    return figure


def paper(model: Model) -> Figure:
    """Matplotlib: the same for print.

    Raises:
        ValueError: no row of h_p.
    """
    grids = [_grid(model, reduction) for reduction in REDUCTIONS]
    reach = max(_reach(gains) for _, _, gains, _ in grids)
    count = len(grids[0][0])
    figure = Figure(figsize=(2 * 0.3 * count + 3.2, 0.26 * len(grids[0][1]) + 1.4), layout="constrained")
    panels = figure.subplots(1, len(REDUCTIONS), sharey=True)
    for axes, reduction, (layers, sources, gains, sure) in zip(panels, REDUCTIONS, grids, strict=True):
        image = axes.imshow(gains, cmap="RdBu", vmin=-reach, vmax=reach, aspect="auto")
        rows, columns = np.nonzero(sure)
        axes.plot(columns, rows, "k.", ms=3)
        axes.set_xticks(range(len(layers)), layers, fontsize=7)
        axes.set_yticks(range(len(sources)), sources, fontsize=7)
        axes.set(xlabel="layer")
        axes.set_title(reduction, fontsize=8)
    figure.colorbar(image, ax=panels, label="gain in AUROC")
    figure.suptitle(_title(model), fontsize=9)
    return figure


def alt(model: Model) -> str:
    """Where h_p is ahead and behind, in a sentence."""
    gains = [row["gain"] for row in model["rows"] if row["gain"]]
    words = {word: sum(gain["seen"] == word for gain in gains) for word in ("better", "worse", "not resolved")}
    counts = ", ".join(f"{count} {word}" for word, count in words.items())
    return f"AUROC of h_p less that of h on {model['scored']} images of {model['data']}, {model['model']}: {counts}."


def table(model: Model) -> tuple[list[str], list[list[Any]]]:
    """Header and one row per layer, source and reduction, for CSV."""
    scores = ("auroc", "pointing", "leakage")
    head = ["layer", "source", "reduction", *(f"{name}{end}" for name in scores for end in ("", "_lo", "_hi"))]
    head += ["gain", "gain_lo", "gain_hi", "seen"]
    rows = []
    for row in model["rows"]:
        cells = [row["layer"], row["source"], row["reduction"]]
        for name in scores:
            cells += [row[name]["mean"], *row[name]["ci95"]]
        gain = row["gain"]
        rows.append(cells + ([None] * 4 if gain is None else [gain["mean"], *gain["ci95"], gain["seen"]]))
    return head, rows


def counted(model: Model) -> dict[str, Any]:
    """{model, better, worse, h, h_p, by}: rows of h_p with a resolved gain, AUROC of the best map of each source, and whose."""
    seen = [row["gain"]["seen"] for row in model["rows"] if row["gain"] and row["source"].startswith("h_p")]
    best = max((row for name, row in model["best"].items() if name != "h"), key=lambda row: row["auroc"]["mean"])
    return {
        "model": model["model"], "better": seen.count("better"), "worse": seen.count("worse"),
        "h": model["best"]["h"]["auroc"], "h_p": best["auroc"], "by": best["source"],
    }  # fmt: skip


def _grid(model: Model, reduction: str) -> tuple[list[int], list[str], np.ndarray, np.ndarray]:
    """Layers, sources, gains [sources layers] and whether their interval excludes zero."""
    rows = [row for row in model["rows"] if row["gain"] and row["reduction"] == reduction]
    if not rows:
        raise ValueError(f"there is nothing to draw: no row of h_p for {reduction!r}")
    layers = sorted({row["layer"] for row in rows})
    sources = list(dict.fromkeys(row["source"] for row in rows))
    gains = np.full((len(sources), len(layers)), np.nan)
    sure = np.zeros(gains.shape, bool)
    for row in rows:
        place = sources.index(row["source"]), layers.index(row["layer"])
        gains[place], sure[place] = row["gain"]["mean"], row["gain"]["seen"] != "not resolved"
    return layers, sources, gains, sure


def _reach(gains: np.ndarray) -> float:
    return max(0.01, float(np.nanmax(np.abs(gains))))


def _title(model: Model) -> str:
    return f"AUROC of h_p less that of h, {model['model']}, {model['scored']} images of {model['data']}"
