"""Runs: everything that was computed and kept on this machine, to be found, compared, annotated, opened and deleted."""

from __future__ import annotations

import html
import json
from collections.abc import Mapping, Sequence
from typing import Any

import gradio as gr

from workbench import address, runbook, runner, stored
from workbench.acts import acting_view
from workbench.errors import guarded
from workbench.page import PRIVATE, Page, interval, lead, table, title
from workbench.runbook import Entry

MOST = 4
"""Runs that fit beside each other."""
_SHOWN = 300
_ANY = ""
_NONE = '<p class="wb-empty">Nothing has been kept yet. Samples, Quantize and Sensitivity leave their runs here.</p>'
_TICK = "Tick two to four runs to see what differs between them."
_LETTERS = "ABCD"

_HEADS = [
    ('<span class="wb-unseen">Compare</span>', False), ("Kind", False), ("Model", False), ("Method", False),
    ("Bits", False), ("Calibration", False), ("Score", True), ("95 % interval", True), ("Seed", True), ("When", True),
    ("Took", True), ("Size", True), ('<span class="wb-unseen">What to do</span>', True),
]  # fmt: skip


def listed(entries: Sequence[Entry], ticked: Sequence[str] = (), opened: str = "") -> str:
    """The runs as an HTML table with a box to tick and buttons in every row."""
    if not entries:
        return _NONE
    rows = [_row(entry, entry.name in ticked, entry.name == opened) for entry in entries[:_SHOWN]]
    more = f'<p class="wb-note">{_SHOWN} of {len(entries)} are listed; filter to see the others.</p>'
    return table(_HEADS, rows) + (more if len(entries) > _SHOWN else "")


def _row(entry: Entry, ticked: bool, opened: bool) -> list[str]:
    spec, values, said = entry.spec, entry.scored, html.escape
    box = (
        f'<input type="checkbox" data-act="tick" data-name="{entry.name}"{" checked" if ticked else ""} '
        f'aria-label="Compare {said(entry.title, quote=True)}">'
    )
    kind = f"<b>{said(entry.kind)}</b>"
    if entry.report is None:
        kind += ' <span class="wb-unfinished">unfinished</span>'
    if entry.notes:
        kind += f'<span class="wb-noted" title="{said(entry.notes, quote=True)}">{said(entry.notes)}</span>'
    acts = _way(
        "Hide" if opened else "Details", "details", address.link("runs", run="" if opened else entry.name), entry
    )
    if place := runbook.shown_at(entry):
        acts += _way("Open", "open", place, entry)
    method, bits = str(spec.get("method", "–")), str(values.get("bits", spec.get("bits", "–")))
    took = "–" if entry.seconds is None else runner.clock(entry.seconds)
    return [
        box, kind, f"<code>{said(entry.model or '–')}</code>", said(method), said(bits), said(entry.calibration or "–"),
        said(entry.score), interval(values), str(spec.get("seed", "–")),
        f'<time datetime="{entry.when:%Y-%m-%dT%H:%M:%S}">{entry.when:%Y-%m-%d %H:%M}</time>', took,
        runbook.size(entry.size), acts,
    ]  # fmt: skip


def _way(words: str, act: str, href: str, entry: Entry) -> str:
    about = html.escape(f"{words} {entry.title}", quote=True)
    return (
        f'<a class="wb-small" href="{html.escape(href, quote=True)}" data-act="{act}" data-name="{entry.name}" '
        f'aria-label="{about}">{words}</a>'
    )


def summary(shown: Sequence[Entry], found: Sequence[Entry]) -> str:
    """How many runs there are, and how much room they take."""
    if not found:
        return ""
    room = runbook.size(sum(entry.size for entry in found))
    unfinished = sum(entry.report is None for entry in found)
    words = (
        f"{len(shown)} of {len(found)} runs" if len(shown) < len(found) else f"{len(found)} run{'s' * (len(found) > 1)}"
    )
    rest = f", {unfinished} unfinished" if unfinished else ""
    return f'<p class="wb-note" role="status">{words}{rest} · {room} on disk in all</p>'


