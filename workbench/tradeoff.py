"""Score against bits: every quantized model of a list of rows as a point, the float model as a line."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Mapping, Sequence
from typing import Any

from ouro.metrics import METRICS, Metric, metric_of
from workbench import calib, engine, grid
from workbench.plot import figure, nothing

Row = Mapping[str, Any]

COLORS = {"real": "$h", "synthetic": "$hp", "noise": "$muted", "own pictures": "$good"}
"""Kind of calibration images -> color."""
_SYMBOLS = (
    "circle", "square", "diamond", "triangle-up", "triangle-down", "cross", "x", "star", "pentagon", "hexagon2",
    "triangle-left", "triangle-right", "star-square", "hourglass", "bowtie",
)  # fmt: skip
_SIDE = 0.5
"""Bits over which points of the same width are spread."""
_AGREEMENT = Metric("same answer as the float model")


def chart(rows: Sequence[Row], model: str) -> str:
    """The value of a `plot_view`: the model's rows, those of this session on top; or a line that says why there is none."""
    of = [row for row in rows if row.get("model") == model]
    measure = _measure(of)
    points = [row for row in of if row.get(measure) is not None and grid.effective(row) is not None]
    if not points and any(not row.get("file") for row in of):
        return nothing("Calibrated, and nothing to measure on: " + calib.NO_PICTURES)
    if not points:
        return nothing(f"Nothing is stored for {model} yet. Choose methods and press Run: what they give appears here.")
    metric = METRICS.get(measure, _AGREEMENT)
    places = _side_by_side(points)
    series: dict[tuple[str, str, bool], list[Row]] = defaultdict(list)
    for row in points:
        series[str(row["method"]), grid.kind(row), not row.get("file")].append(row)
    # what was measured here is drawn last, over the rest
    drawn = [
        _points(part, places, measure, metric, key) for key, part in sorted(series.items(), key=lambda one: one[0][2])
    ]
    ends = [min(places.values()) - 0.3, max(places.values()) + 0.3]
    layout = {
        "xaxis": {"title": {"text": "effective bits, mean of weights and activations", "font": {"size": 11}}, "zeroline": False, "range": ends},
        "yaxis": {"title": {"text": metric.axis}, "zeroline": False},
        "legend": {"orientation": "h", "x": 0, "y": 1.02, "yanchor": "bottom", "itemsizing": "constant"},
        "margin": {"l": 60, "r": 12, "t": 8, "b": 44}, "hovermode": "closest",
        "hoverlabel": {"bgcolor": "$card", "bordercolor": "$grid", "font": {"color": "$text", "size": 12}},
    }  # fmt: skip
    data = [*_float(points, measure, metric, ends), *drawn, *_keys(points)]
    return figure(data, layout, alt=alt(points, measure, metric), height=430, name=f"{model}-quantized")


def alt(points: Sequence[Row], measure: str, metric: Metric) -> str:
    """The chart in a sentence."""
    ranked = sorted(points, key=lambda row: metric.better(row[measure]))
    said = [
        f"{row['method']} {grid.nominal(row)} on {grid.kind(row)} images with {metric.shown(row[measure])}"
        for row in (ranked[-1], ranked[0])
    ]
    title = metric.title[:1].upper() + metric.title[1:]
    return f"{title} of {len(points)} quantized models against their effective bits: best {said[0]}, worst {said[1]}"


def _measure(rows: Sequence[Row]) -> str:
    """What is drawn: the main score, or where there is none to be had, the agreement with the float model."""
    scored = [metric_of(row) for row in rows if row.get(metric_of(row)) is not None]
    return scored[0] if scored else "agreement"


def _side_by_side(points: Sequence[Row]) -> dict[str, float]:
    """Id -> place on the axis of bits; rows of the same width stand beside each other, by method and calibration."""
    at: dict[float, list[Row]] = defaultdict(list)
    for row in points:
        known = grid.effective(row)
        assert known is not None
        at[round(sum(known) / 2, 2)].append(row)
    places = {}
    for width, group in at.items():
        group.sort(key=lambda row: (str(row["method"]), grid.kind(row), str(row.get("scope"))))
        step = _SIDE / max(1, len(group) - 1)
        start = -_SIDE / 2 if len(group) > 1 else 0.0
        places |= {row["id"]: width + start + step * number for number, row in enumerate(group)}
    return places


