"""Sensitivity: what rounding each site costs, and which widths a budget of average bits is best spent on."""

from __future__ import annotations

import html
from collections.abc import Iterator, Mapping
from typing import Any

import gradio as gr

from workbench import (
    address,
    calib,
    damage,
    engine,
    forms,
    guess,
    lists,
    quantize,
    runner,
    stored,
    ways,
    whatif,
    workspace,
)
from workbench.errors import guarded
from workbench.page import PRIVATE, Page, lead, title
from workbench.plot import nothing, plot_view

KIND = "sensitivity"
BUDGET = "budget of bits"
WIDTHS = (2, 3, 4, 5, 6, 7, 8)
_CANDIDATES = (3, 4, 6, 8)


def reports(model: str) -> dict[str, Mapping[str, Any]]:
    """Everything that was measured of this model, by its run or the file that it lies in: this machine's first, newest first."""
    kept = [report for report in stored.sensitivities() if report["model"] == model]
    return {report.get("run") or report["file"]: report for report in (*stored.measured_sensitivities(model), *kept)}


def latest(model: str) -> Mapping[str, Any] | None:
    """What is shown first: the last report about this model of this person's, or else of results/."""
    job = runner.latest(KIND)
    if job is not None and job.found(model):
        return job.result.values
    return next((report for report in stored.sensitivities() if report["model"] == model), None)


def known(model: str, values: Mapping[str, Any] | None) -> gr.Dropdown:
    """The list of reports with this one chosen; nothing to see where there is no choice."""
    there = reports(model)
    if values is not None:
        there = {_key(values): values, **there}
    options = [(f"{damage.about(report).partition(' · ')[2]} · {_from(report)}", key) for key, report in there.items()]
    return gr.Dropdown(choices=options, value=None if values is None else _key(values), visible=len(options) > 1)


def _key(values: Mapping[str, Any]) -> str:
    return str(values.get("run") or values["file"])


def _from(values: Mapping[str, Any]) -> str:
    return f"results/{values['file']}" if values.get("file") else f"run {values['run'][:6]}"


def budgets(model: str) -> list[dict[str, Any]]:
    """Budgets of this model that lie in results/."""
    return [row for row in stored.budgets() if row["model"] == model]


def verdict(values: Mapping[str, Any] | None) -> str:
    """What was measured, and what came of it."""
    if values is None:
        return ""
    about, said = damage.about(values), damage.summary(values)
    origin = ways.way(ways.said_of(values), ways.made_by(values))
    return f'<p class="wb-note">{html.escape(about)} · {origin}</p><p class="wb-lead">{html.escape(said)}</p>'


def more(values: Mapping[str, Any] | None) -> str:
    """How many rows the table leaves out."""
    if values is None or len(values["rows"]) <= damage.WORST:
        return ""
    return f'<p class="wb-note">{damage.WORST} of {len(values["rows"])}; all of them are in the CSV file.</p>'


def _views(values: Mapping[str, Any] | None) -> tuple[str, str, str, str]:
    """Verdict, map, curve and table."""
    if values is None:
        return "", nothing(damage.NOTHING), nothing(""), ""
    return (
        verdict(values),
        damage.map_chart(values),
        damage.curve_chart(values),
        damage.worst_table(values) + more(values),
    )


def _table_file(values: Mapping[str, Any] | None) -> str | None:
    """All rows as a CSV file."""
    if values is None:
        return None
    from ouro.figures import sensitivity

    name = "-".join(("sensitivity", *(values[key] for key in ("model", "method", "bits", "scope", "mode", "by"))))
    return stored.exported_table(name, *sensitivity.table(values))