def beside(entries: Sequence[Entry]) -> str:
    """What differs between the runs, as an HTML table."""
    if len(entries) < 2:
        return f'<p class="wb-note">{_TICK}</p>'
    rows, same = runbook.differences(entries)
    heads = [("What", False)] + [
        (f'{letter} <span class="wb-note">{html.escape(entry.title)}</span>', False)
        for letter, entry in zip(_LETTERS, entries, strict=False)
    ]
    lines = [[f"<code>{html.escape(key)}</code>", *map(html.escape, values)] for key, values in rows]
    words = f'<p class="wb-note">{same} more are the same in all. asked: the spec; found: the report.</p>'
    return (table(heads, lines) if lines else "") + words


def detail(entry: Entry) -> str:
    """Spec and report of a run as JSON."""
    files = ", ".join(f"{name} {runbook.size(number)}" for name, number in sorted(entry.files.items()))
    found = "It is not finished." if entry.report is None else entry.report
    return _jsons(f"{entry.title} · run {entry.name}", files, {"Spec": entry.spec, "Report": found})


def stored_detail(place: str) -> str:
    """A file in results/ as JSON, or a row of it with what the file says of them all.

    Raises:
        ValueError: there is none.
    """
    name, _, number = place.partition(":")
    content = stored.result(name)
    made = ", ".join(f"{key} {content[key]}" for key in ("device", "commit") if key in content)
    row = stored.row(place) if number else None
    if number and row is None:
        raise ValueError(f"there is no row {number} in results/{name}")
    spec = content.get("spec") or {key: value for key, value in content.items() if not isinstance(value, dict | list)}
    found = content if row is None else row
    title = f"results/{name}" + (f" · row {number}" if number else "")
    return _jsons(title, made, {"Spec": spec, "Report" if row is None else "Row": runbook.brief(found)})


def _jsons(title: str, about: str, parts: Mapping[str, Any]) -> str:
    """Values as JSON side by side; a text stays as it is."""
    texts = {
        head: value if isinstance(value, str) else json.dumps(runbook.shown(value), indent=2, ensure_ascii=False)
        for head, value in parts.items()
    }
    blocks = "".join(
        f'<section><h4>{head}</h4><pre tabindex="0" role="region" aria-label="{head} of the run">{html.escape(text)}</pre></section>'
        for head, text in texts.items()
    )
    return (
        f'<p class="wb-lead">{html.escape(title)}</p><p class="wb-note">{html.escape(about)}</p>'
        f'<div class="wb-two wb-jsons">{blocks}</div>'
    )


def _file(entries: Sequence[Entry]) -> str | None:
    """The runs as a CSV file."""
    return stored.exported_table("runs", runbook.HEADS, map(runbook.cells, entries)) if entries else None


