"""Stored times, drawn for the page: what was measured on which device, beside peers and floors, behind its gate.

Takes files that `ouro bench kernels | scan | model | alpha | packed --out` wrote. A ratio stands only in a row whose gate
passed, with the sizes beside it and the device above it.
"""

from __future__ import annotations

import html
from collections.abc import Iterable, Mapping, Sequence
from itertools import takewhile
from math import log10
from typing import Any

from workbench.checks import COMPUTES, marked
from workbench.page import percent, table
from workbench.plot import LEGEND, figure, nothing

NOT_MEASURED = "not measured: no CUDA device"
SCRIPT = "sh results/gpu.sh"
NOTHING = "No benchmark lies in results/. Write one with ouro bench scan --out results/scan.json."

_TOPICS = {
    "scan": "Selective scan", "model": "Whole model", "alpha_p": "Patched attention", "packed": "Packed integer model",
}  # fmt: skip
_BACKENDS = {"cpu": "compiled scan", "reference": "loop over tokens", "ouro": "ours", "fused": "ours, fused"}
_BOUNDS = {"bytes": "memory", "exps": "exponentials", "int8_ops": "int8 products", "half_ops": "fp16 products"}
_OURS = ("ouro", "fused", "cpu", "compiled", "packed w8a8", "packed w4a8")
_TIMES = ("p20_ms", "p50_ms", "p80_ms", "floor_ms", "bound", "achieved")

Values = Mapping[str, Any]


def devices(files: Iterable[Values]) -> list[str]:
    """Names of the devices that something was timed on; GPUs first."""
    names = dict.fromkeys(file["device"] for file in files if file.get("device") and measured([file]))
    return sorted(names, key=lambda name: "threads" in name)


def topics(files: Sequence[Values], device: str | None) -> list[str]:
    """What was timed on a device."""
    return list(dict.fromkeys(row["topic"] for row in measured(files) if row["device"] == device))


def measured(files: Iterable[Values]) -> list[dict[str, Any]]:
    """Rows of all files in one form.

    {topic, case, backend, ours, device, file, gate, error, said, ratios} and `_TIMES`. gate: True or False for what is ours,
    None for others. said: what a row without times has instead, or a note. ratios: (how many times as fast, as whom). A
    case that two files have is taken from the first.
    """
    cases: dict[tuple[str, str, str], list[dict[str, Any]]] = {}
    for file in files:
        of_file: dict[tuple[str, str, str], list[dict[str, Any]]] = {}
        for row in _rows(file):
            of_file.setdefault((row["device"], row["topic"], row["case"]), []).append(row)
        cases = of_file | cases
    return [row for rows in cases.values() for row in rows]


def _rows(file: Values) -> list[dict[str, Any]]:
    """Rows of one file; those that no gate let be timed come last."""
    rows = [
        {
            "topic": _topic(file, row), "case": _case(file, row), "device": file.get("device"), "file": file.get("file", ""),
            "backend": _BACKENDS.get(row["backend"], row["backend"]), "ours": row["backend"] in _OURS,
            "gate": _passed(file, row) if row["backend"] in _OURS else None, "error": _error(file, row),
            "said": row.get("complaint") or row.get("failed") or row.get("note") or "", "ratios": [],
            **{key: row.get(key) for key in _TIMES},
        }
        for row in file["rows"]
    ]  # fmt: skip
    cases: dict[tuple[str, str], list[dict[str, Any]]] = {}
    for row in rows:
        cases.setdefault((row["topic"], row["case"]), []).append(row)
    for given, row in zip(file["rows"], rows, strict=True):
        same = cases[row["topic"], row["case"]]
        ours = next((other for other in same if other["ours"]), None)
        if "speedup_over" in given:
            pairs = [(given.get("speedup"), "eager"), (given.get("speedup_over_graph"), "graph")]
            row["ratios"] += [(ratio, f"{given['speedup_over']}, {way}") for ratio, way in pairs if ratio]
        elif "speedup" in given and ours is not None:
            # of ours, stated in the peer's row
            ours["ratios"].append((given["speedup"], row["backend"]))
        elif "ratio" in given and row["ours"]:
            row["ratios"].append((given["ratio"], same[0]["backend"]))
    return rows + [_untimed(file, gate) for gate in file.get("gates", ()) if not gate["passed"]]


def _untimed(file: Values, gate: Values) -> dict[str, Any]:
    """The row of a kernel's test case, or of a model's format, that failed its gate."""
    case = str(gate.get("case") or " by ".join(filter(None, (gate.get("format"), gate.get("model")))))
    return {
        "topic": gate.get("kernel") or f"{_TOPICS['model']} {file.get('model', '')}", "device": file.get("device"),
        "case": case, "file": file.get("file", ""), "backend": "ours", "ours": True,
        "gate": False, "error": None, "said": gate.get("complaint") or "", "ratios": [], **dict.fromkeys(_TIMES),
    }  # fmt: skip


