"""Quantize: methods, bit widths and calibration data side by side, each measured on held-out images."""

from __future__ import annotations

import html
import itertools
import time
from collections import defaultdict
from collections.abc import Callable, Generator, Iterator, Mapping, Sequence
from dataclasses import replace
from pathlib import PurePath
from typing import Any

import gradio as gr

from ouro.progress import PARTS, mapped, staged
from workbench import (
    address,
    calib,
    contrast,
    engine,
    forms,
    grid,
    lists,
    pace,
    runner,
    sets,
    stored,
    tradeoff,
    who,
    workspace,
)
from workbench.errors import guarded
from workbench.page import DIMMED, PRIVATE, Page, lead
from workbench.plot import nothing, plot_view

KIND = "quantization"
BITS = ("w8a8", "w4a8", "w4a4o8", "w4a4", "w6a6")
SCOPES = {
    "lin": "Linear layers",
    "ssm": "… and the scan's inputs",
    "rec": "… and its state",
    "full": "Everything",
}

FLOAT = 32
"""Bits of what is not rounded, see `ouro.quant.bits.FLOAT`."""

_RUNS: defaultdict[str, list[dict[str, Any]]] = defaultdict(list)
"""What was measured since the app was started, whatever page asked for it."""
_NUMBERS = itertools.count(1)
_BATCH = 32
"""Images between two updates of the bar; does not change the result."""


def known() -> list[dict[str, Any]]:
    """All rows that there are: those of this session, the newest first, then those in results/."""
    return [*filter(is_current, reversed(_RUNS[who.current()])), *stored.accuracies()]


def is_current(row: Mapping[str, Any]) -> bool:
    """Whether a row of this session is of the weights that its model has now: a file may be read once more."""
    return workspace.version(row["model"]) in ("", row["version"])


def kept_in_float(expression: str | None) -> dict[str, Any]:
    """What a configuration says of parts that are left in float, nothing where none are."""
    words = (expression or "").strip()
    return {"keep": ((words, FLOAT),)} if words else {}


def keep(row: Mapping[str, Any]) -> None:
    """Adds a row to those of this session, unless it is there: what the store had is the same once more."""
    source = str(row["calib"])
    words = {path: said.removeprefix(f"{row['model']} · ") for said, path in sets.choices(row["model"])}
    mine, run = _RUNS[who.current()], PurePath(row["path"]).parent.name
    if not any((old["run"], old["data"], old.get("n")) == (run, row["data"], row.get("n")) for old in mine):
        added = {"id": f"run {next(_NUMBERS)}", "run": run, "set": words.get(source, source)}
        mine.append({"version": workspace.version(row["model"]), **row, **added})


def recall(run: str) -> None:
    """Takes what was measured of a run that is kept among the rows of this session, unless it is there.

    Raises:
        ValueError: it is no longer there, or nothing was measured of it.
    """
    if not any(row.get("run") == run for row in _RUNS[who.current()]):
        keep(stored.measured(run))


def compare(
    specs: Sequence[Mapping[str, Any]],
    limit: int,
    data: str = "",
    keep: Callable[[Mapping[str, Any]], None] = lambda row: None,
) -> Generator[Any, None, list[dict[str, Any]]]:
    """Calibrates and measures one configuration after the other; the rows so far travel with every update.

    Rows have {metric, ci95}, the score that it names and fp_ of it where `data` has targets of the model, {agreement,
    agreement_ci95} where it has none, and neither where there is no data. Beside it {block_error}, and what
    `engine.kept` gives of every image.

    Args:
        keep: is given every row as soon as it is measured.
    """
    from ouro.types import Progress

    rows: list[dict[str, Any]] = []

    def with_rows(progress: Any) -> Any:
        return replace(progress, data={"rows": list(rows)})

    versions = [workspace.version(spec["model"]) for spec in specs]
    stages = _stages(specs, limit, data)
    for number, spec in enumerate(specs):
        where = f"{spec['method']} {spec['bits']} ({number + 1} of {len(specs)})"
        begin, middle, end = stages[2 * number : 2 * number + 3]
        begun = time.monotonic()
        report = yield from mapped(staged(engine.quantize_job(**spec), begin, middle, where), with_rows)
        row = {**_UNMEASURED, **spec, **dict(report.values), "data": data, "seeds": 1}
        row |= engine.block_error(row["path"])
        kind, calibrated = calib.measured(spec["model"], data), time.monotonic()
        if kind:
            job = engine.measure_job(kind, model=row["path"], data=data, limit=limit, seed=spec["seed"], batch=_BATCH)
            measured = yield from mapped(staged(job, middle, end, where), with_rows)
            values = dict(measured.values)
            if kind == calib.AGREEMENT:
                values |= {"agreement_ci95": values.pop("ci95"), **engine.same(measured)}
            else:
                values |= engine.kept(measured)
            row |= values
            pace.learn(spec, values["n"], calibrated - begun, time.monotonic() - calibrated)
        # by the names that the page knows them by
        named = {key: spec[key] for key in ("model", "calib")}
        rows.append(row | named | {"data": data, "version": versions[number]})
        keep(rows[-1])
        yield Progress(round(PARTS * end), PARTS, f"{where}: measured", {"rows": list(rows)})
    return rows


