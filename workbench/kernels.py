"""Kernels: whether each computes what it should, checked live on this machine, and the stored times of every device."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any

import gradio as gr

from workbench import address, checks, engine, runner, stored, times
from workbench.errors import guarded
from workbench.page import PRIVATE, Page, lead, title
from workbench.plot import plot_view

KIND = "kernels"
ALL = "all"
FIRST = "selective_scan"


def gate_rows(job: runner.Job | None) -> tuple[Sequence[dict[str, Any]], str]:
    """Rows of the gate that a job has come to, and where it ran, once it is done."""
    if job is None:
        return [], ""
    if job.state == "done":
        report = job.result
        return report.values["gates"], checks.where(report.run.device, report.values["interpreted"])
    return job.data.get("gates", []), ""


def _stored() -> tuple[list[dict[str, Any]], list[str]]:
    """Benchmarks in results/, and the devices they ran on."""
    files = stored.benchmarks()
    return files, times.devices(files)


def build(page: Page) -> dict[str, Any]:
    """Fills the tab; returns the components that others need."""
    files, devices = _stored()
    device = devices[0] if devices else None
    topics = times.topics(files, device)
    topic = topics[0] if topics else None

    lead(
        "Triton kernels do the same as plain torch, faster. Whether it is the same is checked first: every output against "
        "its definition in float64, on small and awkward inputs. Without a CUDA device Triton's interpreter runs them on "
        "the CPU, which proves that they are right and says nothing about speed."
    )
    with gr.Row(elem_classes="wb-inline"):
        which = gr.Dropdown(
            [("All nine", ALL), *checks.COMPUTES], value=FIRST, label="Kernel", filterable=False,
            elem_id="wb-kernels-which", min_width=160,
        )  # fmt: skip
        go = gr.Button("Check", variant="primary", elem_id="wb-kernels-go", min_width=100)
        stop = gr.Button("Cancel", interactive=False, elem_id="wb-kernels-cancel", min_width=80)
    about = gr.HTML("", elem_id="wb-kernels-card", apply_default_css=False)
    progress = gr.HTML(runner.bar(None), elem_id="wb-kernels-job", apply_default_css=False)
    said = gr.HTML("", elem_id="wb-kernels-verdict", apply_default_css=False)
    total = gr.HTML("", elem_id="wb-kernels-summary", apply_default_css=False)
    with gr.Row():
        with gr.Column(scale=1, min_width=320):
            spread = plot_view("wb-kernels-spread", value=checks.chart([]))
        with gr.Column(scale=1, min_width=320):
            each = gr.HTML("", elem_id="wb-kernels-cases", elem_classes="wb-tall", apply_default_css=False)

    title("Times", "as stored in results/, of every device; p50, and the range from p20 to p80")
    gr.HTML(times.unmeasured(files), elem_id="wb-kernels-unmeasured", apply_default_css=False)
    with gr.Row(elem_classes="wb-inline"):
        at = gr.Dropdown(
            devices, value=device, label="Device", filterable=False, elem_id="wb-kernels-device", min_width=240
        )
        what = gr.Dropdown(
            topics, value=topic, label="What", filterable=False, elem_id="wb-kernels-topic", min_width=280
        )
    drawn = plot_view("wb-kernels-times", value=times.chart(files, device, topic))
    origin = gr.HTML(times.source(files, device, topic), elem_id="wb-kernels-source", apply_default_css=False)
    rows = gr.HTML(times.listed(files, device, topic), elem_id="wb-kernels-rows", apply_default_css=False)

    checked = [said, spread, total, each]
    followed = [progress, go, stop, *checked]

    def views(job: runner.Job | None) -> dict[Any, Any]:
        gates, place = gate_rows(job)
        values = checks.verdict(gates, place), checks.chart(gates), checks.summary(gates), checks.cases(gates)
        return dict(zip(checked, values, strict=True))

    def follow(job: runner.Job) -> Iterator[dict[Any, Any]]:
        seen = None
        for _ in runner.follow(job):
            update = {
                progress: runner.bar(job), go: gr.Button(interactive=job.over), stop: gr.Button(interactive=not job.over)
            }  # fmt: skip
            now = (len(gate_rows(job)[0]), job.state)
            yield update | (views(job) if now != seen else {})
            seen = now

    @guarded
    def check(which: str) -> Iterator[dict[Any, Any]]:
        names = tuple(checks.COMPUTES) if which == ALL else (which,)
        label = f"{'all kernels' if which == ALL else which} · {engine.device()}"
        yield from follow(runner.start(KIND, lambda: engine.gate_job(names), label))

    go.click(check, which, followed, concurrency_limit=None, **PRIVATE)
    stop.click(guarded(lambda: runner.stopped(KIND)), None, progress, queue=False, **PRIVATE)

    @guarded
    def describe(which: str) -> str:
        if which == ALL:
            return '<p class="wb-note">All kernels, one after another; in the interpreter some take minutes.</p>'
        return checks.card(which, engine.kernel_work(which))

    which.change(describe, which, about, **PRIVATE)

    shown = [origin, drawn, rows]

    def stored_views(files: list[dict[str, Any]], device: str | None, topic: str | None) -> dict[Any, Any]:
        pair = (files, device, topic)
        return dict(zip(shown, (times.source(*pair), times.chart(*pair), times.listed(*pair)), strict=True))

    @guarded
    def other_device(device: str | None) -> dict[Any, Any]:
        files, _ = _stored()
        topics = times.topics(files, device)
        topic = topics[0] if topics else None
        return {what: gr.Dropdown(choices=topics, value=topic), **stored_views(files, device, topic)}

    @guarded
    def other_topic(device: str | None, topic: str | None) -> dict[Any, Any]:
        return stored_views(_stored()[0], device, topic)

    at.input(other_device, at, [what, *shown], **PRIVATE)
    what.input(other_topic, [at, what], shown, **PRIVATE)

    def asked(ask: address.Asked, model: str) -> dict[Any, Any]:
        files, known = _stored()
        device = ask.one_of("device", next(iter(known), None), known)
        topics = times.topics(files, device)
        topic = ask.one_of("topic", next(iter(topics), None), topics)
        chosen = {at: gr.Dropdown(choices=known, value=device), what: gr.Dropdown(choices=topics, value=topic)}
        return {**chosen, **stored_views(files, device, topic)}

    address.form(page, "kernels", {"kernel": which, "device": at, "topic": what}, asked, shown)

    @guarded
    def resume(which: str) -> Iterator[dict[Any, Any]]:
        job = runner.latest(KIND)
        yield {about: describe(which), **views(job)}
        if job is not None:
            yield from follow(job)

    return {"loads": [(resume, [which], [about, *followed])]}
