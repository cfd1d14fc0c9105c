"""Paper: every figure and table of the papers, what the stored runs say of its claims, and where to look for oneself."""

from __future__ import annotations

import html
from collections import Counter
from collections.abc import Mapping, Sequence
from typing import Any

import gradio as gr

from workbench import address, engine, ways
from workbench.acts import acting_view, button
from workbench.errors import guarded
from workbench.page import PRIVATE, Page, lead

ALL = "all"
_MARKS = {"seen": "✓", "not resolved": "≈", "not seen": "✗", "opposite": "✗", "not measured": "–", "no claim": "·"}
WORDS = tuple(_MARKS)
_TABS = {
    "fig1": "attention", "fig2": "samples", "fig3": "samples", "fig4": "outliers", "fig5": "samples", "fig7": "outliers",
    "fig8": "kernels", "fig9a": "samples", "fig9b": "samples", "fig9c": "samples", "fig9d": "outliers", "table1": "quantize",
    "table2": "quantize", "table5": "quantize", "table6": "samples", "kscaled-accuracy": "quantize", "ouro-plus": "quantize",
}  # fmt: skip
"""Entry of the ledger -> the tab where the same can be tried."""

Row = Mapping[str, Any]
_HALF = 62
"""Half the width of a drawn interval, in pixels."""


def chip(word: str) -> str:
    """A verdict, by its mark and its word as well as by its color."""
    return f'<span class="wb-verdict wb-{word.replace(" ", "-")}"><i>{_MARKS[word]}</i>{html.escape(word)}</span>'


def whisker(interval: Sequence[float], reach: float) -> str:
    """An interval as a picture, with a line where it is decided; `reach` from that line is half the width."""
    value, low, high, reference = interval

    def at(x: float) -> float:
        return _HALF + _HALF * 0.94 * (x - reference) / (reach or 1)

    return (
        f'<svg class="wb-whisker" viewBox="0 0 {2 * _HALF} 14" width="{2 * _HALF}" height="14" aria-hidden="true">'
        f'<line x1="{_HALF}" x2="{_HALF}" y1="0" y2="14" class="wb-whisker-zero"/>'
        f'<line x1="{at(low):.1f}" x2="{at(high):.1f}" y1="7" y2="7"/><circle cx="{at(value):.1f}" cy="7" r="3"/></svg>'
    )


def listed(rows: Sequence[Row], word: str = ALL) -> str:
    """The ledger as markup: a row per figure or table, its points behind it; only those of one verdict, if one is given."""
    shown = [row for row in rows if word in (ALL, row["verdict"])]
    if not rows:
        return '<p class="wb-note">No stored runs: the folder results/ is not there; a checkout and an installed package have it.</p>'
    if not shown:
        return f'<p class="wb-note">No figure and no table has the verdict “{html.escape(word)}”.</p>'
    return "".join(map(_entry, shown))


def counted(rows: Sequence[Row]) -> list[tuple[str, str]]:
    """Choices of the filter: every verdict that there is, with how often."""
    counts = Counter(row["verdict"] for row in rows)
    return [(f"All {len(rows)}", ALL), *((f"{word} {counts[word]}", word) for word in WORDS if counts[word])]


def _entry(row: Row) -> str:
    known = [point["interval"] for point in row["points"] if point["interval"]]
    reach = max((abs(end - one[3]) for one in known for end in one[:3]), default=0.0)
    points = "".join(
        f'<li class="wb-{point["word"].replace(" ", "-")}">{chip(point["word"])}'
        + (whisker(point["interval"], reach) if point["interval"] else "<i></i>")
        + f"<span>{html.escape(point['claim'])}"
        + (f"<small>{html.escape(point['why'])}</small>" if point["why"] else "")
        + "</span></li>"
        for point in row["points"]
    )
    origin = [f"<code>{html.escape(command)}</code>" for command in row["commands"]]
    origin += [ways.way(f"results/{name}", address.link("runs", run=name)) for name in row["results"]]
    origin += [f"notebooks/{html.escape(row['notebook'])}.ipynb"] if row["notebook"] else []
    source = f'<p class="wb-note">{" · ".join(origin)}</p>' if origin else ""
    tab = _TABS.get(row["name"])
    way = button("Try it", "open", f"{tab} {model_of(row)}".strip()) if tab else ""
    name = html.escape(row["name"])
    return (
        f'<details class="wb-claim" data-name="{name}" id="wb-paper-{name}"><summary>{chip(row["verdict"])}'
        f"<b>{html.escape(row['paper'])}, {html.escape(row['title'])}</b><span>{html.escape(row['shows'])}</span></summary>"
        f"<div><p>Here: {html.escape(row['ours'])}.</p><ul>{points}</ul>{source}{way}</div></details>"
    )


def model_of(row: Row) -> str:
    """The model whose points decide an entry; "" where none of them belongs to a model."""
    from ouro.paper.verdict import MAIN

    models = [point["model"] for point in row["points"] if point["model"]]
    return MAIN if MAIN in models else next(iter(models), "")


def build(page: Page) -> dict[str, Any]:
    """Fills the tab; returns what is to be done when the page opens."""
    lead(
        "What the papers show, figure by figure and table by table, and what the runs that are stored beside the code say of it. "
        "An entry's verdict is the most critical of its points, of those on real images where there are any; open it to see each "
        "with the interval that decides it, drawn around the line that it has to be clear of."
    )
    which = gr.Radio([("All", ALL)], value=ALL, show_label=False, container=False, elem_id="wb-paper-filter")
    ledger = acting_view("wb-paper-ledger", tab="paper", key="entry")

    def choose(ask: address.Asked) -> dict[Any, Any]:
        rows = engine.ledger()
        word = ask.one_of("verdict", ALL, [value for _, value in counted(rows)])
        entry = ask.one_of("entry", None, {row["name"]: row for row in rows})
        if entry is not None and word not in (ALL, entry["verdict"]):
            # what is asked for by name is shown
            word = ALL
        return {which: gr.Radio(counted(rows), value=word), ledger: listed(rows, word)}

    @guarded
    def opened(request: gr.Request) -> dict[Any, Any]:
        return choose(address.opening("paper", request))

    address.form(page, "paper", {"verdict": which}, lambda ask, model: choose(ask), [ledger])

    @guarded
    def filtered(word: str) -> str:
        return listed(engine.ledger(), word)

    @guarded
    def acted(event: gr.EventData) -> tuple[gr.Tabs, Any]:
        tab, _, model = event.name.partition(" ")
        return gr.Tabs(selected=tab), model or gr.skip()

    which.input(filtered, which, ledger, **PRIVATE)
    ledger.select(acted, None, [page.tabs, page.model], **PRIVATE)
    return {"loads": [(opened, None, [which, ledger])]}
