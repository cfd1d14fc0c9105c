"""Samples: images made from noise by the model alone, watched while they form, and kept as calibration sets."""

from __future__ import annotations

import html
from collections.abc import Generator, Iterator, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import gradio as gr
import numpy as np

from ouro.progress import mapped
from workbench import address, compare, engine, first_samples, forms, generators, runner, sets, stored
from workbench.errors import guarded
from workbench.page import PRIVATE, Page, lead, title
from workbench.plot import LEGEND, figure, nothing, plot_view

KIND = "generation"
_MOST = 64
_EMPTY = "The losses appear here while images are being made."


def growing(job: Generator[Any, None, Any]) -> Generator[Any, None, Any]:
    """The job, whose previews show the finished images before those in the making, and losses the number of the chunk."""
    finished: list[np.ndarray] = []

    def grown(progress: Any) -> Any:
        data = dict(progress.data)
        if "loss" in data:
            data["loss"] = {**data["loss"], "chunk": len(finished)}
        if "preview" in data:
            now = np.asarray(data["preview"])
            data["preview"] = np.concatenate([*finished, now])
            if "finished" in data:
                finished.append(now)
        return replace(progress, data=data)

    return mapped(job, grown)


def loss_chart(history: Sequence[Mapping[str, float]]) -> str:
    """Every loss term over the steps of its chunk; chunks are drawn over one another, the last one alone at full ink."""
    names = [name for name in history[-1] if name not in ("step", "chunk")] if history else []
    if not names:
        return nothing(_EMPTY)
    chunks: dict[float, list[Mapping[str, float]]] = {}
    for row in history:
        chunks.setdefault(row.get("chunk", 0), []).append(row)
    colors = ["$accent", "$h", "$float", "$good", "$bad"]
    data = []
    for at, rows in enumerate(chunks.values(), 1):
        last = at == len(chunks)
        data += [
            {"type": "scatter", "mode": "lines", "name": name, "x": list(range(1, len(rows) + 1)),
             "y": [row.get(name) for row in rows], "line": {"color": color, "width": 2 if last else 1},
             "opacity": 1 if last else 0.35, "showlegend": last, "legendgroup": name,
             "hovertemplate": f"chunk {at}, step %{{x}}, {name}: %{{y:.3f}}<extra></extra>"}
            for name, color in zip(names, colors * 3, strict=False)
        ]  # fmt: skip
    positive = all(row.get(name, 1) > 0 for row in history for name in names)
    steps = max(map(len, chunks.values()))
    layout = {
        "xaxis": {"title": {"text": "step"}, "range": [1, max(10, steps)], "tickformat": "d"},
        "yaxis": {"title": {"text": "loss"}, **({"type": "log", "dtick": 1} if positive else {})},
        "legend": LEGEND, "margin": {"l": 52, "r": 8, "t": 26, "b": 40},
    }  # fmt: skip
    latest = ", ".join(f"{name} {history[-1][name]:.3f}" for name in names)
    alt = f"losses over {len(history)} steps in {len(chunks)} chunk{'s' * (len(chunks) > 1)}, now {latest}"
    return figure(data, layout, alt=alt, height=240, name="losses")


