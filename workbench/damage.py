"""What rounding costs, drawn for the page: a map of sites, a curve over them, the worst of them, and budgets of bits.

Takes `values` of reports of `ouro.jobs.sensitivity` and rows of `ouro quantize --budget`, from a run or from results/.
"""

from __future__ import annotations

import html
from collections.abc import Mapping, Sequence
from itertools import takewhile
from math import log10
from typing import Any

from ouro.metrics import METRICS, damaged, metric_of
from workbench import calib, ways
from workbench.page import headline, interval, percent, score, table
from workbench.plot import LEGEND, figure, nothing

MODES = {"isolated": "Each alone", "cumulative": "One after another", "leave_one_float": "All but one"}
GROUPINGS = {"group": "Kinds in a block", "site": "Single sites"}
WORST = 12
NOTHING = "Nothing has been measured for this model yet. Run it: half a minute to a few minutes on two cores."
NO_BUDGET = "No budget has been spent on this model yet."

Values = Mapping[str, Any]


def map_chart(values: Values) -> str:
    """Kinds of sites over blocks: KL of each alone, or in the mode "all but one" what it gives back in float."""
    saved = values["mode"] == "leave_one_float"
    blocks = sorted({row["block"] for row in values["rows"]}, key=_place)
    kinds = sorted({row["kind"] for row in values["rows"]})
    by_site = {(row["kind"], row["block"]): damage(values, row) for row in values["rows"]}
    kl = [[by_site.get((kind, block)) for block in blocks] for kind in kinds]
    shown = [[v if saved or v is None else log10(v) if v > 0 else None for v in row] for row in kl]
    flat = [v for row in shown for v in row if v is not None]
    if not flat:
        return nothing("No site does any damage: nothing is rounded, or nothing changes the answers.")
    few = len(kinds) <= 8 and len(blocks) <= 10
    words = "KL saved in float" if saved else "KL alone"
    data = {
        "type": "heatmap", "name": words, "x": [_short(block, blocks) for block in blocks], "y": kinds, "z": shown, "xgap": 2,
        "ygap": 2, "customdata": kl, "hovertemplate": f"%{{x}}, %{{y}}: {words} %{{customdata:.3g}}<extra></extra>",
        "text": [["" if v is None else _shortest(v) for v in row] for row in kl], "hoverongaps": False,
        "texttemplate": "%{text}" if few else "", "textfont": {"color": "#1d1b18", "size": 11},
        "colorscale": [[0, "#f6ecd6"], [0.5, "#e6a93c"], [1, "#d4622f"]],
        "showscale": not few, "colorbar": {"thickness": 10, "outlinewidth": 0},
    }  # fmt: skip
    if saved:
        reach = max(map(abs, flat)) or 1
        data |= {"zmin": -reach, "zmax": reach}
        data["colorscale"] = [[0, "#5d92c9"], [0.5, "#f1eee8"], [1, "#d9982a"]]
    else:
        low, high = int(min(flat) // 1), int(-(-max(flat) // 1))
        data["colorbar"] |= {
            "tickvals": list(range(low, high + 1)),
            "ticktext": [f"1e{k}" for k in range(low, high + 1)],
        }
    layout = {
        "xaxis": {"type": "category", "showgrid": False, "title": {"text": "block"}, "ticks": ""},
        "yaxis": {"type": "category", "autorange": "reversed", "showgrid": False, "automargin": True, "ticks": ""},
        "title": {"text": f"{words}, in nats{'; blue: it gets worse' if saved else ''}", "x": 0, "xanchor": "left", "font": {"size": 13}},
        "margin": {"l": 20, "r": 8, "t": 34, "b": 44},
    }  # fmt: skip
    return figure([data], layout, alt=f"map of {words} by block and kind of site. {summary(values)}",
                  height=max(220, 110 + (40 if few else 20) * len(kinds)), name="sensitivity-map")  # fmt: skip


def curve_chart(values: Values) -> str:
    """KL in the order of the mode; in the mode "one after another" with the accuracy that is left."""
    rows, mode, whole = values["rows"], values["mode"], values["whole"]["kl"]
    # all but one leave about as much as all
    log = mode != "leave_one_float"
    places = list(range(1, len(rows) + 1))
    names = [row["name"] for row in rows]
    data: list[dict[str, Any]] = [
        {
            "type": "scatter", "mode": "lines+markers", "name": "KL", "x": places, "customdata": names,
            "meta": {"point": names, "y": [row["kl"] for row in rows]},
            "y": [row["kl"] if row["kl"] > 0 else None for row in rows], "line": {"color": "$accent", "width": 2},
            "marker": {"size": 5}, "hovertemplate": "%{x}: %{customdata}<br>KL %{y:.3g}<extra></extra>",
        }
    ]  # fmt: skip
    layout: dict[str, Any] = {
        "xaxis": {"title": {"text": _AXIS[mode]}, "range": [0.5, len(rows) + 0.5]},
        "yaxis": {"title": {"text": "KL, nats"}, **(_LOG if log else {})},
        "showlegend": False, "margin": {"l": 62, "r": 8, "t": 26, "b": 44},
        "annotations": [],
    }  # fmt: skip
    if whole > 0 and mode != "cumulative":
        layout["shapes"] = [
            {"type": "line", "xref": "paper", "x0": 0, "x1": 1, "y0": whole, "y1": whole,
             "line": {"color": "$muted", "dash": "dot", "width": 1}}
        ]  # fmt: skip
        layout["annotations"] = [
            {"xref": "paper", "x": int(log), "xanchor": "right" if log else "left", "y": log10(whole) if log else whole,
             "yanchor": "bottom", "showarrow": False, "text": "all rounded", "font": {"color": "$muted", "size": 11}}
        ]  # fmt: skip
    name = damaged(values)
    metric, exact = METRICS[name], values[f"fp_{name}"]
    if mode == "cumulative" and exact is not None:
        scores = [metric.factor * (exact - row[f"{name}_drop"]) for row in rows]
        data.append(
            {"type": "scatter", "mode": "lines", "name": metric.title, "x": places, "y": scores, "yaxis": "y2",
             "meta": {"point": names},
             "line": {"color": "$h", "width": 2, "dash": "dash"},
             "hovertemplate": f"%{{x}}: {metric.title} %{{y:.1f}} %<extra></extra>"}
        )  # fmt: skip
        layout |= {
            "showlegend": True, "legend": LEGEND,
            "yaxis2": {"title": {"text": metric.axis}, "overlaying": "y", "side": "right", "range": [0, 102],
                       "tickmode": "linear", "tick0": 0, "dtick": 20,
                       "showgrid": False},
        }  # fmt: skip
        layout["margin"]["r"] = 56
    return figure(data, layout, alt=f"KL over {_AXIS[mode]}. {summary(values)}", height=290, name="sensitivity-curve")


_LOG = {"type": "log", "exponentformat": "e", "dtick": 1}
_AXIS = {
    "isolated": "sites alone, most harmful first",
    "cumulative": "sites rounded so far, most harmless first",
    "leave_one_float": "sites left in float, most helpful first",
}


def worst_table(values: Values) -> str:
    """The sites that cost the most."""
    mode, rows, name = values["mode"], values["rows"], damaged(values)
    dropped = f"{headline(name)} drop"
    shown = rows[::-1] if mode == "cumulative" else rows
    heads = [("#", True), ("Site" if values["by"] == "site" else "Sites", False), ("Bits", True)]
    heads += {
        "isolated": [("KL alone", True), (dropped, True), ("SQNR", True)],
        "cumulative": [("KL alone", True), ("KL with all before", True), (dropped, True), ("SQNR", True)],
        "leave_one_float": [("KL saved", True), ("KL left", True), (f"{dropped} left", True), ("SQNR", True)],
    }[mode]
    lines = []
    for at, row in enumerate(shown[:WORST], 1):
        own = [] if mode == "isolated" else [_small(damage(values, row))]
        lines.append(
            [
                str(at), f"<code>{html.escape(row['name'])}</code>", " ".join(map(str, row["bits"])), *own,
                _small(row["kl"]), percent(row[f"{name}_drop"]).replace("-", "−"),
                "–" if row["sqnr_db"] is None else f"{row['sqnr_db']:.1f} dB",
            ]
        )  # fmt: skip
    return table(heads, lines)


def damage(values: Values, row: Values) -> float:
    """KL of a row alone; where it was not measured alone, what all but it have less than all."""
    alone = row["isolated_kl"]
    return values["whole"]["kl"] - row["kl"] if alone is None else alone


def ranked(values: Values) -> list[str]:
    """Names of the parts, the most harmful first."""
    return [row["name"] for row in sorted(values["rows"], key=lambda row: -damage(values, row))]


def summary(values: Values) -> str:
    """The finding in a sentence or two, without markup."""
    rows, whole = values["rows"], values["whole"]
    most = max(rows, key=lambda row: damage(values, row))
    all_of_it, images = f"With everything rounded KL is {_small(whole['kl'])}", "images without labels"
    name = damaged(values)
    if (exact := values[f"fp_{name}"]) is not None:
        left, images = percent(exact - whole[f"{name}_drop"]), "held-out images"
        all_of_it = (
            f"With everything rounded {METRICS[name].title} is {left} of {percent(exact)}, KL {_small(whole['kl'])}"
        )
    if values["mode"] == "leave_one_float":
        finding = f"{most['name']} in float saves the most, KL {_small(damage(values, most))}"
    else:
        finding = f"{most['name']} costs the most of all alone, KL {_small(damage(values, most))}"
    return f"{all_of_it} ({values['n']} {images}). {finding}."


def about(values: Values) -> str:
    """What was measured, in one line."""
    what = f"{values['method']} {values['bits']}, scope {values['scope']}, calibrated on {calib.short_name(values['calib'])}"
    return f"{values['model']} · {what} images · {MODES[values['mode']].lower()}, {GROUPINGS[values['by']].lower()}"


def budget_chart(rows: Sequence[Values]) -> str:
    """KL that was predicted by adding up sites and KL that was measured, over the budget; rows like the last one."""
    if not rows:
        return nothing(NO_BUDGET)
    keys = ("model", "method", "scope", "by", "calib")
    alike = sorted((row for row in rows if all(row[k] == rows[-1][k] for k in keys)), key=lambda row: row["budget"])
    data = []
    for key, name, color in (("predicted_kl", "predicted", "$h"), ("measured_kl", "measured", "$accent")):
        for uniform in (False, True):
            selected = [row for row in alike if (len(row["widths"]) == 1) == uniform]
            if not selected:
                continue
            data.append(
                {
                    "type": "scatter", "mode": "markers" if uniform else "lines+markers",
                    "name": f"{name}, one width" if uniform else name,
                    "x": [row["budget"] for row in selected], "y": [row[key] for row in selected], "line": {"color": color},
                    "marker": {"size": 9, "color": color, "symbol": "circle-open" if uniform else "circle"},
                    "hovertemplate": f"%{{x}} bits: {name} KL %{{y:.3g}}<extra></extra>",
                }
            )  # fmt: skip
    last = rows[-1]
    alt = (
        f"KL over average bits for {last['model']} by {last['method']}; at {last['budget']:g} bits predicted "
        f"{_small(last['predicted_kl'])}, measured {_small(last['measured_kl'])}"
    )
    layout = {
        "xaxis": {"title": {"text": "average bits"}, "dtick": 0.5},
        "yaxis": {"title": {"text": "KL, nats"}, **_LOG},
        "legend": LEGEND, "margin": {"l": 62, "r": 8, "t": 44, "b": 44},
    }  # fmt: skip
    return figure(data, layout, alt=alt, height=300, name="budget")


def budget_table(rows: Sequence[Values]) -> str:
    """Every budget with what it became, the last one first."""
    if not rows:
        return ""
    metrics = {metric_of(row) for row in rows}
    several = len(metrics) > 1
    heads = [("Budget", True), ("Widths", False), ("Method", False), ("Bits w / a", True), ("KL predicted", True),
             ("KL measured", True), ("Score" if several else headline(*metrics), True),
             ("95 % interval", True), ("Float", True), ("From", False)]  # fmt: skip
    lines = []
    for row in reversed(rows):
        mean, name = row["mean_bits"], metric_of(row)
        lines.append(
            [
                f"{row['budget']:g}", " ".join(map(str, row["widths"])), html.escape(row["method"]),
                f"{mean['weights']:.2f} / {mean['activations']:.2f}", _small(row["predicted_kl"]),
                _small(row["measured_kl"]), score(row, named=several), interval(row), score(row, f"fp_{name}"),
                ways.way(ways.said_of(row), ways.made_by(row)),
            ]
        )  # fmt: skip
    return table(heads, lines)


def _small(value: float) -> str:
    """Two digits that count: 0.30, 0.032, 4.1e−05."""
    return f"{value:#.2g}".removesuffix(".").replace("-", "−")


def _shortest(value: float) -> str:
    """One digit and the power of ten, which fits a cell on a phone: 3e−2."""
    digit, power = f"{value:.0e}".split("e")
    return f"{digit}e{int(power)}".replace("-", "−")


def _place(block: str) -> tuple[int, list[tuple[int, str]]]:
    """The stem, blocks by the numbers in their path, the head."""
    rank = {"stem": 0, "head": 2}.get(block, 1)
    return rank, [(int(part), "") if part.isdecimal() else (-1, part) for part in block.split(".")]


def _short(block: str, blocks: Sequence[str]) -> str:
    """The block without what all paths of blocks begin with, so that its name fits under its column."""
    paths = [one.split(".") for one in blocks if one not in ("stem", "head")]
    if block in ("stem", "head") or len(paths) < 2:
        return block
    shared = len(list(takewhile(lambda parts: len(set(parts)) == 1, zip(*paths, strict=False))))
    return ".".join(block.split(".")[shared:])
