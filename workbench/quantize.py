"""Quantize: methods, bit widths and calibration data side by side, each measured on held-out images."""

from __future__ import annotations

import html
from collections.abc import Generator, Iterator, Mapping, Sequence
from dataclasses import replace
from typing import Any

import gradio as gr

from ouro.metrics import METRICS, metric_of
from ouro.progress import PARTS, mapped, staged
from workbench import calib, engine, forms, runner, stored
from workbench.errors import guarded
from workbench.page import PRIVATE, Page, headline, interval, lead, percent, score, table
from workbench.plot import figure, from_figures, nothing, plot_view

KIND = "quantization"
BITS = ("w8a8", "w4a8", "w4a4o8", "w4a4", "w6a6")
SCOPES = {
    "lin": "Linear layers",
    "ssm": "… and the scan's inputs",
    "rec": "… and its state",
    "full": "Everything",
}
NOTHING = "Nothing has been measured yet. Choose methods and run them: two of them take about half a minute."


def compare(
    specs: Sequence[Mapping[str, Any]], limit: int, data: str = ""
) -> Generator[Any, None, list[dict[str, Any]]]:
    """Calibrates and measures one configuration after the other; the rows so far travel with every update.

    Rows have {metric, ci95}, the score that it names and fp_ of it where `data` has targets of the model, {agreement,
    agreement_ci95} where it has none, and neither where there is no data.
    """
    from ouro.types import Progress

    rows: list[dict[str, Any]] = []

    def with_rows(progress: Any) -> Any:
        return replace(progress, data={"rows": list(rows)})

    for number, spec in enumerate(specs):
        where = f"{spec['method']} {spec['bits']} ({number + 1} of {len(specs)})"
        begin, middle, end = ((number + part) / len(specs) for part in (0, 0.5, 1))
        report = yield from mapped(staged(engine.quantize_job(**spec), begin, middle, where), with_rows)
        row = {**_UNMEASURED, **spec, **dict(report.values), "data": data}
        kind = calib.measured(spec["model"], data)
        if kind:
            job = engine.measure_job(kind, model=row["path"], data=data, limit=limit, seed=spec["seed"])
            values = dict((yield from mapped(staged(job, middle, end, where), with_rows)).values)
            if kind == calib.AGREEMENT:
                values["agreement_ci95"] = values.pop("ci95")
            row |= values
        # by the names that the page knows them by
        rows.append(row | {key: spec[key] for key in ("model", "calib")} | {"data": data})
        yield Progress(round(PARTS * end), PARTS, f"{where}: measured", {"rows": list(rows)})
    return rows


_UNMEASURED = {"ci95": None, "agreement": None, "agreement_ci95": None}


def bars(rows: Sequence[Mapping[str, Any]]) -> str:
    """The score with its interval beside the float model, of all rows of the same model, data and scope as the last."""
    if not rows:
        return nothing(NOTHING)
    from ouro.figures import accuracy

    kind = ("model", "data", "scope")
    alike = [
        {**row, "calib": calib.short_name(row["calib"]), "data": calib.called(row["data"])}
        for row in rows
        if all(row[key] == rows[-1][key] for key in kind)
    ]
    if rows[-1].get(metric_of(rows[-1])) is None:
        return agreements(alike)
    # one that was only calibrated has no bar
    alike = [row for row in alike if row.get(metric_of(row)) is not None]
    return from_figures(accuracy.screen(alike), alt=accuracy.alt(alike), height=360, name="accuracy")