def _topic(file: Values, row: Values) -> str:
    """A kernel with its model and layer, an operation, or one model."""
    words = list(takewhile(lambda word: "=" not in word, str(row["case"]).split()))
    if "kernel" in row:
        return f"{row['kernel']}, {' '.join(words)}" if words else str(row["kernel"])
    if file["op"] == "model":
        return f"{_TOPICS['model']} {words[0]}"
    return " ".join(filter(None, (_TOPICS.get(file["op"], str(file["op"])), str(file.get("model", "")))))


def _case(file: Values, row: Values) -> str:
    """The sizes, and which of several operations of one file it is."""
    words = str(row["case"]).split()
    sizes = " ".join(words[len(list(takewhile(lambda word: "=" not in word, words))) :])
    kind = str(row.get("op", "")).removeprefix(file["op"]).strip() if "kernel" not in row else ""
    if file["op"] == "model":
        kind = ""
    return " · ".join(filter(None, (kind, sizes))) or str(row["case"])


def _passed(file: Values, row: Values) -> bool:
    """Whether all gates before this row did: of its kernel or format in this file, and its own."""
    gate = file.get("gate", {})
    # a gate of several parts fails for those that it names
    before = row.get("kernel", row.get("format")) not in gate["failed"] if "failed" in gate else gate.get("passed")
    return bool(before) and row.get("gate", "passed") == "passed"


def _error(file: Values, row: Values) -> float | None:
    return row.get("max_error", row.get("error", file.get("gate", {}).get("max_error")))


def chart(files: Sequence[Values], device: str | None, topic: str | None) -> str:
    """p50 with p20 to p80 of every case, ours and others, and the floor where it is known."""
    rows = [row for row in measured(files) if (row["device"], row["topic"]) == (device, topic)]
    timed = [row for row in rows if row["p50_ms"]]
    if not timed:
        return nothing(NOTHING if not rows else f"No time of {topic} was stored: see the table.")
    places, titles, at = [], [], 0.0
    for case in dict.fromkeys(row["case"] for row in timed):
        titles.append(
            {"xref": "paper", "x": 0, "xanchor": "left", "y": at, "yanchor": "middle", "text": html.escape(case),
             "showarrow": False, "font": {"size": 12, "color": "$muted"}}
        )  # fmt: skip
        for row in (row for row in timed if row["case"] == case):
            at -= 1
            places.append((at, row))
        at -= 1.3
    values = [row[key] for row in timed for key in ("p20_ms", "p80_ms", "floor_ms") if row[key]]
    low, high = log10(min(values)), log10(max(values))
    middle, span = (low + high) / 2, max(high - low, 1.0)
    data: list[dict[str, Any]] = []
    for gate, name, color in (
        (True, "ours", "$accent"),
        (False, "ours, unverified", "$accent"),
        (None, "others", "$h"),
    ):
        shown = [(y, row) for y, row in places if row["gate"] is gate]
        if shown:
            data.append(
                {
                    "type": "scatter", "mode": "markers", "name": name, "x": [row["p50_ms"] for _, row in shown],
                    "y": [y for y, _ in shown], "marker": {"size": 9, "color": color, "symbol": "circle-open" if gate is False else "circle"},
                    "error_x": {"type": "data", "symmetric": False, "color": color, "thickness": 1.5, "width": 4,
                                "array": [row["p80_ms"] - row["p50_ms"] for _, row in shown],
                                "arrayminus": [row["p50_ms"] - row["p20_ms"] for _, row in shown]},
                    "meta": _told(row for _, row in shown),
                    "customdata": [[row["p20_ms"], row["p80_ms"]] for _, row in shown],
                    "hovertemplate": "p50 %{x} ms, p20 %{customdata[0]}, p80 %{customdata[1]}<extra></extra>",
                }
            )  # fmt: skip
    # words stand on the side where there is more room, and not on a floor
    left = [log10(row["p50_ms"]) >= middle + (0.25 * span if row["floor_ms"] else 0) for _, row in places]
    data.append(
        {
            "type": "scatter", "mode": "text", "y": [y for y, _ in places], "showlegend": False, "hoverinfo": "skip",
            "x": [row["p20_ms" if before else "p80_ms"] for (_, row), before in zip(places, left, strict=True)],
            "text": [f"   {_by(row)}, {_digits(row['p50_ms'])} ms   " for _, row in places],
            "textposition": ["middle left" if before else "middle right" for before in left],
            "textfont": {"size": 12}, "cliponaxis": False,
        }
    )  # fmt: skip
    floors = [(y, row) for y, row in places if row["floor_ms"]]
    if floors:
        data.append(
            {
                "type": "scatter", "mode": "markers", "name": "floor", "x": [row["floor_ms"] for _, row in floors],
                "y": [y for y, _ in floors], "meta": _told(row for _, row in floors), "hovertemplate": "floor %{x} ms<extra></extra>",
                "marker": {"symbol": "line-ns-open", "size": 16, "color": "$text", "line": {"width": 2, "color": "$text"}},
            }
        )  # fmt: skip
    ticks = [k * 10.0**power for power in range(-6, 8) for k in ((1, 2, 5) if span < 2 else (1,))]
    layout = {
        "xaxis": {"type": "log", "title": {"text": "milliseconds"}, "range": [middle - 0.6 * span, middle + 0.6 * span],
                  "tickvals": ticks, "ticktext": [f"{tick:,.6f}".rstrip("0").rstrip(".") for tick in ticks], "ticks": ""},
        "yaxis": {"range": [at + 0.6, 0.7], "showgrid": False, "showticklabels": False, "zeroline": False,
                  "showline": False, "ticks": ""},
        "annotations": titles, "legend": LEGEND, "margin": {"l": 8, "r": 8, "t": 34, "b": 44},
    }  # fmt: skip
    few = "; ".join(f"{row['case']}, {_by(row)} {_digits(row['p50_ms'])} ms" for row in timed[:8])
    alt = f"times of {topic} on {device}, p50: {few}{f'; and {len(timed) - 8} more' if len(timed) > 8 else ''}"
    return figure(data, layout, alt=alt, height=round(90 + 24 * -at), name="times")