def build(page: Page, model: str) -> dict[str, Any]:
    """Fills the tab; returns the components that others need."""
    first, spent = latest(model), budgets(model)
    lead(
        "Which parts of a model can stand few bits? Every linear layer, weight and tensor of the scan is a site that is "
        "rounded alone, after all that do less harm, or left in float while the others are rounded. Damage is the "
        "divergence (KL) of the answers from those of the float model."
    )
    with gr.Row():
        with gr.Column(scale=1, min_width=280, elem_classes="wb-form"):
            mode = gr.Radio(
                [(words, name) for name, words in damage.MODES.items()], value="isolated", label="Sites are rounded",
                elem_id="wb-sensitivity-mode",
            )  # fmt: skip
            by = gr.Radio(
                [(words, name) for name, words in damage.GROUPINGS.items()], value="group", label="What counts as one",
                info="single sites take several times as long", elem_id="wb-sensitivity-by",
            )  # fmt: skip
            method = gr.Dropdown(
                engine.methods(), value="clipped", label="Method",
                filterable=False, elem_id="wb-sensitivity-method",
            )  # fmt: skip
            bits = gr.Dropdown(
                list(quantize.BITS), value="w4a4", label="Bits", allow_custom_value=True, elem_id="wb-sensitivity-bits",
                info="weights, activations, outliers",
            )  # fmt: skip
            scope = gr.Dropdown(
                [(words, name) for name, words in quantize.SCOPES.items()], value="lin", label="What is quantized",
                filterable=False, elem_id="wb-sensitivity-scope",
            )  # fmt: skip
            images = calib.source("sensitivity", page)
            with gr.Accordion("Advanced", open=False):
                limit = gr.Slider(
                    20, 2000, 200, step=20, label="Held-out images to measure on", elem_id="wb-sensitivity-limit"
                )
                seed = gr.Number(0, label="Seed", precision=0, minimum=0, elem_id="wb-sensitivity-seed")
            guessed, told = guess.build(page, scope, by)
            with gr.Row(elem_classes="wb-buttons"):
                go = gr.Button("Measure", variant="primary", elem_id="wb-sensitivity-go", min_width=100)
                stop = gr.Button("Cancel", interactive=False, elem_id="wb-sensitivity-cancel", min_width=80)
        with gr.Column(scale=3, min_width=320):
            progress = gr.HTML(runner.bar(None, "Ready."), elem_id="wb-sensitivity-job", apply_default_css=False)
            redo = gr.Button(
                "Recompute",
                size="sm",
                visible=False,
                elem_id="wb-sensitivity-redo",
                elem_classes="wb-narrow",
                min_width=110,
            )
            report = gr.Dropdown(
                [], label="Shown", visible=False, filterable=False, elem_id="wb-sensitivity-report",
                info="what was measured of this model before",
            )  # fmt: skip
            views = _views(first)
            said = gr.HTML(views[0], elem_id="wb-sensitivity-verdict", apply_default_css=False)
            grid = plot_view("wb-sensitivity-map", value=views[1])
            curve = plot_view("wb-sensitivity-curve", value=views[2])
            rows = gr.HTML(views[3], elem_id="wb-sensitivity-rows", apply_default_css=False)
            file = gr.DownloadButton(
                "Download CSV", size="sm", interactive=False, elem_id="wb-sensitivity-file", min_width=140
            )

    def settings(model: str, method: str, bits: str, scope: str, seed: float, *source: Any) -> dict[str, Any]:
        return {
            "model": model, "method": method, "bits": (bits or "").strip().lower(), "scope": scope,
            "seed": int(seed or 0), "calib": calib.spelled(*source),
        }  # fmt: skip

    def configured(
        model: str, method: str, bits: str, scope: str, seed: float, kind: str, count: float, path: str | None,
        by: str, limit: int, data: str,
    ) -> dict[str, Any]:  # fmt: skip
        return settings(model, method, bits, scope, seed, kind, count, path) | {"by": by, "n": int(limit), "data": data}

    common = [page.model, method, bits, scope, seed, *images.inputs, by, limit, images.data]
    what_if = whatif.build(page, report, reports, scope, by, common, configured)
    title("Spend a budget of bits", "every site gets its own width, those that do harm more; the mean is yours to set")
    with gr.Row(elem_classes="wb-inline"):
        budget = gr.Number(
            4.5, label="Average bits", minimum=2, maximum=8, step=0.25, elem_id="wb-sensitivity-budget", min_width=110
        )
        # a column of its own, or Gradio joins the two fields into one box
        with gr.Column(min_width=300, elem_classes="wb-widths"):
            widths = gr.CheckboxGroup(
                [(str(width), width) for width in WIDTHS], value=list(_CANDIDATES), label="Widths to choose from",
                elem_id="wb-sensitivity-widths",
            )  # fmt: skip
        spend = gr.Button("Choose widths", elem_id="wb-sensitivity-spend", min_width=130)
        halt = gr.Button("Cancel", interactive=False, elem_id="wb-sensitivity-halt", min_width=80)
    paid = gr.HTML(
        runner.bar(None, "Method, scope, calibration images and grouping are those above."),
        elem_id="wb-sensitivity-paid", apply_default_css=False,
    )  # fmt: skip
    frontier = plot_view("wb-sensitivity-frontier", value=damage.budget_chart(spent))
    bought = gr.HTML(damage.budget_table(spent), elem_id="wb-sensitivity-budgets", apply_default_css=False)
    done, ended = gr.State([]), gr.State(None)

    shown = [said, grid, curve, rows, file, report]

    def drawn(values: Mapping[str, Any] | None) -> dict[Any, Any]:
        path = _table_file(values)
        update = dict(zip(shown, _views(values), strict=False))
        return {**update, file: gr.DownloadButton(value=path, interactive=path is not None)}

    def show(model: str, values: Mapping[str, Any] | None) -> dict[Any, Any]:
        return {**drawn(values), report: known(model, values)}

    def follow(job: runner.Job, guessed: str | None = None) -> Iterator[dict[Any, Any]]:
        for _ in runner.follow(job):
            update = {
                progress: runner.bar(job), go: gr.Button(interactive=job.over), stop: gr.Button(interactive=not job.over),
                redo: gr.Button(visible=job.cached),
            }  # fmt: skip
            if job.state == "done":
                update[ended] = {"number": job.number, "guessed": guessed}
            yield update

    def measured(ended: Mapping[str, Any] | None, model: str) -> dict[Any, Any]:
        """What came of a scan, as long as the page is about its model, which may have been changed meanwhile."""
        job = runner.numbered(ended["number"]) if ended else None
        if job is None or not job.found(model):
            return dict.fromkeys([told, *shown], gr.skip())
        values = job.result.values
        return {**show(model, values), told: guess.verdict(ended["guessed"], values)}

    lists.on([ended.change], measured, [ended, page.model], [told, *shown], **PRIVATE)

    @guarded
    def measure(
        model: str, method: str, bits: str, scope: str, seed: float, kind: str, count: float, path: str | None,
        by: str, limit: int, data: str, mode: str, guessed: str | None,
    ) -> Iterator[dict[Any, Any]]:  # fmt: skip
        spec = settings(model, method, bits, scope, seed, kind, count, path)
        kind = calib.require_measured(model, data)
        spec |= {"by": by, "limit": int(limit), "mode": mode, "data": data, "labels": kind == calib.ACCURACY}
        job = runner.start(KIND, lambda: engine.sensitivity_job(**spec), damage.about(spec), model=model)
        yield from follow(job, guessed)

    @guarded
    def recompute() -> Iterator[dict[Any, Any]]:
        yield from follow(runner.again(KIND))

    followed = [progress, go, stop, redo, ended]
    redo.click(recompute, None, followed, concurrency_limit=None, **PRIVATE)
    go.click(measure, [*common, mode, guessed], followed, concurrency_limit=None, **PRIVATE)
    stop.click(guarded(lambda: runner.stopped(KIND)), None, progress, queue=False, **PRIVATE)

    def follow_budget(job: runner.Job, before: list[dict[str, Any]]) -> Iterator[dict[Any, Any]]:
        for _ in runner.follow(job):
            update = {
                paid: runner.bar(job), spend: gr.Button(interactive=job.over), halt: gr.Button(interactive=not job.over)
            }  # fmt: skip
            if job.state == "done":
                update[done] = [*before, *job.result]
            yield update

    def spent_on(model: str, rows: list[dict[str, Any]]) -> dict[Any, Any]:
        together = budgets(model) + [row for row in rows if row["model"] == model and quantize.is_current(row)]
        return {frontier: damage.budget_chart(together), bought: damage.budget_table(together)}

    # a page that is loaded says once that it has changed, and so shows what was stored since
    lists.on([done.change], spent_on, [page.model, done], [frontier, bought], **PRIVATE)

    @guarded
    def buy(
        model: str, method: str, bits: str, scope: str, seed: float, kind: str, count: float, path: str | None,
        by: str, limit: int, data: str, budget: float | None, widths: list[int], before: list[dict[str, Any]],
    ) -> Iterator[dict[Any, Any]]:  # fmt: skip
        if budget is None:
            raise ValueError("the average is empty; give a number of bits, such as 4.5")
        spec = settings(model, method, bits, scope, seed, kind, count, path)
        about = f"{model} · {method}, scope {scope} · {budget:g} bits on average"
        spec |= {"by": by, "budget": float(budget), "widths": tuple(sorted(widths))}
        job = runner.start(BUDGET, lambda: quantize.compare([spec], int(limit), data), about, model=model)
        yield from follow_budget(job, before)

    budgeted = [paid, spend, halt, done]
    spend.click(buy, [*common, budget, widths, done], budgeted, concurrency_limit=None, **PRIVATE)
    halt.click(guarded(lambda: runner.stopped(BUDGET)), None, paid, queue=False, **PRIVATE)

    @guarded
    def other_model(model: str, rows: list[dict[str, Any]]) -> dict[Any, Any]:
        return show(model, latest(model)) | spent_on(model, rows)

    @guarded
    def read_again(model: str, rows: list[dict[str, Any]]) -> dict[Any, Any]:
        # the file of a model of one's own may hold other weights by now
        return other_model(model, rows) if workspace.version(model) else dict.fromkeys(drawn_anew, gr.skip())

    drawn_anew = [*shown, frontier, bought]
    page.model.change(other_model, [page.model, done], drawn_anew, **PRIVATE)
    page.brought.change(read_again, [page.model, done], drawn_anew, **PRIVATE)

    @guarded
    def other_report(model: str, key: str) -> dict[Any, Any]:
        values = reports(model).get(key)
        if values is None:
            raise ValueError(f"the run {key} is no longer there; was it deleted meanwhile?")
        return drawn(values)

    report.input(other_report, [page.model, report], [said, grid, curve, rows, file], **PRIVATE)

    @guarded
    def resume(model: str, request: gr.Request) -> Iterator[dict[Any, Any]]:
        ask = address.opening("sensitivity", request)
        model = address.model_of(ask.values, engine.models(), model, [])
        wanted = ask.one_of("run", None, reports(model)) if "run" in ask.values else None
        yield show(model, wanted or latest(model))
        job = runner.latest(KIND)
        if job is not None and (wanted is None or not job.over):
            yield from follow(job)

    @guarded
    def resume_budget() -> Iterator[dict[Any, Any]]:
        job = runner.latest(BUDGET)
        # an event that yields nothing would empty what it could have changed
        yield {done: []}
        if job is not None:
            yield from follow_budget(job, [])

    @guarded
    def named() -> gr.Dropdown:
        return gr.Dropdown(choices=[(words, name) for name, words in engine.method_titles().items()])

    fields = {
        "mode": mode, "by": by, "method": method, "bits": bits, "scope": scope, "limit": limit, "seed": seed,
        "budget": budget, "widths": widths, **images.fields,
    }  # fmt: skip

    def asked(ask: address.Asked, model: str) -> dict[Any, Any]:
        wanted = ask.one_of("run", None, reports(model)) if "run" in ask.values else None
        update = {bits: ask.checked("bits", quantize.fault), report: gr.skip(), **images.asked(ask, model)}
        return update | ({} if wanted is None else show(model, wanted))

    address.form(page, "sensitivity", {**fields, **what_if, "run": report}, asked, [said, grid, curve, rows, file])
    return {
        "form": forms.keep(page.kept["sensitivity"], fields, go, spend, more=images.restored),
        "methods": (named, method),
        "loads": [(resume, [page.model], [*followed, *shown]), (resume_budget, [], budgeted)],
    }