def agreements(rows: Sequence[Mapping[str, Any]]) -> str:
    """How often quantized models say what the float model says, with intervals, where nobody knows what is right."""
    shown = [row for row in rows if row["agreement"] is not None]
    if not shown:
        return nothing("Calibrated, and nothing to measure on: " + calib.NO_PICTURES)
    names = [f"{row['method']} {row['bits']}<br>{row['calib']}" for row in shown]
    shares = [100 * row["agreement"] for row in shown]
    low, high = zip(*(row["agreement_ci95"] for row in shown), strict=True)
    bar = {
        "type": "bar", "x": list(range(len(shown))), "y": shares, "marker": {"color": "$hp"},
        "text": [f"{share:.1f} %" for share in shares], "textposition": "inside", "insidetextanchor": "start",
        "error_y": {
            "type": "data", "array": [100 * top - share for top, share in zip(high, shares, strict=True)],
            "arrayminus": [share - 100 * end for end, share in zip(low, shares, strict=True)],
        },
        "hovertemplate": "%{text} of the images<extra></extra>",
    }  # fmt: skip
    layout = {
        "yaxis": {"title": {"text": "same answer as the float model, %"}, "range": [0, 104]},
        "xaxis": {"tickmode": "array", "tickvals": bar["x"], "ticktext": names}, "bargap": 0.5,
        "margin": {"l": 56, "r": 8, "t": 16, "b": 56},
    }  # fmt: skip
    words = ", ".join(f"{row['method']} {row['bits']} {percent(row['agreement'])}" for row in shown)
    return figure([bar], layout, alt=f"agreement with the float model: {words}", height=320, name="agreement")


_COLUMNS = (
    ("Model", False), ("Method", False), ("Bits", False), ("Scope", False), ("Calibration", False), ("Score", True),
    ("95 % interval", True), ("Float", True), ("Bits w / a", True), ("Images", True),
)  # fmt: skip
"""Of the table of scores; the next to last are the effective widths of weights and activations."""
_AGREEMENT = ("As float", True)


def cells(row: Mapping[str, Any], *, agreement: bool = False, named: bool = False) -> list[str]:
    """One row of the table, in the order of the columns; with `agreement`, that is the last; `named`: what the score is."""
    effective = row.get("effective_bits")
    name, around = metric_of(row), interval(row)
    if row.get("ci95") is None and row.get("spread") is not None:
        around = f"± {METRICS[name].gap(row['spread']).lstrip('+')} over seeds"
    measured = row.get(name) is not None or row.get("agreement") is not None
    return [
        str(row.get("model", "")),
        str(row.get("method", "")),
        str(row.get("bits", "")),
        str(row.get("scope", "")),
        calib.short_name(row.get("calib", "")) or "–",
        score(row, named=named),
        around,
        score(row, f"fp_{name}"),
        "–" if not effective else f"{effective['weights']:.2f} / {effective['activations']:.2f}",
        str(row.get("n", "–")) if measured else "–",
        *([percent(row.get("agreement"))] if agreement else []),
    ]


def listed(rows: Sequence[Mapping[str, Any]], *, numbered: bool = True) -> str:
    """Rows of scores as an HTML table."""
    if not rows:
        return ""
    agreement = any(row.get("agreement") is not None for row in rows)
    metrics = {metric_of(row) for row in rows}
    several = len(metrics) > 1
    head = "Score" if several else headline(metrics.pop())
    columns = [(head if words == "Score" else words, number) for words, number in _COLUMNS]
    columns += [_AGREEMENT] if agreement else []
    lines = [[html.escape(cell) for cell in cells(row, agreement=agreement, named=several)] for row in rows]
    if not numbered:
        return table(columns, lines)
    return table([("#", True), *columns], [[str(at + 1), *line] for at, line in enumerate(lines)])