_UNMEASURED = {"ci95": None, "agreement": None, "agreement_ci95": None}


def _stages(specs: Sequence[Mapping[str, Any]], limit: int, data: str) -> list[float]:
    """Where calibrating and measuring of each configuration begin and end, in parts of the time of all.

    Were they thought to be equally long, half of the bar would take seconds and the other half minutes.
    """
    lengths: list[float] = []
    for spec in specs:
        images = min(limit, engine.image_count(spec["model"], data)) if data else 0
        lengths += pace.costs(spec, images)
    return [part / sum(lengths) for part in itertools.accumulate(lengths, initial=0.0)]


# ---- the form --------------------------------------------------------------------------------------------------


def configuration(
    model: str, methods: Sequence[str], bits: str, kind: str, count: float, chosen: str | None, scope: str, limit: float,
    seed: float | None, data: str, ignored: str | None = "",
) -> dict[str, str]:  # fmt: skip
    """The form in words, setting by setting."""
    found = grid.widths(_spelled(bits))
    weights, activations, outliers = ("?",) * 3 if found is None else (str(width or "as the others") for width in found)
    own = kind == "set"
    return {
        "Model": model,
        "Methods": ", ".join(methods) or "none",
        "Bits of weights": weights,
        "Bits of activations": activations,
        "Bits of outliers": outliers,
        "Quantized": SCOPES[scope],
        "Calibration images": dict(map(reversed, calib.choices(model))).get(kind, kind),
        "How many": "those of the set" if own else f"{count:g}",
        **({"Generated set": dict(map(reversed, sets.choices(model))).get(chosen, "none")} if own else {}),
        "Measured on": calib.called(data) or "nothing",
        "Held-out images": f"{limit:g}",
        "Seed": f"{seed or 0:g}",
        "Left in float": (ignored or "").strip() or "nothing",
    }  # fmt: skip


def differences(a: Mapping[str, str], b: Mapping[str, str]) -> str:
    """A table of the settings in which the form now (B) differs from what was kept of it (A)."""
    lines = [
        [html.escape(name), html.escape(a.get(name, grid.NONE)), html.escape(b.get(name, grid.NONE))]
        for name in dict.fromkeys([*a, *b])
        if a.get(name) != b.get(name)
    ]
    return contrast.differing(lines, "A", "B, now") if lines else '<p class="wb-note">The form is as A was kept.</p>'


def fault(bits: str | None) -> str:
    """What is wrong with bits as they are spelled, in a sentence; "" where nothing is."""
    try:
        engine.check_bits(_spelled(bits))
    except ValueError as error:
        return runner.first_line(error)
    return ""


def found(model: str, scope: str, ignored: str | None) -> tuple[str, str]:
    """(what is wrong with an expression of parts to leave in float, else which these are); "" and "" for an empty one."""
    if not (ignored or "").strip():
        return "", ""
    try:
        kept = engine.kept_sites(model, scope, str(ignored).strip())
        apart = engine.kept_channels(model, scope, str(ignored).strip())
    except ValueError as error:
        return runner.first_line(error), ""
    names = "".join(f"<li><code>{html.escape(path)}</code></li>" for path in kept or apart)
    part = f"channels of {len(apart)}" if apart else f"{len(kept)}"
    words = f"{part} of {len(engine.sites(model, scope))} tensors stay in float"
    listed = f'<ul tabindex="0" aria-label="tensors that stay in float">{names}</ul>'
    return "", f'<details class="wb-matches"><summary role="status">{words}</summary>{listed}</details>'


