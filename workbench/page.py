"""What the tabs share: the model that is being looked at, and the way from one tab to another."""

from __future__ import annotations

import html
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from typing import Any

import gradio as gr

from ouro.metrics import METRICS, metric_of

_OURS = {"api_visibility": "private"}
PRIVATE: dict[str, Any] = {**_OURS, "show_progress": "hidden", "show_progress_on": []}
"""Options of an event that only the page itself uses and whose outputs are not to flicker.

Without the empty list the page keeps the state of every output that ever was one, and looks all of them up whenever any event
moves: seconds of a core before the first picture.
"""

DIMMED: dict[str, Any] = {**_OURS, "show_progress": "minimal"}
"""The same, for outputs that are dimmed until the new ones are there."""


@dataclass(frozen=True, slots=True)
class Page:
    """Components that belong to no single tab.

    brought: changes whenever models or pictures came or went. wanted: what an address asks for; addressed: tab -> what it
    keeps in the address, name -> component; see `workbench.address`. kept: what was set in the form of a tab.
    """

    model: gr.Dropdown
    device: gr.HTML
    tabs: gr.Tabs
    brought: gr.State
    wanted: gr.State
    kept: Mapping[str, gr.BrowserState]
    addressed: dict[str, dict[str, Any]] = field(default_factory=dict)


def lead(words: str) -> gr.HTML:
    """A short paragraph that says what a tab shows; may hold simple markup."""
    return gr.HTML(f'<p class="wb-lead wb-small-lead">{words}</p>', apply_default_css=False)


def title(words: str, aside: str = "") -> gr.HTML:
    """A heading inside a tab."""
    small = f"<small>{html.escape(aside)}</small>" if aside else ""
    return gr.HTML(f'<h3 class="wb-title">{html.escape(words)}{small}</h3>', apply_default_css=False)


def percent(value: float | None, digits: int = 1) -> str:
    """0.943 -> "94.3 %"."""
    return "–" if value is None else f"{100 * value:.{digits}f}\u00a0%"


def signed(value: float, digits: int) -> str:
    """-0.041 -> "−0.04", with a sign as long as anything is left of it."""
    text = f"{value:+.{digits}f}".replace("-", "−")
    return text if text.strip("+−0.") else text[1:]


def score(row: Mapping[str, Any], key: str = "", *, named: bool = True) -> str:
    """The main score of a row, with its name unless `named` is False, or what else is measured in it; "–" without one."""
    name = metric_of(row)
    value = row.get(key or name)
    if value is None:
        return "–"
    metric = METRICS[name]
    shown = metric.shown(value).replace(" %", "\u00a0%")
    return f"{metric.title} {shown}" if named and not key else shown


def headline(metric: str) -> str:
    """The name of a score as a heading begins with it: Top-1, mIoU."""
    title = METRICS[metric].title
    return title[0].upper() + title[1:] if title.islower() else title


def interval(row: Mapping[str, Any]) -> str:
    """The 95 % interval of a row's score, "–" without one."""
    low, high = row.get("ci95") or (None, None)
    if low is None:
        return "–"
    metric = METRICS[metric_of(row)]
    digits = ".1f" if metric.share else ".3g"
    return f"{metric.factor * low:{digits}} – {metric.factor * high:{digits}}"


def count(n: int) -> str:
    """7148008 -> "7.1 M"."""
    return f"{n / 1e6:.1f} M" if n >= 1e6 else f"{n / 1e3:.0f} k"


def facts(pairs: Iterable[tuple[str, str]]) -> str:
    """Numbers that matter, large, each with what it counts."""
    cells = (f"<div><b>{html.escape(number)}</b><span>{html.escape(words)}</span></div>" for number, words in pairs)
    return f'<div class="wb-facts">{"".join(cells)}</div>'


def table(heads: Iterable[tuple[str, bool]], rows: Iterable[Iterable[str]]) -> str:
    """An HTML table that scrolls by itself; a head is (words, whether its column holds numbers), cells are markup."""
    heads = list(heads)
    look = [' class="wb-n"' if number else "" for _, number in heads]
    top = "".join(f'<th scope="col"{kind}>{words}</th>' for (words, _), kind in zip(heads, look, strict=True))
    body = "".join(
        f"<tr>{''.join(f'<td{kind}>{cell}</td>' for cell, kind in zip(row, look, strict=True))}</tr>" for row in rows
    )
    inner = f"<thead><tr>{top}</tr></thead><tbody>{body}</tbody>"
    return f'<div class="wb-scroll"><table class="wb-table">{inner}</table></div>'
