"""Two rows of the table against each other: what they differ in, by how much, and on which images."""

from __future__ import annotations

import html
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import numpy as np

from ouro.metrics import METRICS, Metric, metric_of
from workbench import engine, grid, pack
from workbench.page import percent, table
from workbench.plot import LEGEND, figure, nothing

Row = Mapping[str, Any]

CLASSES = 8
"""Classes that are listed: those that differ most."""
IMAGES = 24
"""Images that are shown of those whose class changed."""
_PICTURE = 96


def contrast(rows: Sequence[Row]) -> str:
    """The first two of the pinned rows side by side as HTML; "" for fewer than two."""
    if len(rows) < 2:
        return ""
    a, b = rows[:2]
    parts = [f'<p class="wb-lead">{difference(a, b)}</p>', settings(a, b), *classes(a, b), *changed(a, b)]
    return "".join(parts)


# ---- the difference --------------------------------------------------------------------------------------------


def difference(a: Row, b: Row) -> str:
    """A sentence with markup: how far A is ahead of B, with an interval where both answered to the same images."""
    metric_a, metric_b = metric_of(a), metric_of(b)
    without = [name for name, row, metric in (("A", a, metric_a), ("B", b, metric_b)) if row.get(metric) is None]
    if without and all(row.get("agreement") is not None for row in (a, b)):
        return _agreeing(a, b)
    if without:
        return f"A and B have no score to compare: {' and '.join(without)} had no images with the answers beside them."
    if metric_a != metric_b:
        return f"A has {METRICS[metric_a].title}, B {METRICS[metric_b].title}: these are no two scores of one kind."
    metric = METRICS[metric_a]
    gap = a[metric_a] - b[metric_b]
    said = f"{metric.title[0].upper()}{metric.title[1:]} of A is {_shown(metric, a, metric_a)}, of B {_shown(metric, b, metric_b)}"
    apart = f"A − B is <b>{_gap(metric, gap)}</b>"
    why = unpaired(a, b)
    if why:
        return f"{said}. {apart}. Not paired, so without an interval of its own: {html.escape(why)}."
    between = engine.between(_cells(a, metric_a), _cells(b, metric_a), metric_a)
    low, high = sorted(metric.better(end) for end in between["ci95"])
    verdict = {"yes": "A is better", "no": "B is better", "not resolved": "which is better is not resolved"}
    alone = f" Only A is right {_times(between['won'])}, only B {_times(between['lost'])}." if "won" in between else ""
    return (
        f"{said}. {apart}, 95 % interval {_signed(metric, low)} to {_gap(metric, high)}, paired on the same {a['n']} images: "
        f"<b>{verdict[between['seen']]}</b>.{alone}"
    )


def _agreeing(a: Row, b: Row) -> str:
    """As `difference`, of rows without a score: how much more often A answers as the float model does."""
    shares = f"A answers as the float model does on {percent(a['agreement'])}, B on {percent(b['agreement'])}"
    said = f"No answers go with these images, so there is no score. {shares}"
    gap = f"A − B is <b>{_points(a['agreement'] - b['agreement'])} points</b>"
    why = unpaired(a, b, ("same",))
    if why:
        return f"{said}. {gap}. Not paired, so without an interval of its own: {html.escape(why)}."
    cells = [[{"n": row["n"], "right": kept} for kept in row["same"]] for row in (a, b)]
    between = engine.between(*cells, "top1")
    low, high = map(_points, between["ci95"])
    verdict = {
        "yes": "A is closer to it",
        "no": "B is closer to it",
        "not resolved": "which is closer to it is not resolved",
    }
    return (
        f"{said}. {gap}, 95 % interval {low} to {high} points, paired on the same {a['n']} images: "
        f"<b>{verdict[between['seen']]}</b>."
    )