def _spelled(bits: str | None) -> str:
    return (bits or "").strip().lower()


def _fault_line(words: str) -> str:
    return f'<p class="wb-refused" role="alert">{html.escape(words[:1].upper() + words[1:])}.</p>' if words else ""


def _eta(words: str) -> str:
    return f'<p class="wb-note wb-eta">{html.escape(words)}</p>' if words else ""


def build(page: Page, model: str, tab: gr.Tab) -> dict[str, Any]:
    """Fills the tab; returns the components that others need."""
    rows = known()
    lead(
        "What a model loses in a few bits: its score on held-out images (accuracy, mIoU, AP, or a Fréchet distance) against "
        "its effective bits, beside the float model. Every run is added to what is stored; two rows that are pinned "
        "are compared."
    )
    kept, opened, counted, moved = gr.State(None), gr.State(0), gr.State(0), gr.State(None)
    with gr.Row():
        with gr.Column(scale=1, min_width=280, elem_classes="wb-form"):
            method = gr.CheckboxGroup(
                engine.methods(), value=["ouro", "minmax"], label="Methods",
                elem_id="wb-quantize-method",
            )  # fmt: skip
            bits = gr.Dropdown(
                list(BITS), value="w4a4o8", label="Bits", allow_custom_value=True, elem_id="wb-quantize-bits",
                info="weights, activations, outliers",
            )  # fmt: skip
            wrong = gr.HTML(elem_id="wb-quantize-fault", apply_default_css=False)
            images = calib.source("quantize", page)
            with gr.Accordion("Advanced", open=False):
                scope = gr.Radio(
                    [(words, name) for name, words in SCOPES.items()],
                    value="lin",
                    label="What is quantized",
                    elem_id="wb-quantize-scope",
                )
                limit = gr.Slider(
                    50, 5000, 500, step=50, label="Held-out images to measure on", elem_id="wb-quantize-limit"
                )
                seed = gr.Number(0, label="Seed", precision=0, minimum=0, elem_id="wb-quantize-seed")
                ignored = gr.Textbox(
                    "", label="Leave in float", placeholder=r"layers\.0\.|out_proj", max_lines=1, elem_id="wb-quantize-ignore",
                    info="a regular expression, looked for in the names of tensors; empty rounds all",
                )  # fmt: skip
                matched = gr.HTML(elem_id="wb-quantize-matched", apply_default_css=False)
            with gr.Row(elem_classes="wb-buttons"):
                go = gr.Button("Run", variant="primary", elem_id="wb-quantize-go", min_width=110)
                stop = gr.Button("Cancel", interactive=False, elem_id="wb-quantize-cancel", min_width=90)
            eta = gr.HTML(elem_id="wb-quantize-eta", apply_default_css=False)
            progress = gr.HTML(elem_id="wb-quantize-job", apply_default_css=False)
            redo = gr.Button(
                "Recompute",
                size="sm",
                visible=False,
                elem_id="wb-quantize-redo",
                elem_classes="wb-narrow",
                min_width=110,
            )
            note = gr.Button("Keep this form as A", size="sm", elem_id="wb-quantize-keep", min_width=160)
            differing = gr.HTML(elem_id="wb-quantize-diff", apply_default_css=False)
        with gr.Column(scale=3, min_width=320, elem_id="wb-quantize-views"):
            chart = plot_view("wb-quantize-chart", value=tradeoff.chart(rows, model))
            gr.HTML(_NOTE, apply_default_css=False)
            table = grid.grid_view("wb-quantize-grid", value=grid.grid(rows, model), chart="wb-quantize-chart")
            versus = gr.HTML(elem_id="wb-quantize-versus", apply_default_css=False)
            sections = plot_view("wb-quantize-sections")
            clear = gr.Button(
                "Forget the runs of this session", size="sm", visible=False, elem_id="wb-quantize-clear", min_width=200
            )

    settings = [page.model, method, bits, *images.inputs, scope, limit, seed, images.data, ignored]
    views = [chart, table, clear]
    followed = [progress, eta, go, stop, redo, moved]

    def shown(model: str, *, starting: bool = False) -> dict[Any, Any]:
        rows = known()
        drawn = tradeoff.chart(rows, model)
        # while it is being measured nobody needs to be told that nothing is
        empty = starting and not any(row["model"] == model for row in rows)
        return {
            chart: nothing("") if empty else drawn, table: grid.grid(rows, model), clear: gr.Button(visible=bool(_RUNS[who.current()]))
        }  # fmt: skip

    def follow(job: runner.Job, seen: int | None = None) -> Iterator[dict[Any, Any]]:
        """The bar, and then `moved` where there is anything new in the views: the page takes longer over a chart.

        seen: rows that the views had before the job began; None where they are to be drawn in any case.
        """
        for _ in runner.follow(job):
            yield {
                progress: runner.bar(job), go: gr.Button(interactive=job.over),
                stop: gr.Button(interactive=not job.over), redo: gr.Button(visible=job.cached),
            }  # fmt: skip
            now = len(_RUNS[who.current()])
            if now != seen or (job.over and not now):
                yield {moved: {"job": job.number, "model": job.model, "rows": now, "over": job.over}}
            seen = now

    def drawn(moved: Mapping[str, Any] | None, model: str) -> dict[Any, Any]:
        # a page that is loaded says once that it has changed, before it is about the model of its address
        if moved is None:
            return dict.fromkeys(views, gr.skip())
        # for the model that the page is about by then, which may have been changed meanwhile
        return shown(model, starting=not moved["over"] and moved["model"] == model)

    lists.on([moved.change], drawn, [moved, page.model], views, **PRIVATE)

    def specs_of(
        model: str, methods: Sequence[str], bits: str, kind: str, count: float, chosen: str | None, scope: str,
        seed: float | None, ignored: str,
    ) -> list[dict[str, Any]]:  # fmt: skip
        source = calib.spelled(kind, count, chosen)
        shared = {"model": model, "bits": _spelled(bits), "calib": source, "scope": scope, "seed": int(seed or 0)}
        shared |= kept_in_float(ignored)
        return [{**shared, "method": name} for name in methods]

    @guarded
    def run(
        model: str, methods: list[str], bits: str, kind: str, count: int, chosen: str | None, scope: str, limit: int,
        seed: float, data: str, ignored: str,
    ) -> Iterator[dict[Any, Any]]:  # fmt: skip
        if not methods:
            raise ValueError("no method is chosen; tick at least one")
        specs = specs_of(model, methods, bits, kind, count, chosen, scope, seed, ignored)
        about = f"{model} · {', '.join(methods)} · {specs[0]['bits']}"
        # counted before: what the store has is there at once
        seen = len(_RUNS[who.current()]) or None
        job = runner.start(KIND, lambda: compare(specs, int(limit), data, keep), about, model=model)
        yield {eta: ""}
        yield from follow(job, seen)

    def estimated(
        model: str, methods: list[str], bits: str, kind: str, count: int, chosen: str | None, scope: str, limit: int,
        seed: float, data: str, ignored: str,
    ) -> str:  # fmt: skip
        """How long a run would take, in words."""
        # what cannot be run takes no time
        if not methods or (kind == "set" and not chosen):
            return ""
        specs = specs_of(model, methods, bits, kind, count, chosen, scope, seed, ignored)
        counted = min(int(limit), engine.image_count(model, data)) if data else 0
        return f"This takes {pace.about(pace.estimate(specs, counted))} on this machine."

    def judged(form: Sequence[Any], kept: Mapping[str, str] | None, *, timing: bool = True) -> dict[Any, Any]:
        """What is said of the form: its fault or how long it takes, and in what it differs from A."""
        words, job = fault(form[2]), runner.latest(KIND)
        waits = job is not None and not job.over
        # beside a job nothing can be timed
        untold = not engine.known_pace(form[0]) and (runner.busy() or not timing)
        refused, listed = found(form[0], form[6], form[-1])
        return {
            wrong: _fault_line(words),
            matched: _fault_line(refused) or listed,
            go: gr.Button(interactive=not words and not refused and not waits),
            eta: "" if words or refused or waits or untold else _eta(estimated(*form)),
            # whoever was asked before anything was kept may answer last
            differing: gr.skip() if kept is None else differences(kept, configuration(*form)),
        }

    told = [wrong, matched, go, eta, differing]

    def look(seen: int, kept: Mapping[str, str] | None, *form: Any) -> dict[Any, Any]:
        # models are opened, and timed, for those who look
        return judged(form, kept) if seen else dict.fromkeys(told, gr.skip())

    @guarded
    def ended(kept: Mapping[str, str] | None, *form: Any) -> dict[Any, Any]:
        # who presses again at once is not to wait for a pace to be measured
        return judged(form, kept, timing=False)

    asked = [opened, kept, *settings]
    go.click(run, settings, followed, concurrency_limit=None, **PRIVATE).then(ended, asked[1:], told, **PRIVATE)
    stop.click(guarded(lambda: runner.stopped(KIND)), None, progress, queue=False, **PRIVATE)

    @guarded
    def recompute() -> Iterator[dict[Any, Any]]:
        yield from follow(runner.again(KIND))

    redo.click(recompute, None, followed, concurrency_limit=None, **PRIVATE)
    tab.select(lambda seen: seen + 1, opened, opened, **PRIVATE)

    @guarded
    def added(model: str, before: int) -> dict[Any, Any]:
        now = len(_RUNS[who.current()])
        return {counted: now} | (dict.fromkeys(views, gr.skip()) if now == before else shown(model))

    # what a what-if has measured meanwhile
    tab.select(added, [page.model, counted], [counted, *views], **PRIVATE)
    changes = [opened.change, *(one.change for one in settings)]
    lists.on(changes, look, asked, told, trigger_mode="always_last", **PRIVATE)

    @guarded
    def typed(event: gr.KeyUpData) -> tuple[str, gr.Button]:
        words, job = fault(event.input_value), runner.latest(KIND)
        return _fault_line(words), gr.Button(interactive=not words and (job is None or job.over))

    # every key by itself and in its turn: of "the last one" Gradio sends what was typed when it had to wait
    bits.key_up(typed, None, [wrong, go], trigger_mode="multiple", concurrency_limit=1, **PRIVATE)

    # compared as it is then, for it may have been changed meanwhile
    note.click(guarded(configuration), settings, kept, **PRIVATE).then(ended, asked[1:], told, **PRIVATE)

    @guarded
    def pinned(event: gr.EventData) -> tuple[str, str]:
        rows = {row["id"]: row for row in known()}
        pair = [rows[pin] for pin in event._data["pins"] if pin in rows]
        return contrast.contrast(pair), contrast.blocks(pair)

    # ticks come quickly after one another, and of "the last one" Gradio sends what was ticked when it had to wait
    table.select(pinned, None, [versus, sections], trigger_mode="multiple", concurrency_limit=1, **DIMMED)

    @guarded
    def other_model(model: str) -> dict[Any, Any]:
        return shown(model)

    @guarded
    def read_again(model: str) -> dict[Any, Any]:
        # the file of a model of one's own may hold other weights by now
        return shown(model) if workspace.version(model) else dict.fromkeys(views, gr.skip())

    page.model.change(other_model, page.model, views, **PRIVATE)
    page.brought.change(read_again, page.model, views, **PRIVATE)

    @guarded
    def forget(model: str) -> dict[Any, Any]:
        _RUNS[who.current()].clear()
        return shown(model)

    clear.click(forget, page.model, views, **PRIVATE)

    @guarded
    def resume(model: str, request: gr.Request) -> Iterator[dict[Any, Any]]:
        seen = len(_RUNS[who.current()])
        # what the address asks for may still be on its way to the list of models
        yield shown(address.model_of(address.opening("quantize", request).values, engine.models(), model, []))
        job = runner.latest(KIND)
        if job is not None and not job.over:
            yield from follow(job, seen)

    @guarded
    def named() -> Any:
        return gr.CheckboxGroup(choices=[(words, name) for name, words in engine.method_titles().items()])

    fields = {
        "method": method,
        "bits": bits,
        "scope": scope,
        "limit": limit,
        "seed": seed,
        "ignore": ignored,
        **images.fields,
    }

    def asked_of(ask: address.Asked, model: str) -> dict[Any, Any]:
        update = {bits: ask.checked("bits", fault), **images.asked(ask, model)}
        if "run" in ask.values:
            try:
                recall(str(ask.values["run"]))
                return {**update, **shown(model)}
            except ValueError as error:
                ask.refuse("run", runner.first_line(error))
        return update

    address.form(page, "quantize", fields, asked_of, views)
    form = forms.keep(page.kept["quantize"], fields, go, more=images.restored)
    loads = [(resume, [page.model], [*followed, *views])]
    return {"form": form, "loads": loads, "methods": (named, method), "images": images}


_NOTE = (
    '<p class="wb-note">Bars are 95 % intervals, or where a file has none, ± the spread over seeds. Points of the same bits '
    "stand side by side. A click on a point marks its row.</p>"
)
