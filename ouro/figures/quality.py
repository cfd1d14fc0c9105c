"""Sets of images side by side, one figure per question: who recognizes them, how they spread, how near to real ones.

Takes the `values` of a report of `ouro.jobs.quality`, as they come from a run or from a stored file.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
import plotly.graph_objects as go
from matplotlib.figure import Figure

from ouro.figures.palette import cycle

ITEMS = {
    "recognition": "taken for their class, %",
    "diversity": "mean cosine distance of features",
    "frechet": "Fréchet distance to real images",
    "coverage": "overlap with the range of real images",
    "ks": "Kolmogorov-Smirnov distance to real images",
    "similarity": "density of cosines between patches",
    "accuracy": "top-1 after quantization, %",
}
"""Item -> what its axis says."""
_PER_SITE = {"coverage": "overlap", "ks": "ks"}

Values = Mapping[str, Any]


def screen(values: Values, item: str) -> go.Figure:
    """Plotly: bars per set, one dot per site and set, or a density per set.

    Raises:
        ValueError: an unknown item, or nothing to draw for it.
    """
    figure = go.Figure()
    if item in _PER_SITE:
        for (name, (sites, points)), color in zip(
            _sites(values, item).items(), cycle(len(values["rows"])), strict=True
        ):
            figure.add_scatter(x=points, y=sites, name=name, mode="markers", marker={"color": color, "opacity": 0.7},
                               hovertemplate="%{y}: %{x:.2f}<extra>" + name + "</extra>")  # fmt: skip
        figure.update_layout(xaxis={"title": ITEMS[item], "range": [-0.02, 1.02]}, yaxis={"automargin": True})
    elif item == "similarity":
        for (name, (places, density)), color in zip(
            _densities(values).items(), cycle(len(values["rows"])), strict=True
        ):
            figure.add_scatter(x=places, y=density, name=name, mode="lines", line={"color": color})
        figure.update_layout(xaxis={"title": "cosine of two patches"}, yaxis={"title": ITEMS[item]})
    else:
        labels, series = _bars(values, item)
        for (name, heights), color in zip(series.items(), cycle(len(series)), strict=True):
            figure.add_bar(x=labels, y=heights, name=name, marker={"color": color},
                           hovertemplate="%{x}: %{y:.3g}<extra>" + name + "</extra>")  # fmt: skip
        figure.update_layout(barmode="group", yaxis={"title": ITEMS[item], "rangemode": "tozero"})
    figure.update_layout(title=_title(values), template="plotly_white", legend={"orientation": "h", "y": -0.2})
    return figure


def paper(values: Values, item: str) -> Figure:
    """Matplotlib: the same for print.

    Raises:
        ValueError: as `screen`.
    """
    figure = Figure(figsize=(5, 3.2), layout="constrained")
    axes = figure.subplots()
    if item in _PER_SITE:
        drawn = _sites(values, item)
        kinds = list(dict.fromkeys(kind for sites, _ in drawn.values() for kind in sites))
        figure.set_size_inches(5, 0.22 * len(kinds) + 1.4)
        for number, ((name, (sites, points)), color) in enumerate(zip(drawn.items(), cycle(len(drawn)), strict=True)):
            at = np.array([kinds.index(kind) for kind in sites]) + (number - (len(drawn) - 1) / 2) * 0.8 / len(drawn)
            axes.plot(points, at, ".", color=color, ms=3, label=name)
        axes.set(yticks=range(len(kinds)), yticklabels=kinds, xlabel=ITEMS[item], xlim=(-0.02, 1.02))
        axes.invert_yaxis()
    elif item == "similarity":
        for (name, (places, density)), color in zip(
            _densities(values).items(), cycle(len(values["rows"])), strict=True
        ):
            axes.plot(places, density, color=color, label=name)
        axes.set(xlabel="cosine of two patches", ylabel=ITEMS[item])
    else:
        labels, series = _bars(values, item)
        width = 0.8 / len(series)
        for number, ((name, heights), color) in enumerate(zip(series.items(), cycle(len(series)), strict=True)):
            places = np.arange(len(labels)) + (number - (len(series) - 1) / 2) * width
            axes.bar(
                places, [np.nan if height is None else height for height in heights], width, color=color, label=name
            )
        axes.set(xticks=range(len(labels)), xticklabels=labels, ylabel=ITEMS[item])
    axes.set_title(_title(values), fontsize=9)
    figure.legend(fontsize=7, ncols=4, loc="outside lower center")
    return figure


def alt(values: Values, item: str) -> str:
    """The figure in one sentence: the mean of every set."""
    if item in _PER_SITE:
        cells = [f"{row['label']} {row[_PER_SITE[item]]:.2f}" for row in values["rows"]]
        return f"{ITEMS[item]}, mean over sites: {', '.join(cells)}."
    if item == "similarity":
        cells = [f"{row['label']} {row['similarity']:.2f}" for row in values["rows"]]
        return f"Mean cosine between patches: {', '.join(cells)}."
    labels, series = _bars(values, item)
    parts = []
    for name, heights in series.items():
        bars = zip(labels, heights, strict=True)
        cells = [f"{label} {height:.3g}" for label, height in bars if height is not None]
        parts.append(f"{name}: {', '.join(cells)}")
    return f"{ITEMS[item]}. {'; '.join(parts)}."


def table(values: Values) -> tuple[list[str], list[list[Any]]]:
    """Header and one row per set, for CSV."""
    judges = list(dict.fromkeys(name for row in values["rows"] for name in row["recognized"]))
    accuracies = list(dict.fromkeys(name for row in values["rows"] for name in row["accuracy"]))
    plain = ["label", "calib", "n", "frechet", "overlap", "outside", "ks", "similarity", "entropy"]
    spread = ["pairwise", "within", "between"]
    head = [*plain, *spread, *(f"recognized by {name}" for name in judges), *(f"top-1 {name}" for name in accuracies)]
    rows = [
        [
            *(row[name] for name in plain),
            *(row["diversity"][name] for name in spread),
            *(row["recognized"].get(name) for name in judges),
            *(row["accuracy"].get(name) for name in accuracies),
        ]
        for row in values["rows"]
    ]
    return head, rows


def _bars(values: Values, item: str) -> tuple[list[str], dict[str, list[float | None]]]:
    """Labels of the sets, and the heights of every series."""
    rows = _rows(values)
    labels = [row["label"] for row in rows]
    if item == "frechet":
        return labels, {"Fréchet distance": [row["frechet"] for row in rows]}
    if item == "diversity":
        pairs = {"pairwise": "all pairs", "within": "one class", "between": "two classes"}
        return labels, {words: [row["diversity"][key] for row in rows] for key, words in pairs.items()}
    if item not in ("recognition", "accuracy"):
        raise ValueError(f"unknown item {item!r}; known: {', '.join(ITEMS)}")
    key = {"recognition": "recognized", "accuracy": "accuracy"}[item]
    names = list(dict.fromkeys(name for row in rows for name in row[key]))
    if not names:
        raise ValueError(f"no set of the report has {item}; give sets with labels, and methods to quantize with")
    shares = [[row[key].get(name) for row in rows] for name in names]
    percent = [[None if share is None else 100 * share for share in row] for row in shares]
    return labels, dict(zip(names, percent, strict=True))


def _sites(values: Values, item: str) -> dict[str, tuple[list[str], list[float]]]:
    """Label -> (kinds of sites, values)."""
    key = _PER_SITE[item]
    return {
        row["label"]: ([site["site"] for site in row["sites"]], [site[key] for site in row["sites"]])
        for row in _rows(values)
    }


def _densities(values: Values) -> dict[str, tuple[np.ndarray, np.ndarray]]:
    """Label -> (cosines, density), the mean over blocks."""
    densities = {row["label"]: np.mean(row["density"], axis=0) for row in _rows(values)}
    return {name: (np.linspace(-1, 1, 2 * len(density) + 1)[1::2], density) for name, density in densities.items()}


def _rows(values: Values) -> list[Mapping[str, Any]]:
    if not values["rows"]:
        raise ValueError("there is nothing to draw: give a report with at least one set")
    return list(values["rows"])


def _title(values: Values) -> str:
    return f"{values['model']}, against {values['n_reference']} real images"