def unpaired(a: Row, b: Row, outcomes: Sequence[str] = ("right", "resampled")) -> str:
    """Why the difference cannot be taken image by image, "" where it can; `outcomes` are the fields that may have them."""
    if a.get("data") != b.get("data"):
        return f"A was measured on {a.get('data')}, B on {b.get('data')}"
    if a.get("n") != b.get("n"):
        return f"A was measured on {a.get('n')} images, B on {b.get('n')}"
    kept = [next((key for key in outcomes if row.get(key)), None) for row in (a, b)]
    without = [name for name, key in zip("AB", kept, strict=True) if key is None]
    if without:
        return f"of {' and '.join(without)} the outcomes of single images were not kept"
    seeds = [len(row[str(key)]) for row, key in zip((a, b), kept, strict=True)]
    if seeds[0] != seeds[1]:
        return f"A is the mean of {_runs(seeds[0])}, B of {_runs(seeds[1])}"
    return ""


def _cells(row: Row, metric: str) -> list[dict[str, Any]]:
    """A row as the runs that it is the mean of, see `ouro.evaluate.paired.between`."""
    key = "right" if row.get("right") else "resampled"
    return [{"n": row["n"], metric: row[metric], key: kept} for kept in row[key]]


def _shown(metric: Metric, row: Row, name: str) -> str:
    """A score with what is known of its doubt."""
    said = grid.texts(row)
    if said["ci95"] != grid.NONE:
        return f"{metric.shown(row[name])} ({said['ci95']})"
    if said["spread"] != grid.NONE:
        return f"{metric.shown(row[name])} (± {said['spread']} over seeds)"
    return metric.shown(row[name])


def _gap(metric: Metric, value: float) -> str:
    return _signed(metric, value) + (" points" if metric.share else "")


def _signed(metric: Metric, value: float) -> str:
    return metric.gap(value).replace("-", "−")


def _times(count: int) -> str:
    return {0: "never", 1: "once"}.get(count, f"{count} times")


def _runs(count: int) -> str:
    return "one run" if count == 1 else f"{count} runs"


# ---- what they differ in ---------------------------------------------------------------------------------------


def settings(a: Row, b: Row) -> str:
    """A table of the columns in which the rows differ."""
    lines = [
        [html.escape(column.title), html.escape(one[0]), html.escape(other[0])]
        for column, one, other in zip(grid.COLUMNS, grid.cells(a), grid.cells(b), strict=True)
        if one[0] != other[0]
    ]
    return differing(lines, "A", "B")


def differing(lines: Sequence[Sequence[str]], one: str, other: str) -> str:
    """(what, words, words) of what two things differ in, as a table; a sentence where there is nothing."""
    if not lines:
        return '<p class="wb-note">They differ in nothing.</p>'
    return f'<div class="wb-diff">{table([("", False), (one, False), (other, False)], lines)}</div>'


# ---- classes, images and blocks: of runs of this session -------------------------------------------------------


def classes(a: Row, b: Row) -> Iterator[str]:
    """The classes that differ most, each with the score of both."""
    sides = [_per_class(row) for row in (a, b)]
    if any(side is None for side in sides) or unpaired(a, b):
        return
    first, second = (dict(side or ()) for side in sides)
    known = [name for name in first if first[name] is not None and second.get(name) is not None]
    known.sort(key=lambda name: -abs(first[name] - second[name]))
    lines = [
        [html.escape(name.replace("_", " ")), percent(first[name]), percent(second[name]), _points(first[name] - second[name])]
        for name in known[:CLASSES]
    ]  # fmt: skip
    more = f"the {CLASSES} of {len(known)} that differ most" if len(known) > CLASSES else "those that differ most first"
    yield f'<h3 class="wb-title">Class by class<small>{more}</small></h3>'
    yield table([("Class", False), ("A", True), ("B", True), ("A − B", True)], lines)


def _points(share: float) -> str:
    return f"{100 * share:+.1f}".replace("-", "−")


