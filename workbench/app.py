"""The workbench: `python workbench/app.py`, or `gradio workbench/app.py` from the root of the repository."""

from __future__ import annotations

import os
import sys
import threading
from pathlib import Path
from typing import Any

# set before gradio is imported, which reads it then
os.environ.setdefault("GRADIO_ANALYTICS_ENABLED", "False")
# a summary for a page of gradio's that is off: a table of the last ten thousand events, made anew with each of them
os.environ.setdefault("GRADIO_ANALYTICS_MAX_EVENTS", "1")
os.environ.setdefault("GRADIO_ANALYTICS_CACHE_FREQUENCY", str(10**12))
# started as a script, this file's folder is on the path and the folder above it is not
_ROOT = str(Path(__file__).resolve().parent.parent)
if _ROOT not in sys.path:
    sys.path.insert(0, _ROOT)

import gradio as gr  # noqa: E402
from starlette.middleware import Middleware  # noqa: E402

from workbench import (  # noqa: E402
    address,
    api,
    attention,
    calib,
    drift,
    engine,
    first_view,
    forms,
    jobs,
    kernels,
    library,
    memory,
    origin,
    outliers,
    paper,
    quantize,
    runs,
    samples,
    sensitivity,
    sets,
    start,
    steps,
    stored,
    tasks,
    uploads,
    who,
)
from workbench.errors import guarded  # noqa: E402
from workbench.page import PRIVATE, Page  # noqa: E402
from workbench.theme import CSS, HEAD, ICON, LOGO, THEME  # noqa: E402

memory.share_heaps()

_BRAND = (
    f'<div class="wb-brand">{LOGO}<div><h1>Ouro Workbench</h1>'
    "<p>Data-free quantization of Vision Mamba models</p></div></div>"
)

_KEEP = (3600, 86400)
"""Every hour, files that the page made more than a day ago are removed."""
_WAITING = 1024
"""Events that may wait in line before one is refused: a page that opens asks a dozen, so a class at once asks hundreds."""


def build() -> gr.Blocks:
    """The whole page. Needs the precomputed first view only; the library is imported beside it."""
    model = first_view.install()
    with steps.Blocks(title="Ouro Workbench", fill_width=True, analytics_enabled=False, delete_cache=_KEEP) as whole:
        with gr.Row(elem_id="wb-top"):
            gr.HTML(_BRAND, elem_id="wb-brand", apply_default_css=False)
            device = gr.HTML('<span class="wb-pill"><i></i>…</span>', elem_id="wb-device", apply_default_css=False)
            chosen = gr.Dropdown(
                [model], value=model, show_label=False, label="Model", container=False, filterable=False,
                elem_id="wb-model", min_width=190, scale=0,
            )  # fmt: skip
            at_work = jobs.view()
            gr.HTML(
                html_template='<div class="wb-topacts"></div>', js_on_load="wb.tools(element)", elem_id="wb-tools",
                apply_default_css=False,
            )  # fmt: skip
        # not inside the tabs, which count all that is in them
        brought, wanted = gr.State(0), gr.State({})
        reader = address.reader()
        kept = gr.BrowserState(model, storage_key="wb.model", secret="wb.model")
        forms_kept = forms.states("samples", "quantize", "sensitivity")
        with gr.Tabs(selected="start", elem_id="wb-tabs") as tabs:
            page = Page(chosen, device, tabs, brought, wanted, forms_kept)
            with gr.Tab("Start", id="start"):
                first = start.build(page, model)
            with gr.Tab("Attention", id="attention"):
                attention.build(page, model)
            with gr.Tab("Samples", id="samples"):
                made = samples.build(page)
            with gr.Tab("Outliers", id="outliers"):
                outliers.build(page, model)
            with gr.Tab("Tasks", id="tasks") as looked:
                answered = tasks.build(page, model, looked)
            with gr.Tab("Quantize", id="quantize") as rounded:
                measured = quantize.build(page, model, rounded)
                drift.build(page, model)
            with gr.Tab("Sensitivity", id="sensitivity"):
                ranked = sensitivity.build(page, model)
            with gr.Tab("Kernels", id="kernels"):
                checked = kernels.build(page)
            with gr.Tab("Runs", id="runs") as board:
                kept_runs = runs.build(page, board)
            with gr.Tab("Paper", id="paper"):
                claims = paper.build(page)
        working = jobs.build(page, at_work)

        whole.load(None, None, None, js="() => wb.applyTheme()", api_visibility="private")
        # forms first: what the model list sets off begins with what is in them, and leaves what is valid as it is
        restored = [tab["form"] for tab in (made, measured, ranked)]
        places = [field for form in restored for field in form.fields.values()]

        @guarded
        def restore(model: str, kept: str | None, *values: Any) -> dict[Any, Any]:
            model = kept or model
            update: dict[Any, Any] = {made["drawn"]: 1}
            for form, value in zip(restored, values, strict=True):
                update |= form.restored(model, value)
            return update

        again = whole.load(
            restore, [chosen, kept, *(form.kept for form in restored)], [*places, made["drawn"]], **PRIVATE
        )
        # at once, before anybody could have chosen something else; the list of models takes its time
        begun = again.then(_begun, [chosen, kept], [chosen, tabs, wanted], **PRIVATE)
        opened = begun.then(_listed, [chosen, wanted, page.brought], [chosen, page.brought], **PRIVATE)
        reader.select(
            _asked, [chosen, wanted], [chosen, tabs, wanted], trigger_mode="multiple", concurrency_limit=1, **PRIVATE
        )
        address.keep(page, "", model=chosen)
        address.settle(page, opened)
        page.brought.change(_offered, chosen, chosen, **PRIVATE)
        chosen.change(_remembered, chosen, kept, **PRIVATE)
        for tab in (made, answered, measured, ranked):
            choose, target = tab["methods"]
            whole.load(choose, None, target, **PRIVATE)
        for tab in (first, made, answered, measured, ranked, checked, claims, working, kept_runs):
            for resume, inputs, outputs in tab["loads"]:
                whole.load(resume, inputs, outputs, concurrency_limit=None, **PRIVATE)
        made["use"].click(_use, [made["chosen"], chosen], [tabs, *measured["images"].inputs, chosen], **PRIVATE)
        whole.unload(_left)
        api.build()
    whole.queue(default_concurrency_limit=4, max_size=_WAITING)
    return whole


