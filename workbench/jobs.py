"""Jobs: what is at work in this process, what waits and what is over, in a list that every tab has at hand."""

from __future__ import annotations

import html
from typing import Any

import gradio as gr

from workbench import attention, compare, kernels, quantize, runner, samples, sensitivity, start, tasks
from workbench.acts import button
from workbench.errors import guarded
from workbench.page import PRIVATE, Page

TABS = {
    attention.KIND: "attention",
    samples.KIND: "samples",
    compare.KIND: "samples",
    tasks.KIND: "tasks",
    quantize.KIND: "quantize",
    sensitivity.KIND: "sensitivity",
    sensitivity.BUDGET: "sensitivity",
    kernels.KIND: "kernels",
    start.LOADING: "start",
}
"""Kind of a job -> the tab where its result is."""

_SECONDS = 1.5
_NONE = (
    '<p class="wb-note">Nothing has been started since the app was. Jobs appear here, whichever tab they belong to.</p>'
)


def at_work(jobs: list[runner.Job]) -> int:
    """How many of these are running or waiting; a paused one is at rest."""
    return sum(job.state in ("running", "waiting") for job in jobs)


def listed(jobs: list[runner.Job]) -> str:
    """The value of the view: the jobs as items of a list, and how many are at work."""
    items = "".join(map(_item, jobs))
    inner = f'<ul class="wb-joblist">{items}</ul>' if items else _NONE
    return f'<div data-at-work="{at_work(jobs)}">{inner}</div>'


def _item(job: runner.Job) -> str:
    if not job.own:
        words = "computing" if job.state == "running" else job.state
        return f'<li data-key="{job.number}" data-state="{job.state}"><header><b>{job.title}</b><span>{words}</span></header></li>'
    about = f"<span>{html.escape(job.about)}</span>" if job.about else ""
    since = f'<time datetime="{job.since:%Y-%m-%dT%H:%M:%S}">{job.since:%H:%M}</time>'
    buttons = []
    # an older one of its kind left nothing behind that could be opened
    if job.kind in TABS and runner.latest(job.kind) is job:
        buttons.append(_button(f"Open {TABS[job.kind].capitalize()}", "open", job))
    if job.state == "running" and job.computes:
        buttons.append(_button("Pause", "pause", job))
    if job.state == "paused":
        buttons.append(_button("Continue", "pause", job))
    if not job.over:
        buttons.append(_button("Cancel", "cancel", job))
    acts = f'<div class="wb-jobacts">{"".join(buttons)}</div>' if buttons else ""
    return (
        f'<li data-key="{job.number}" data-state="{job.state}"><header><b>{html.escape(job.kind)}</b>{about}{since}</header>'
        f"{runner.bar(job)}{acts}</li>"
    )


def _button(words: str, act: str, job: runner.Job) -> str:
    return button(words, act, str(job.number), about=f"· {job.title}")


def view() -> gr.HTML:
    """The button of the top bar with its panel; its value is made by `listed`. Event `select` carries `act` and `name`."""
    return gr.HTML(
        value=listed([]),
        html_template='<div class="wb-jobs"></div>',
        js_on_load="wb.jobs(element, props, trigger, watch); // 'select'",
        apply_default_css=False,
        elem_id="wb-jobs",
    )


def build(page: Page, shown: gr.HTML) -> dict[str, Any]:
    """Fills the view; the page asks again and again only while something is at work."""
    clock = gr.Timer(_SECONDS, active=False)

    @guarded
    def now() -> dict[Any, Any]:
        jobs = runner.jobs()
        return {shown: listed(jobs), clock: gr.Timer(active=at_work(jobs) > 0)}

    @guarded
    def act(event: gr.EventData) -> dict[Any, Any]:
        wanted, job = str(event._data["act"]), runner.numbered(int(event._data["name"]))
        leads = {}
        # "look" is of no job: the panel was opened, or a tab has started something
        if job is not None and wanted == "pause":
            job.pause() or job.resume()
        elif job is not None and wanted == "cancel":
            job.cancel()
        elif job is not None and wanted == "open":
            leads[page.tabs] = gr.Tabs(selected=TABS[job.kind])
            if job.model:
                leads[page.model] = start.offered(job.model)
        return now() | leads

    shown.select(act, None, [shown, clock, page.tabs, page.model], queue=False, trigger_mode="multiple", **PRIVATE)
    clock.tick(now, None, [shown, clock], queue=False, **PRIVATE)
    return {"loads": [(now, [], [shown, clock])]}
