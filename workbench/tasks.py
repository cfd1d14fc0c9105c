"""Tasks: what a model answers to one image, beside the truth and beside what it answers in a few bits, whatever its task."""

from __future__ import annotations

import html
from collections.abc import Generator, Iterator, Mapping
from pathlib import Path
from typing import Any

import gradio as gr

from workbench import address, calib, engine, lists, quantize, runner, stored
from workbench.answers import answers, answers_view, verdict
from workbench.errors import guarded
from workbench.page import PRIVATE, Page, lead
from workbench.pictures import missing, name_of, picker, reset, source_of, there

KIND = "quantization for one image"
IMAGES = 16
"""That a model is calibrated on here, and that is little: Quantize does it with more."""
ALONE = "Nothing, the float model alone"
_IDLE = f"{IMAGES} calibration images; Quantize takes more, and measures what comes out."


def choices(model: str) -> list[tuple[str, str]]:
    """(words, path) of what a model can be compared with: nothing, or what was made of it in a few bits, newest first."""
    return [(ALONE, ""), *((_words(entry), entry["path"]) for entry in stored.quantized(model))]


def _words(entry: Mapping[str, Any]) -> str:
    scope = "" if entry["scope"] == "lin" else f", scope {entry['scope']}"
    seed = f", seed {entry['seed']}" if entry["seed"] else ""
    budget = f", {entry['budget']:g} bits on average" if "budget" in entry else ""
    packed = ", packed" if "packed" in entry else ""
    calibrated = calib.short_name(entry["calib"])
    return f"{entry['method']} {entry['bits']}{budget}{scope} · {calibrated} images{seed}{packed}"


def spec_of(
    model: str, picture: Mapping[str, Any], beside: str | None, seed: float | None, steps: float
) -> dict[str, Any]:
    """The arguments of the job for one picture; the noise and the steps are those of a denoiser."""
    spec = {"model": model, "beside": beside or "", **source_of(picture)}
    return spec | ({"seed": int(seed or 0), "steps": int(steps)} if engine.makes_pictures(model) else {})