def shelf(images: Any) -> gr.Gallery:
    """uint8 [n 3 h w] in the gallery; small images are enlarged by whole pixels, so they stay exact."""
    images = np.asarray(images)[:_MOST].transpose(0, 2, 3, 1)
    zoom = max(1, 168 // images.shape[1])
    return gr.Gallery(list(images.repeat(zoom, axis=1).repeat(zoom, axis=2)), visible=True)


def build(page: Page) -> dict[str, Any]:
    """Fills the tab; returns the components that others need."""
    lead(
        "Calibration needs images, and often there are none to be had. Here the model makes its own: noise is "
        "optimized until the model recognizes its target class and its implicit attention parts object from background."
    )
    hint = gr.HTML(elem_id="wb-samples-hint", apply_default_css=False)
    with gr.Row():
        with gr.Column(scale=1, min_width=280, elem_classes="wb-form"):
            method = gr.Radio(
                engine.generators(), value="ouro", label="Method",
                elem_id="wb-samples-method",
            )  # fmt: skip
            num = gr.Slider(4, 256, 16, step=4, label="Images", elem_id="wb-samples-num")
            steps = gr.Slider(
                10, 1000, 100, step=10, label="Steps", info="the paper's scale is 1000", elem_id="wb-samples-steps"
            )
            seed = gr.Number(0, label="Seed", precision=0, minimum=0, elem_id="wb-samples-seed")
            with gr.Accordion("Advanced", open=False, elem_id="wb-samples-advanced"):
                with gr.Column(elem_classes="wb-form") as pace:
                    batch = gr.Slider(
                        8, 64, 8, step=8, label="Images at once", elem_id="wb-samples-batch",
                        info="a run that is stopped loses these at most, the rest is kept",
                    )  # fmt: skip
                    lr = gr.Number(0.2, label="Learning rate", minimum=0.0001, elem_id="wb-samples-lr")
                chosen_settings, drawn = generators.form(method)
            with gr.Row(elem_classes="wb-buttons"):
                go = gr.Button("Generate", variant="primary", elem_id="wb-samples-go", min_width=100)
                hold = gr.Button("Pause", interactive=False, elem_id="wb-samples-pause", min_width=90)
                stop = gr.Button("Cancel", interactive=False, elem_id="wb-samples-cancel", min_width=80)
        with gr.Column(scale=3, min_width=320):
            progress = gr.HTML(
                runner.bar(None, "Ready. 16 images in 100 steps take a minute or two on two cores."),
                elem_id="wb-samples-job",
                apply_default_css=False,
            )
            redo = gr.Button(
                "Recompute",
                size="sm",
                visible=False,
                elem_id="wb-samples-redo",
                elem_classes="wb-narrow",
                min_width=110,
            )
            example = gr.HTML(first_samples.gallery(), elem_id="wb-samples-first", apply_default_css=False)
            gallery = gr.Gallery(
                label="Images", show_label=False, format="png", columns=8, object_fit="contain", height="auto",
                buttons=["download", "fullscreen"], elem_id="wb-samples-gallery", elem_classes="wb-samples",
                interactive=False, visible=False,
            )  # fmt: skip
            losses = plot_view("wb-samples-losses", empty=_EMPTY)
    with gr.Column(visible=False, elem_id="wb-samples-rest") as rest:
        title(
            "Stopped before the end",
            "all images but those in the making were kept; it goes on after them, as if nothing had stopped it",
        )
        with gr.Row(elem_classes="wb-inline"):
            halves = gr.Dropdown([], label="Unfinished set", elem_id="wb-samples-halves", scale=4, min_width=280)
            again = gr.Button("Continue this set", elem_id="wb-samples-again", scale=1, min_width=150)
            drop = gr.Button("Discard", elem_id="wb-samples-drop", scale=1, min_width=110)
    title("Finished sets", "kept on this machine; the same settings give the same images")
    with gr.Row(elem_classes="wb-inline"):
        finished = gr.Dropdown([], label="Set", elem_id="wb-samples-sets", scale=4, min_width=280, info=sets.NO_SET)
        use = gr.Button("Use for calibration", elem_id="wb-samples-use", scale=1, min_width=160, interactive=False)
        file = gr.DownloadButton("Download", elem_id="wb-samples-file", scale=1, min_width=120, interactive=False)
    details = gr.HTML(elem_id="wb-samples-facts", apply_default_css=False)
    compared = compare.build()
    several = compared["several"]

    def chosen(path: str | None) -> dict[Any, Any]:
        """Everything that depends on what is stored, with this set chosen."""
        entries = {entry["path"]: entry for entry in stored.sets()}
        options = [(sets.set_name(entry), key) for key, entry in entries.items()]
        entry = entries.get(path or "")
        return {
            finished: gr.Dropdown(
                choices=options, value=entry and path, info=f"{len(options)} finished" if options else sets.NO_SET
            ),
            use: gr.Button(interactive=entry is not None),
            file: gr.DownloadButton(value=stored.exported(entry) if entry else None, interactive=entry is not None),
            details: sets.facts_of(entry) if entry else "",
            several: gr.Dropdown(choices=options),
        }

    def shelved(images: Any) -> dict[Any, Any]:
        """Images of one's own in the gallery, which take the place of the example."""
        return {gallery: shelf(images), example: gr.HTML(visible=False)}

    def stopped() -> dict[Any, Any]:
        """What was left unfinished."""
        unfinished = stored.unfinished()
        names = [(f"{sets.spec_name(one['spec'])} · {one['finished']} finished", one["path"]) for one in unfinished]
        return {
            rest: gr.Column(visible=bool(names)),
            halves: gr.Dropdown(choices=names, value=names[0][1] if names else None),
        }

    def follow(job: runner.Job) -> Iterator[dict[Any, Any]]:
        shown, drawn = None, -1
        for _ in runner.follow(job):
            update: dict[Any, Any] = {
                progress: runner.bar(job),
                go: gr.Button(interactive=job.over),
                hold: gr.Button(
                    "Continue" if job.state == "paused" else "Pause", interactive=job.state in ("running", "paused")
                ),
                stop: gr.Button(interactive=not job.over),
                again: gr.Button(interactive=job.over),
                redo: gr.Button(visible=job.cached),
            }
            preview = job.data.get("preview")
            if preview is not None and preview is not shown:
                shown = preview
                update |= shelved(preview)
            if len(job.history) != drawn:
                drawn, update[losses] = len(job.history), loss_chart(job.history)
            if job.state == "done":
                update |= chosen(job.result.values["path"])
            if job.over:
                update |= stopped()
            yield update

    def started(spec: Mapping[str, Any]) -> Iterator[dict[Any, Any]]:
        make = lambda: growing(engine.synthesis_job(**spec))  # noqa: E731
        yield from follow(runner.start(KIND, make, sets.spec_name(spec), model=spec["model"]))

    @guarded
    def begin(
        model: str, method: str, num: int, steps: int, seed: float, batch: int, lr: float | None,
        values: Mapping[str, Any],
    ) -> Iterator[dict[Any, Any]]:  # fmt: skip
        options = generators.changed(method, values.get(method, {}))
        if lr is None:
            raise ValueError("the learning rate is empty; its default is 0.2")
        spec = {
            "model": model, "method": method, "num": int(num), "steps": int(steps), "seed": int(seed or 0),
            "batch": int(batch), "lr": lr, "options": options,
        }  # fmt: skip
        yield from started(spec)

    followed = [
        progress,
        example,
        gallery,
        losses,
        finished,
        use,
        file,
        details,
        several,
        rest,
        halves,
        go,
        hold,
        stop,
        again,
        redo,
    ]
    inputs = [page.model, method, num, steps, seed, batch, lr, chosen_settings]
    go.click(begin, inputs, followed, concurrency_limit=None, **PRIVATE)
    hold.click(guarded(lambda: runner.pause(KIND) and None), None, None, queue=False, **PRIVATE)
    stop.click(guarded(lambda: runner.stopped(KIND)), None, progress, queue=False, **PRIVATE)

    @guarded
    def go_on(path: str | None) -> Iterator[dict[Any, Any]]:
        entry = next((one for one in stored.unfinished() if one["path"] == path), None)
        if entry is None:
            raise ValueError("there is no such unfinished set; was it finished or discarded meanwhile?")
        yield from started(entry["spec"])

    @guarded
    def recompute() -> Iterator[dict[Any, Any]]:
        yield from follow(runner.again(KIND))

    redo.click(recompute, None, followed, concurrency_limit=None, **PRIVATE)
    again.click(go_on, halves, followed, concurrency_limit=None, **PRIVATE)

    @guarded
    def discard(path: str | None) -> dict[Any, Any]:
        job = runner.latest(KIND)
        if job is not None and not job.over:
            raise ValueError("a set is being made; cancel it before another one is discarded")
        stored.discard(path or "")
        return stopped()

    drop.click(discard, halves, [rest, halves], **PRIVATE)

    def set_asked(ask: address.Asked) -> dict[str, Any] | None:
        """The finished set that an address asks for, by the name of its run."""
        known = {Path(entry["path"]).parent.name: entry for entry in stored.sets()}
        return ask.one_of("set", None, known)

    @guarded
    def resume(request: gr.Request) -> Iterator[dict[Any, Any]]:
        job = runner.latest(KIND)
        own = set_asked(address.opening("samples", request)) or next(iter(stored.sets()), None)
        update = chosen(own["path"] if own else None)
        if own and (job is None or "preview" not in job.data):
            update |= shelved(stored.pictures(own, _MOST)[0])
        yield update | (stopped() if job is None or job.over else {})
        if job is not None:
            yield from follow(job)

    @guarded
    def open_set(path: str | None) -> dict[Any, Any]:
        update = {key: value for key, value in chosen(path).items() if key not in (finished, several)}
        if not path:
            return update
        entry = next((one for one in stored.sets() if one["path"] == path), None)
        if entry is None:
            raise ValueError(f"the set {Path(path).parent.name} is no longer there; generate it again")
        return update | shelved(stored.pictures(entry, _MOST)[0])

    finished.input(open_set, finished, [example, gallery, use, file, details], **PRIVATE)

    def fitting(method: str) -> list[Any]:
        optimized = engine.optimizes(method)
        return [gr.Slider(visible=optimized), gr.Column(visible=optimized)]

    method.change(fitting, method, [steps, pace], **PRIVATE)

    @guarded
    def advice(model: str) -> str:
        if not engine.makes_pictures(model):
            return ""
        words = (
            f"{model} makes pictures itself, as Tasks shows: Quantize calibrates it on those, and none are made here."
        )
        return f'<p class="wb-hint" role="status">{html.escape(words)}</p>'

    page.model.change(advice, page.model, hint, **PRIVATE)

    @guarded
    def known() -> gr.Radio:
        return gr.Radio(choices=[(words, name) for name, words in engine.generator_titles().items()])

    def settings_of(model: str, kept: Mapping[str, Any]) -> dict[Any, Any]:
        return {chosen_settings: generators.restored(kept.get("options"))}

    fields = {"method": method, "num": num, "steps": steps, "seed": seed, "batch": batch, "lr": lr}
    form = forms.keep(page.kept["samples"], {**fields, "options": chosen_settings}, go, more=settings_of)

    def asked(ask: address.Asked, model: str) -> dict[Any, Any]:
        entry = set_asked(ask)
        if entry is None:
            return {finished: gr.skip()}
        return chosen(entry["path"]) | shelved(stored.pictures(entry, _MOST)[0])

    opened = [use, file, details, several, gallery, example]
    address.form(page, "samples", {**fields, "set": finished}, asked, opened)

    return {
        "form": form,
        "drawn": drawn,
        "loads": [(resume, [], followed), compared["load"]],
        "methods": (known, method),
        "use": use,
        "chosen": finished,
    }