def _points(
    rows: Sequence[Row], places: Mapping[str, float], measure: str, metric: Metric, key: tuple[str, str, bool]
) -> dict[str, Any]:
    """One method on one kind of calibration images, of this session or stored."""
    method, kind, own = key
    bounds = [_bounds(row, measure) for row in rows]
    color = COLORS.get(kind, "$muted")
    return {
        "type": "scatter", "mode": "markers", "showlegend": False, "name": method,
        "x": [places[row["id"]] for row in rows], "y": [metric.factor * row[measure] for row in rows],
        # beside its place there may be others
        "meta": {"x": [sum(grid.effective(row) or ()) / 2 for row in rows], "point": [_point(row) for row in rows]},
        "customdata": [row["id"] for row in rows], "text": [_hover(row, measure, metric) for row in rows],
        "hovertemplate": "%{text}<extra></extra>",
        "marker": {
            "symbol": _symbol(method), "color": color, "size": 13 if own else 8,
            "line": {"color": "$text" if own else "$card", "width": 2 if own else 0.8},
        },
        "error_y": {
            "type": "data", "symmetric": False, "color": color, "thickness": 1.6 if own else 0.8, "width": 0,
            "array": [metric.factor * (high - row[measure]) for row, (_, high) in zip(rows, bounds, strict=True)],
            "arrayminus": [metric.factor * (row[measure] - low) for row, (low, _) in zip(rows, bounds, strict=True)],
        },
        "selected": {"marker": {"opacity": 1, "size": 16}}, "unselected": {"marker": {"opacity": 0.25}},
    }  # fmt: skip


def _bounds(row: Row, measure: str) -> tuple[float, float]:
    """What the bar of a point reaches over: its interval, else its spread over seeds."""
    if known := row.get("agreement_ci95" if measure == "agreement" else "ci95"):
        return known[0], known[1]
    spread = row.get("spread") or 0.0
    return row[measure] - spread, row[measure] + spread


def _hover(row: Row, measure: str, metric: Metric) -> str:
    """A point in some lines."""
    said = grid.texts(row)
    around = "" if said["ci95"] == grid.NONE else f", 95 % interval {said['ci95']}"
    around += "" if said["spread"] == grid.NONE else f", ± {said['spread']} over {said['seeds']} seeds"
    lines = [
        f"<b>{row['method']} {said['bits']}</b> · {said['scope']}",
        f"{metric.title} {metric.shown(row[measure])}{around}",
        f"effective bits {said['effective']} · {said['images']} images",
        f"calibrated on {said['calib']}, {said['set']}",
        *([said["details"]] if said["details"] != grid.NONE else []),
        said["file"],
    ]
    return "<br>".join(lines)


def _point(row: Row) -> str:
    """What a point is of, beside its method."""
    said = grid.texts(row)
    return ", ".join(
        said[key] for key in ("bits", "scope", "calib", "set", "details", "file") if said[key] != grid.NONE
    )


def _symbol(method: str) -> str:
    known = engine.methods()
    return _SYMBOLS[known.index(method) % len(_SYMBOLS)] if method in known else "circle-open"


def _float(points: Sequence[Row], measure: str, metric: Metric, ends: Sequence[float]) -> list[dict[str, Any]]:
    """The float model, a line for each number of images that it was measured on."""
    scores: dict[float, set[int]] = defaultdict(set)
    for row in points:
        if row.get(f"fp_{measure}") is not None:
            scores[row[f"fp_{measure}"]].add(row["n"])
    return [
        {
            "type": "scatter", "mode": "lines", "name": "float model", "legendgroup": "float", "showlegend": number == 0,
            "x": list(ends), "y": [metric.factor * score] * 2, "line": {"color": "$text", "dash": "dot", "width": 1},
            "hovertemplate": f"float model, {' or '.join(map(str, sorted(images)))} images: {metric.shown(score)}<extra></extra>",
        }
        for number, (score, images) in enumerate(sorted(scores.items()))
    ]  # fmt: skip


def _keys(points: Sequence[Row]) -> list[dict[str, Any]]:
    """Entries of the legend: colors for what calibrated, symbols for methods, an outline for this session."""
    kinds = sorted({grid.kind(row) for row in points})
    methods = sorted({str(row["method"]) for row in points})
    looks = [(kind, {"symbol": "circle", "color": COLORS.get(kind, "$muted"), "size": 9}) for kind in kinds]
    looks += [(method, {"symbol": _symbol(method), "color": "$text", "size": 8}) for method in methods]
    if not all(row.get("file") for row in points):
        looks.append(
            (
                "this session",
                {"symbol": "circle", "color": "rgba(0,0,0,0)", "size": 12, "line": {"color": "$text", "width": 2}},
            )
        )
    return [
        {"type": "scatter", "mode": "markers", "name": name, "x": [None], "y": [None], "marker": look, "hoverinfo": "skip"}
        for name, look in looks
    ]  # fmt: skip