def build(page: Page, tab: gr.Tab) -> dict[str, Any]:
    """Fills the tab, which reads the store whenever it is opened; returns what is to be done when the page opens."""
    lead(
        "Whatever is made here or on the command line is kept together with what was asked for. Find it again, see what "
        "differs, write down what you learned, and make room."
    )
    ticks, one = gr.State([]), gr.State("")
    with gr.Row(elem_classes="wb-controls", elem_id="wb-runs-filters"):
        find = gr.Textbox(
            label="Find",
            placeholder="method, bits, notes …",
            elem_id="wb-runs-words",
            scale=3,
            min_width=180,
            max_lines=1,
        )
        of_kind = gr.Dropdown([("Any", _ANY)], value=_ANY, label="Kind", filterable=False, elem_id="wb-runs-kind",
                           scale=2, min_width=130)  # fmt: skip
        of_model = gr.Dropdown([("Any", _ANY)], value=_ANY, label="Model", filterable=False, elem_id="wb-runs-model",
                            scale=2, min_width=130)  # fmt: skip
        order = gr.Dropdown([(words, name) for name, (words, _) in runbook.SORTS.items()], value="newest",
                           label="Order", filterable=False, elem_id="wb-runs-sort", scale=2, min_width=130)  # fmt: skip
    with gr.Row(elem_classes="wb-inline", elem_id="wb-runs-top"):
        total = gr.HTML(elem_id="wb-runs-total", apply_default_css=False)
        file = gr.DownloadButton("Download CSV", size="sm", interactive=False, elem_id="wb-runs-file", min_width=140)
    with gr.Column(elem_classes="wb-tall"):
        rows = acting_view("wb-runs-rows", value=_NONE)
    with gr.Column(visible=False, elem_classes="wb-frame", elem_id="wb-runs-detail") as panel:
        said = gr.HTML(elem_id="wb-runs-said", apply_default_css=False)
        line = gr.Textbox(
            label="The command that makes it again",
            buttons=["copy"],
            interactive=False,
            elem_id="wb-runs-command",
            lines=1,
        )
        with gr.Row(elem_classes="wb-inline") as own:
            notes = gr.Textbox(label="Notes", elem_id="wb-runs-notes", lines=2, max_lines=6, scale=4, min_width=220)
            keep = gr.Button("Save notes", elem_id="wb-runs-keep", min_width=110)
            drop = gr.Button("Delete …", elem_id="wb-runs-delete", min_width=100)
        with gr.Row(visible=False, elem_classes="wb-inline", elem_id="wb-runs-sure") as sure:
            lost = gr.HTML(elem_id="wb-runs-lost", apply_default_css=False)
            really = gr.Button("Delete for good", variant="stop", elem_id="wb-runs-really", min_width=140)
            no = gr.Button("Keep it", elem_id="wb-runs-no", min_width=90)
    title("Compare runs", "two to four of them, by what they were asked and what they found")
    compared = gr.HTML(beside([]), elem_id="wb-runs-beside", elem_classes="wb-tall", apply_default_css=False)

    settings = [find, of_kind, of_model, order, ticks, one]
    views = [total, rows, of_kind, of_model, ticks, compared, file]
    details = [one, panel, said, line, notes, sure, own]

    def show(words: str, kind: str, model: str, sort: str, ticked: Sequence[str], opened: str) -> dict[Any, Any]:
        """All that depends on the filters and on what is ticked; what is gone is no longer ticked."""
        found = runbook.entries()
        kinds, models = (sorted({getattr(entry, key) for entry in found} - {""}) for key in ("kind", "model"))
        kind, model = kind if kind in kinds else _ANY, model if model in models else _ANY
        kept = runbook.chosen(found, words or "", kind, model, sort)
        by_name = {entry.name: entry for entry in found}
        several = [by_name[name] for name in ticked if name in by_name]
        exported = several or kept
        path = _file(exported)
        many = f"{len(exported)} ticked" if several else f"{len(exported)} listed"
        return {
            total: summary(kept, found),
            rows: listed(kept, [entry.name for entry in several], opened),
            of_kind: gr.Dropdown(choices=[("Any", _ANY), *((name, name) for name in kinds)], value=kind),
            of_model: gr.Dropdown(choices=[("Any", _ANY), *((name, name) for name in models)], value=model),
            ticks: [entry.name for entry in several],
            compared: beside(several),
            file: gr.DownloadButton(f"Download CSV ({many})", value=path, interactive=path is not None),
        }

    def detailed(name: str) -> dict[Any, Any]:
        """The panel of one run, or none of it."""
        if not name:
            return {one: "", panel: gr.Column(visible=False), sure: gr.Row(visible=False)}
        update = {one: name, panel: gr.Column(visible=True), sure: gr.Row(visible=False)}
        if ".json" in name:
            # what came along is nobody's to annotate or delete
            return {**update, said: stored_detail(name), line: runbook.result_command(name), own: gr.Row(visible=False)}
        entry = runbook.entry_of(name)
        command = runbook.command(entry) or runbook.NO_COMMAND
        return {**update, said: detail(entry), line: command, notes: entry.notes, own: gr.Row(visible=True)}

    @guarded
    def look(*settings: Any) -> dict[Any, Any]:
        return show(*settings)

    changes = [of_kind.input, of_model.input, order.input, tab.select, find.change]
    gr.on(changes, look, settings, views, trigger_mode="always_last", **PRIVATE)

    @guarded
    def act(*given: Any) -> dict[Any, Any]:
        *filters, ticked_now, opened_now, event = given
        name = str(event["name"])
        chosen = [one for one in ticked_now if one != name] + ([name] if event.get("on") else [])
        if len(chosen) > MOST:
            gr.Info(f"{MOST} runs fit beside each other; the one that was ticked first is left out", duration=6)
        update = show(*filters, chosen[-MOST:], opened_now)
        # the box shows already what was done to it, and another may have been ticked meanwhile
        return update if len(chosen) > MOST else {**update, rows: gr.skip()}

    def acted(
        words: str, kind: str, model: str, sort: str, ticked: list[str], opened: str, event: gr.EventData
    ) -> dict[Any, Any]:
        return act(words, kind, model, sort, ticked, opened, event._data)

    # one after the other: each begins with what the one before it left
    rows.select(
        acted,
        settings,
        views,
        trigger_mode="multiple",
        concurrency_limit=1,
        **PRIVATE,
    )

    @guarded
    def save(name: str, text: str, *settings: Any) -> dict[Any, Any]:
        runbook.note(name, text or "")
        gr.Info("The notes are kept beside the run.", duration=4)
        return show(*settings)

    keep.click(save, [one, notes, *settings], views, **PRIVATE)

    @guarded
    def ask(name: str) -> dict[Any, Any]:
        words = runbook.losses(runbook.entry_of(name), runbook.entries())
        return {sure: gr.Row(visible=True), lost: f'<p class="wb-refused" role="alert">{html.escape(words)}</p>'}

    drop.click(ask, one, [sure, lost], **PRIVATE)
    no.click(lambda: gr.Row(visible=False), None, sure, **PRIVATE)

    @guarded
    def remove(name: str, *settings: Any) -> dict[Any, Any]:
        runbook.delete(name)
        return show(*settings[:-1], "") | detailed("")

    # other tabs have lists of sets and of quantized models
    gone = really.click(remove, [one, *settings], [*views, *details], **PRIVATE)
    gone.success(None, None, None, js="() => wb.address.put('runs', ['run'], [''])", api_visibility="private")
    gone.success(lambda brought: brought + 1, page.brought, page.brought, **PRIVATE)

    @guarded
    def asked(model: str, wanted: Mapping[str, Any], *settings: Any) -> dict[Any, Any]:
        """The list and the run that an address asks for."""
        ask = address.Asked("runs", model, wanted)
        if not ask.values:
            return dict.fromkeys([*filters.values(), *views, *details], gr.skip())
        words, kind, of, sort, ticked, _ = settings
        kind, of = ask.values.get("kind", kind), ask.values.get("of", of)
        words, sort = ask.values.get("find", words), ask.one_of("sort", sort, list(runbook.SORTS))
        name = str(ask.values.get("run", ""))
        try:
            update = detailed(name)
        except ValueError as error:
            ask.refuse("run", runner.first_line(error))
            name, update = "", detailed("")
        seen = show(words, kind, of, sort, ticked, name)
        # while an event is answered, what Gradio makes of a list cannot be asked for its value
        found = runbook.entries()
        for key, value, part in (("kind", kind, "kind"), ("of", of, "model")):
            if key in ask.values and value not in (_ANY, *(getattr(entry, part) for entry in found)):
                ask.refuse(key, "no run is of it")
        ask.say()
        return {**seen, **update, find: words, order: sort}

    filters = {"find": find, "kind": of_kind, "of": of_model, "sort": order}
    page.wanted.change(asked, [page.model, page.wanted, *settings], [*filters.values(), *views, *details], **PRIVATE)
    address.keep(page, "runs", **filters)
    return {"loads": [(look, settings, views)]}