def _per_class(row: Row) -> list[tuple[str, float | None]] | None:
    """(class, score) of a run of this session, None of any other row."""
    if "per_class" in row and "classes" in row:
        return list(zip(row["classes"], row["per_class"], strict=True))
    if "answers" not in row:
        return None
    labels, right = row["labels"], row["answers"] == row["labels"]
    return [(_class(row, k), float(right[labels == k].mean())) for k in np.unique(labels)]


def changed(a: Row, b: Row) -> Iterator[str]:
    """The images that A and B take for different classes, with all three answers."""
    if "answers" not in a or "answers" not in b or a["model"] != b["model"] or unpaired(a, b):
        return
    apart = np.flatnonzero(a["answers"] != b["answers"])
    words = f"{len(apart)} of {a['n']}" + (f", the first {IMAGES}" if len(apart) > IMAGES else "")
    yield f'<h3 class="wb-title">Images whose class changed<small>{words}</small></h3>'
    if not len(apart):
        yield '<p class="wb-note">A and B take every image for the same class.</p>'
        return
    yield '<ul class="wb-changed" tabindex="0" aria-label="images whose class changed">'
    yield from (_image(a, b, int(at)) for at in apart[:IMAGES])
    yield "</ul>"


def _image(a: Row, b: Row, at: int) -> str:
    """One image, what it shows, and what the float model, A and B take it for."""
    truth = int(a["labels"][at])
    told = [("float", a["fp_answers"]), ("A", a["answers"]), ("B", b["answers"])]
    lines = "".join(
        f'<span class="{"wb-good" if answers[at] == truth else "wb-bad"}"><i>{who}</i> '
        f"{'✓' if answers[at] == truth else '✗'} {html.escape(_class(a, int(answers[at])).replace('_', ' '))}</span>"
        for who, answers in told
    )
    name = html.escape(_class(a, truth).replace("_", " "))
    picture = engine.picture(a["model"], at, None, a["data"])
    step = max(1, picture.shape[-1] // _PICTURE)
    source = pack.png_url(np.ascontiguousarray(picture[:, ::step, ::step].transpose(1, 2, 0)))
    return f'<li><img alt="{name}, no. {at}" src="{source}"><b>{name}</b>{lines}</li>'


def _class(row: Row, number: int) -> str:
    names = engine.pixels(row["model"])[2]
    return names[number] if names else f"class {number}"


def blocks(rows: Sequence[Row]) -> str:
    """The value of a `plot_view`: how far the outputs of each block are from the float model's, for both rows."""
    pair = [row for row in rows[:2] if "block_error" in row]
    if len(pair) < 2 or pair[0]["model"] != pair[1]["model"]:
        return nothing("")
    data = [
        {
            "type": "scatter", "mode": "lines+markers", "name": f"{letter}: {row['method']} {row['bits']}",
            "x": list(range(len(row["block_error"]))), "y": list(row["block_error"]),
            "line": {"color": color, "width": 2, "dash": dash}, "marker": {"size": 6},
            "hovertemplate": "section %{x}: %{y:.2e}<extra></extra>",
        }
        for letter, row, color, dash in zip("AB", pair, ("$h", "$hp"), ("solid", "dash"), strict=True)
    ]  # fmt: skip
    layout = {
        "xaxis": {"title": {"text": "section of the model, from the input to the output"}, "dtick": 1 + len(pair[0]["block_error"]) // 24},
        "yaxis": {"title": {"text": "cosine distance to float"}, "type": "log", "exponentformat": "power"},
        "legend": LEGEND, "margin": {"l": 64, "r": 8, "t": 30, "b": 44},
    }  # fmt: skip
    last = " and ".join(f"{letter} {row['block_error'][-1]:.1e}" for letter, row in zip("AB", pair, strict=True))
    alt = f"cosine distance to the float model section by section, on the images that calibrated; at the end {last}"
    return figure(data, layout, alt=alt, height=240, name="sections")