def _told(rows: Iterable[Values]) -> dict[str, list[str]]:
    """What stands for the places of points on the page: their cases, and whose times they are."""
    known = list(rows)
    return {"y": [row["case"] for row in known], "point": [_by(row) for row in known]}


def listed(files: Sequence[Values], device: str | None, topic: str | None) -> str:
    """The same as a table, with gates, ratios and floors; what failed says why."""
    rows = [row for row in measured(files) if (row["device"], row["topic"]) == (device, topic)]
    if not rows:
        return ""
    floors = any(row["floor_ms"] for row in rows)
    heads = [("Case", False), ("By", False), ("p20", True), ("p50, ms", True), ("p80", True)]
    heads += [("Floor, ms", True), ("Of it", True)] * floors + [("Gate", False), ("As fast as", False)]
    lines = []
    for row in rows:
        times = [_digits(row[key]) for key in ("p20_ms", "p50_ms", "p80_ms")]
        floor = [_floor(row), percent(row["achieved"], 0)] if floors else []
        lines.append([html.escape(row["case"]), html.escape(_by(row)), *times, *floor, _gate(row), _ratios(row)])
    return table(heads, lines)


def _by(row: Values) -> str:
    """Whose time it is; one that no gate vouches for says so."""
    return f"{row['backend']}, unverified" if row["gate"] is False and row["p50_ms"] else row["backend"]


def _floor(row: Values) -> str:
    return "–" if row["floor_ms"] is None else f"{_digits(row['floor_ms'])} ({_BOUNDS.get(row['bound'], row['bound'])})"


def _gate(row: Values) -> str:
    if row["gate"] is None:
        return f'<span class="wb-note">{html.escape(row["said"])}</span>' if row["said"] else "–"
    error = "" if row["error"] is None else f", error {row['error']:.1e}".replace("-", "−")
    return marked(row["gate"], f"passed{error}" if row["gate"] else html.escape(row["said"] or "failed"))


def _ratios(row: Values) -> str:
    """How many times as fast as whom, if the gate allows to say so."""
    if not row["gate"] or not row["device"]:
        return "–" if row["ours"] else ""
    return "<br>".join(f"{_digits(ratio)}× {html.escape(over)}" for ratio, over in row["ratios"]) or "–"


def source(files: Sequence[Values], device: str | None, topic: str | None) -> str:
    """Which files the rows are of, at which commit, and which peers were missing there."""
    names = {row["file"] for row in measured(files) if (row["device"], row["topic"]) == (device, topic)}
    lines = []
    for file in files:
        if file.get("file", "") in names and file.get("device") == device:
            made = [f"torch {file['versions']['torch']}"] if "versions" in file else []
            words = [
                str(device),
                str(topic),
                f"results/{file['file']}",
                f"commit {file.get('commit', 'unknown')}",
                *made,
            ]
            lines.append(" · ".join(words))
            absent = [f"{one['peer']} ({one['why']})" for one in file.get("missing") or ()]
            lines += [f"Missing peers: {', '.join(dict.fromkeys(absent))}"] if absent else []
    return "".join(f'<p class="wb-note">{html.escape(line)}</p>' for line in lines)


def unmeasured(files: Iterable[Values]) -> str:
    """Which Triton kernels no file has a time of, and what measures them."""
    files = list(files)
    timed = {row["topic"].split(",")[0] for row in measured(files) if row["p50_ms"]}
    left = [name for name in COMPUTES if name not in timed]
    if not left:
        return ""
    # rows of kernels, and of models on them, are of GPUs only
    if any("kernel" in row or "format" in row for file in files for row in file["rows"]):
        return f'<p class="wb-note">Not measured yet: {", ".join(left)}. <code>{SCRIPT}</code> does it.</p>'
    return (
        f'<p class="wb-lead">The Triton kernels: <b>{NOT_MEASURED}</b>. On a machine with one, <code>{SCRIPT}</code> '
        "measures them and whole models on them, and writes files that appear here.</p>"
    )


def _digits(value: float | None) -> str:
    """Three digits that count, or all before the point."""
    if value is None:
        return "–"
    return f"{value:,.0f}" if value >= 100 else f"{value:#.3g}".removesuffix(".")