def build(page: Page, model: str, tab: gr.Tab) -> dict[str, Any]:
    """Fills the tab, which looks at nothing before it is opened; returns what is to be done when the page opens."""
    lead(
        "What does a model say of an image, and what is left of that in a few bits? Classes of an image or of its pixels, "
        "boxes, or pictures made of noise: truth, float and quantized side by side."
    )
    pick = picker("tasks", page, model)
    opened, made = gr.State(0), gr.State(None)
    with gr.Row(elem_classes="wb-inline"):
        beside = gr.Dropdown(
            [(ALONE, "")], value="", label="Compare with", filterable=False, elem_id="wb-tasks-beside", scale=4,
            min_width=260,
        )  # fmt: skip
        method = gr.Dropdown(
            engine.methods(), value="minmax", label="Method", filterable=False, elem_id="wb-tasks-method", scale=2,
            min_width=150,
        )  # fmt: skip
        bits = gr.Dropdown(
            list(quantize.BITS), value="w4a4", label="Bits", allow_custom_value=True, elem_id="wb-tasks-bits", scale=1,
            min_width=100,
        )  # fmt: skip
        go = gr.Button("Quantize now", elem_id="wb-tasks-go", min_width=130)
        stop = gr.Button("Cancel", interactive=False, elem_id="wb-tasks-cancel", min_width=80)
    progress = gr.HTML(runner.bar(None, _IDLE), elem_id="wb-tasks-job", apply_default_css=False)
    redo = gr.Button(
        "Recompute", size="sm", visible=False, elem_id="wb-tasks-redo", elem_classes="wb-narrow", min_width=110
    )
    with gr.Row(visible=False, elem_classes="wb-controls", elem_id="wb-tasks-noise") as noise:
        seed = gr.Number(0, label="Seed of the noise", precision=0, minimum=0, elem_id="wb-tasks-seed", min_width=140)
        steps = gr.Slider(1, 40, 10, step=1, label="Steps of the sampler", elem_id="wb-tasks-steps", min_width=200)
    with gr.Column(elem_classes="wb-frame"):
        said = gr.HTML(elem_id="wb-tasks-verdict", apply_default_css=False)
        view = answers_view("wb-tasks-answers")

    settings = [page.model, pick.chosen, beside, seed, steps]

    def shown(
        model: str, picture: dict[str, Any], path: str | None, seed: float | None, steps: float
    ) -> dict[Any, Any]:
        if not there(picture):
            return {view: "", said: f'<p class="wb-lead">{html.escape(missing(model))}</p>'}
        result = engine.answered(**spec_of(model, picture, path, seed, steps))
        name = "your image" if picture["path"] else name_of(model, picture)
        return {view: answers(result, name), said: verdict(result)}

    def menu(model: str, chosen: str | None) -> tuple[gr.Dropdown, str]:
        """What can be compared with; what was chosen stays as long as it is there, the newest takes its place."""
        options = choices(model)
        paths = [path for _, path in options]
        value = chosen if chosen in paths[1:] else paths[min(1, len(paths) - 1)]
        return gr.Dropdown(choices=options, value=value), value

    def look(
        model: str, picture: dict[str, Any], path: str | None, seed: float | None, steps: float, seen: int
    ) -> dict[Any, Any]:
        # models are opened for those who look
        return shown(model, picture, path, seed, steps) if seen else {view: gr.skip(), said: gr.skip()}

    pick.shows(
        look, [*settings, opened], [view, said], dim=[view], on=[opened.change, beside.input, seed.change, steps.input]
    )

    @guarded
    def enter(model: str, path: str | None, seen: int) -> tuple[gr.Dropdown, gr.Row, int]:
        return menu(model, path)[0], gr.Row(visible=engine.makes_pictures(model)), seen + 1

    tab.select(enter, [page.model, beside, opened], [beside, noise, opened], **PRIVATE)

    def view_of(ask: address.Asked, model: str, seen: bool) -> tuple[Any, ...]:
        options = gr.skip()
        if seen or ask.values:
            known = {Path(path).parent.name: path for _, path in choices(model) if path}
            options = menu(model, ask.one_of("run", None, known))[0]
        return (
            options,
            gr.Row(visible=engine.makes_pictures(model)),
            ask.number("seed", gr.skip(), 0, 2**31, 1),
            ask.number("steps", gr.skip(), 1, 40, 1),
            *reset(model, ask),
        )

    address.follow("tasks", page, view_of, [opened], [beside, noise, seed, steps, *pick.parts])
    address.keep(page, "tasks", seed=seed, steps=steps, run=beside)

    def follow(job: runner.Job) -> Iterator[dict[Any, Any]]:
        for _ in runner.follow(job):
            update: dict[Any, Any] = {
                progress: runner.bar(job), go: gr.Button(interactive=job.over), stop: gr.Button(interactive=not job.over),
                redo: gr.Button(visible=job.cached),
            }  # fmt: skip
            if job.state == "done":
                update[made] = {"number": job.number, **{key: job.result.values[key] for key in ("model", "path")}}
            yield update

    def compared(made: Mapping[str, Any] | None, model: str, seen: int) -> tuple[Any, int]:
        # as the page is by then: its model and its picture may have been changed meanwhile
        if made is None or made["model"] != model:
            return gr.skip(), seen
        return menu(model, made["path"])[0], seen + bool(seen)

    lists.on([made.change], compared, [made, page.model, opened], [beside, opened], **PRIVATE)

    @guarded
    def make(model: str, method: str, bits: str) -> Iterator[dict[Any, Any]]:
        spec = {"model": model, "method": method, "bits": bits.strip().lower(), "calib": calib.real(model, IMAGES)}
        job = runner.start(KIND, lambda: _made(spec), f"{model} · {method} {spec['bits']}", model=model)
        yield from follow(job)

    @guarded
    def recompute() -> Iterator[dict[Any, Any]]:
        yield from follow(runner.again(KIND))

    moved = [progress, go, stop, redo, made]
    redo.click(recompute, None, moved, concurrency_limit=None, **PRIVATE)
    go.click(make, [page.model, method, bits], moved, concurrency_limit=None, **PRIVATE)
    stop.click(guarded(lambda: runner.stopped(KIND)), None, progress, queue=False, **PRIVATE)

    @guarded
    def resume() -> Iterator[dict[Any, Any]]:
        job = runner.latest(KIND)
        yield {progress: runner.bar(None, _IDLE)}
        if job is not None and not job.over:
            yield from follow(job)

    @guarded
    def known() -> gr.Dropdown:
        return gr.Dropdown(choices=[(words, name) for name, words in engine.method_titles().items()])

    return {"loads": [(resume, [], moved)], "methods": (known, method)}


def _made(spec: Mapping[str, Any]) -> Generator[Any, None, Any]:
    return engine.quantize_job(**spec)