@guarded
def _left(request: gr.Request) -> None:
    """A page was closed or loaded anew."""
    uploads.end(str(request.session_hash))
    memory.let_go(demo)


@guarded
def _begun(chosen: str, kept: str | None, request: gr.Request) -> tuple:
    """The page as its address says, or with the model that was looked at last.

    Whether there is such a model is asked only where that takes no time; the list of models, which comes next, asks it again.
    """
    wanted = address.parsed(dict(request.query_params))
    tab, wanted = _tab(wanted)
    model = str(wanted.get("model") or kept or chosen)
    if library.imported() and model not in (names := engine.models()):
        wrong: list[str] = []
        model = address.model_of(wanted, names, chosen, wrong)
        _warn(wrong)
    choices = list(dict.fromkeys((chosen, model)))
    return gr.Dropdown(choices=choices, value=model), tab, {**wanted, "model": model}


@guarded
def _listed(chosen: str, wanted: dict[str, Any], brought: int) -> tuple:
    """All models, and the chosen one if there is one of that name; then pictures and sets are looked for."""
    names = engine.models() or [chosen]
    _model(wanted, names, names[0])
    return _choices(chosen, names), brought + 1


@guarded
def _asked(chosen: str, before: dict[str, Any], event: gr.EventData) -> tuple:
    """The page as an address says that it was sent to by "back" or "forward"."""
    tab, wanted = _tab(address.parsed(event._data["query"], before))
    names = engine.models() or [chosen]
    model = _model(wanted, names, chosen)
    return gr.Dropdown(choices=list(dict.fromkeys([*names, model])), value=model), tab, {**wanted, "model": model}


def _tab(wanted: dict[str, Any]) -> tuple[Any, dict[str, Any]]:
    """The tab of an address, if it names one."""
    wrong: list[str] = []
    tab = address.tab_of(wanted, wrong)
    _warn(wrong)
    return gr.Tabs(selected=tab) if "tab" in wanted else gr.skip(), {**wanted, "tab": tab}


def _model(wanted: dict[str, Any], names: list[str], default: str) -> str:
    """The model of an address; says in a line if it is not there, or if other weights of it are meant."""
    wrong: list[str] = []
    model = address.model_of(wanted, names, default, wrong)
    made = wanted.get("weights")
    if made and not wrong and not engine.digest(model).startswith(made):
        wrong.append(f"the link was made with other weights of {model} ({made}, here {engine.digest(model)[:8]})")
    _warn(wrong)
    return model


def _warn(wrong: list[str]) -> None:
    if wrong:
        gr.Warning(f"{'; '.join(wrong)}.", duration=12)


@guarded
def _offered(chosen: str) -> gr.Dropdown:
    return _choices(chosen, engine.models() or [chosen])


def _choices(chosen: str, names: list[str]) -> gr.Dropdown:
    """The list of models; another one is chosen only where that one is not there, for it may have been changed meanwhile."""
    return gr.Dropdown(choices=names) if chosen in names else gr.Dropdown(choices=names, value=names[0])


def _remembered(chosen: str) -> str:
    return chosen


@guarded
def _use(path: str | None, model: str) -> tuple:
    entry = next((one for one in stored.sets(model) if one["path"] == path), None)
    if entry is None:
        raise ValueError("no set is chosen; pick one from the list")
    model = entry["model"]
    return gr.Tabs(selected="quantize"), *calib.handed(model, path, sets.choices(model)), model


LAUNCH = {
    "server_name": "127.0.0.1",
    "share": False,
    "show_error": True,
    "ssr_mode": False,
    "run_history": False,
    "theme": THEME,
    "css": CSS,
    "head": HEAD,
    "favicon_path": ICON,
    "max_file_size": "600mb",
    "footer_links": ["api", "settings"],
    "app_kwargs": {"middleware": [*origin.guard(), Middleware(who.Introduced)]},
}
"""What every start of the page has in common."""

demo = build()


def main() -> None:
    """Serves the page: `ouro-workbench`, or this file as a script; GRADIO_SERVER_PORT names another port than 7860."""
    port = int(os.environ.get("GRADIO_SERVER_PORT", "7860"))
    try:
        demo.launch(server_port=port, prevent_thread_lock=True, **LAUNCH)
    except OSError as error:
        sys.exit(f"cannot listen on port {port} ({str(error).splitlines()[0]}); set GRADIO_SERVER_PORT to another one")
    # not before: gradio asks its own page whether it is there, and gives up where imports keep it from answering
    threading.Thread(target=engine.warm_up, name="warm-up", daemon=True).start()
    demo.block_thread()


if __name__ == "__main__":
    main()
