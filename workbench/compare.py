"""The part of the Samples tab that sets finished sets side by side, and measures what they are worth."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import gradio as gr

from workbench import calib, engine, lists, runner, sets, stored
from workbench.errors import guarded
from workbench.page import PRIVATE, title
from workbench.plot import from_figures, nothing, plot_view

KIND = "quality of sets"
ITEMS = {
    "frechet": "Fréchet distance",
    "diversity": "Diversity",
    "coverage": "Coverage of ranges",
    "ks": "Kolmogorov–Smirnov",
    "similarity": "Similar patches",
    "accuracy": "Accuracy",
}
"""Figures of `ouro.figures.quality` that say more than the chart of recognition."""
REAL = "real images"
_REFERENCE = 128
UNKNOWN = "These sets have not been measured against real images yet."


def looked_at(entries: Sequence[Mapping[str, Any]]) -> Mapping[str, Any] | None:
    """Values of a report of `ouro.jobs.quality` about these sets: the last one's, or put together of what is stored."""
    if len(entries) < 2 or len({values["model"] for values in entries}) > 1:
        return None
    job = runner.latest(KIND)
    if job is not None and job.state == "done":
        paths = [row["calib"] for row in job.result.values["rows"] if row["label"] != REAL]
        if paths == [values["path"] for values in entries]:
            return job.result.values
    rows = stored.qualities(entries)
    if rows is None:
        return None
    named = [{"label": label, "accuracy": {}, **row} for label, row in zip(sets.labels(entries), rows, strict=True)]
    return {"model": entries[0]["model"], "n_reference": "the same", "rows": named}


def chart(values: Mapping[str, Any] | None, item: str) -> str:
    """One figure of the library about the sets."""
    if values is None:
        return nothing(UNKNOWN)
    from ouro.figures import quality

    if item == "accuracy" and not any(row["accuracy"] for row in values["rows"]):
        return nothing("Nothing was quantized with these sets; tick the box and measure again.")
    return from_figures(quality.screen(values, item), alt=quality.alt(values, item), height=380, name=f"quality-{item}")


def build() -> dict[str, Any]:
    """Fills its part of the tab; returns the dropdown of sets, and what is to be done when the page opens."""
    title("Compare sets", f"two to {sets.MOST} of them, by their pictures and by who recognizes them")
    several = gr.Dropdown(
        [], value=[], label="Sets", multiselect=True, max_choices=sets.MOST, elem_id="wb-samples-several",
        info="judges are models that were trained on their own and never saw these images",
    )  # fmt: skip
    shares = plot_view("wb-samples-shares", empty=sets.FEW)
    beside = gr.HTML(elem_id="wb-samples-beside", apply_default_css=False)
    with gr.Column(visible=False, elem_id="wb-samples-quality") as more:
        with gr.Row(elem_classes="wb-inline"):
            go = gr.Button("Measure against real images", elem_id="wb-samples-measure", min_width=200)
            stop = gr.Button("Cancel", interactive=False, elem_id="wb-samples-halt", min_width=80)
            accuracy = gr.Checkbox(
                False, label="and quantize with each (minutes)", elem_id="wb-samples-accuracy", min_width=260
            )
        progress = gr.HTML(elem_id="wb-samples-measured", apply_default_css=False)
        item = gr.Radio(
            [(words, name) for name, words in ITEMS.items()], value="frechet", label="Figure", elem_id="wb-samples-item"
        )
        figure = plot_view("wb-samples-figure", empty=UNKNOWN)
    measured = gr.State(0)

    def opened(paths: Sequence[str]) -> list[dict[str, Any]]:
        known = {entry["path"]: entry for entry in stored.sets()}
        return [known[path] for path in paths or () if path in known]

    def shown(paths: Sequence[str], item: str) -> dict[Any, Any]:
        entries = opened(paths)
        values = looked_at(entries)
        rows = [row for row in values["rows"] if row["label"] != REAL] if values else None
        return {beside: sets.side_by_side(entries, rows), figure: chart(values, item)}

    @guarded
    def contrast(paths: Sequence[str], item: str) -> dict[Any, Any]:
        entries = opened(paths)
        return {shares: sets.recognition(entries), more: gr.Column(visible=len(entries) > 1), **shown(paths, item)}

    several.change(contrast, [several, item], [shares, more, beside, figure], **PRIVATE)

    @guarded
    def other(paths: Sequence[str], item: str) -> str:
        return chart(looked_at(opened(paths)), item)

    item.input(other, [several, item], figure, **PRIVATE)

    def follow(job: runner.Job) -> Iterator[dict[Any, Any]]:
        for _ in runner.follow(job):
            update = {
                progress: runner.bar(job), go: gr.Button(interactive=job.over), stop: gr.Button(interactive=not job.over)
            }  # fmt: skip
            yield update | ({measured: job.number} if job.state == "done" else {})

    def judged(measured: int, paths: Sequence[str], item: str) -> dict[Any, Any]:
        # a page that is loaded says once that it has changed, before anything was measured
        return shown(paths, item) if measured else dict.fromkeys([beside, figure], gr.skip())

    # the sets that are chosen by then
    lists.on([measured.change], judged, [measured, several, item], [beside, figure], **PRIVATE)

    @guarded
    def measure(paths: Sequence[str], accuracy: bool) -> Iterator[dict[Any, Any]]:
        entries = opened(paths)
        models = sorted({values["model"] for values in entries})
        if len(entries) < 2 or len(models) > 1:
            raise ValueError(f"choose two sets or more of one model; these are of {', '.join(models) or 'none'}")
        model, count = models[0], min(_REFERENCE, max(values["num"] for values in entries))
        data = next((data for _, data in calib.measures(model)), "")
        if accuracy and calib.measured(model, data) != calib.ACCURACY:
            raise ValueError(f"accuracy of {model} needs labels: {calib.NO_PICTURES}")
        spec = {
            "model": model, "methods": ("clipped", "ouro") if accuracy else (), "data": data,
            "sets": (*zip(sets.labels(entries), paths, strict=True), (REAL, calib.real(model, count))),
            "reference": calib.real(model, _REFERENCE),
        }  # fmt: skip
        about = f"{model} · {', '.join(sets.labels(entries))}"
        job = runner.start(KIND, lambda: engine.quality_job(**spec), about, model=model)
        yield from follow(job)

    followed = [progress, go, stop, measured]
    go.click(measure, [several, accuracy], followed, concurrency_limit=None, **PRIVATE)
    stop.click(guarded(lambda: runner.stopped(KIND)), None, progress, queue=False, **PRIVATE)

    @guarded
    def resume() -> Iterator[dict[Any, Any]]:
        job = runner.latest(KIND)
        yield {progress: runner.bar(job)}
        if job is not None and not job.over:
            yield from follow(job)

    return {"several": several, "load": (resume, [], followed)}