def build(page: Page) -> dict[str, Any]:
    """Fills the tab; returns the components that others need."""
    lead(
        "Calibrate a model in a few bits and measure what it costs: its score on held-out images (accuracy, mIoU, AP, or "
        "a Fréchet distance) with its 95 % interval, beside the float model. Every run is added to the comparison."
    )
    done = gr.State([])
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
            with gr.Row():
                go = gr.Button("Run", variant="primary", elem_id="wb-quantize-go", min_width=110)
                stop = gr.Button("Cancel", interactive=False, elem_id="wb-quantize-cancel", min_width=90)
        with gr.Column(scale=3, min_width=320):
            progress = gr.HTML(runner.bar(None, "Ready."), elem_id="wb-quantize-job", apply_default_css=False)
            redo = gr.Button(
                "Recompute",
                size="sm",
                visible=False,
                elem_id="wb-quantize-redo",
                elem_classes="wb-narrow",
                min_width=110,
            )
            chart = plot_view("wb-quantize-chart", empty=NOTHING)
            rows = gr.HTML(elem_id="wb-quantize-rows", apply_default_css=False)
            clear = gr.Button(
                "Clear the comparison", size="sm", visible=False, elem_id="wb-quantize-clear", min_width=160
            )
    gr.HTML(stored_table(), elem_id="wb-quantize-stored", elem_classes="wb-tall", apply_default_css=False)

    followed = [progress, chart, rows, done, clear, go, stop, redo]

    def follow(job: runner.Job, before: Sequence[Mapping[str, Any]]) -> Iterator[tuple]:
        known = None
        for _ in runner.follow(job):
            got = list(job.result) if job.state == "done" else list(job.data.get("rows", ()))
            fresh = (gr.skip(),) * 4
            if len(got) != known:
                known = len(got)
                together = [*before, *got]
                fresh = (bars(together), listed(together), together, gr.Button(visible=bool(together)))
            yield (runner.bar(job), *fresh, gr.Button(interactive=job.over), gr.Button(interactive=not job.over),
                   gr.Button(visible=job.cached))  # fmt: skip

    @guarded
    def run(
        model: str, method: list[str], bits: str, kind: str, count: int, chosen: str | None, scope: str, limit: int,
        seed: float, data: str, done: list[dict[str, Any]],
    ) -> Iterator[tuple]:  # fmt: skip
        if not method:
            raise ValueError("no method is chosen; tick at least one")
        source = calib.spelled(kind, count, chosen)
        specs = [
            {
                "model": model,
                "method": name,
                "bits": bits.strip().lower(),
                "calib": source,
                "scope": scope,
                "seed": int(seed or 0),
            }
            for name in method
        ]
        about = f"{model} · {', '.join(method)} · {specs[0]['bits']}"
        yield from follow(runner.start(KIND, lambda: compare(specs, int(limit), data), about, model=model), done)

    inputs = [page.model, method, bits, *images.inputs, scope, limit, seed, images.data, done]
    go.click(run, inputs, followed, concurrency_limit=None, **PRIVATE)
    stop.click(lambda: runner.cancel(KIND) and None, None, None, queue=False, **PRIVATE)

    @guarded
    def recompute(done: list[dict[str, Any]]) -> Iterator[tuple]:
        yield from follow(runner.again(KIND), done)

    redo.click(recompute, done, followed, concurrency_limit=None, **PRIVATE)
    clear.click(
        lambda: (nothing(NOTHING), "", [], gr.Button(visible=False)), None, [chart, rows, done, clear], **PRIVATE
    )

    @guarded
    def resume() -> Iterator[tuple]:
        job = runner.latest(KIND)
        if job is not None and not job.over:
            yield from follow(job, [])
        else:
            yield (gr.skip(),) * len(followed)

    @guarded
    def known() -> Any:
        return gr.CheckboxGroup(choices=[(words, name) for name, words in engine.method_titles().items()])

    fields = {"method": method, "bits": bits, "scope": scope, "limit": limit, "seed": seed, **images.fields}
    form = forms.keep(page.kept["quantize"], fields, go, more=images.restored)
    return {"form": form, "loads": [(resume, [], followed)], "methods": (known, method), "images": images}


def stored_table() -> str:
    """Scores that were measured before and are kept in results/."""
    rows = stored.accuracies()
    if not rows:
        return ""
    words = '<h3 class="wb-title">Stored results<small>from results/, on the device that each file names</small></h3>'
    return words + listed(rows, numbered=False)
