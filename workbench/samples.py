"""Samples: images made from noise by the model alone, watched while they form, and kept as calibration sets."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import gradio as gr
import numpy as np

from workbench import engine, runner
from workbench.errors import guarded
from workbench.page import PRIVATE, Page, facts, lead, percent, title
from workbench.plot import figure, nothing, plot_view

KIND = "generation"
METHODS = {
    "ouro": "OuroMamba-Gen: contrast of patched implicit attention",
    "psaq": "PSAQ: entropy of patch similarity",
    "clamp": "CLAMP: contrast of plain attention",
    "class": "Class loss only",
    "noise": "Gaussian noise",
}
NO_SET = "No set has been finished yet."
_MOST = 64


def loss_chart(history: Sequence[Mapping[str, float]]) -> str:
    """Every loss term over the steps."""
    names = [name for name in history[-1] if name != "step"] if history else []
    if not names:
        return nothing("The losses appear here while images are being made.")
    colors = ["$accent", "$h", "$float", "$good", "$bad"]
    steps = list(range(1, len(history) + 1))
    data = [
        {"type": "scatter", "mode": "lines", "name": name, "x": steps, "y": [row.get(name) for row in history],
         "line": {"color": color, "width": 2}, "hovertemplate": f"step %{{x}}, {name}: %{{y:.3f}}<extra></extra>"}
        for name, color in zip(names, colors * 3, strict=False)
    ]  # fmt: skip
    positive = all(row.get(name, 1) > 0 for row in history for name in names)
    layout = {
        "xaxis": {"title": {"text": "step"}, "range": [1, max(10, len(steps))], "tickformat": "d"},
        "yaxis": {"title": {"text": "loss"}, **({"type": "log", "dtick": 1} if positive else {})},
        "legend": {"orientation": "h", "y": 1.16, "x": 0}, "margin": {"l": 52, "r": 8, "t": 26, "b": 40},
    }  # fmt: skip
    last = ", ".join(f"{name} {history[-1][name]:.3f}" for name in names)
    return figure(data, layout, alt=f"losses over {len(steps)} steps, now {last}", height=240, name="losses")


def shelf(images: Any) -> gr.Gallery:
    """uint8 [n 3 h w] in the gallery; small images are enlarged by whole pixels, so they stay exact."""
    images = np.asarray(images)[:_MOST].transpose(0, 2, 3, 1)
    zoom = max(1, 168 // images.shape[1])
    return gr.Gallery(list(images.repeat(zoom, axis=1).repeat(zoom, axis=2)), visible=True)


def set_name(found: Mapping[str, Any]) -> str:
    """A finished set in one line."""
    share = found["recognized"]["self"]
    steps = f", {found['steps']} steps" if found["method"] != "noise" else ""
    made = f"{found['num']} images{steps}, seed {found['seed']}"
    return f"{found['model']} · {found['method']} · {made} · recognized {percent(share, 0)}"


def choices(model: str | None = None) -> list[tuple[str, str]]:
    """Finished sets for a dropdown: (words, path)."""
    return [(set_name(found), found["path"]) for found in engine.sets() if model in (None, found["model"])]


def told_of(values: Mapping[str, Any]) -> str:
    """What is known of a finished set."""
    recognized = values["recognized"]
    pairs = [(str(values["num"]), "images"), (percent(recognized["self"]), "taken for their class by the model itself")]
    judges = values.get("judges", {}).items()
    pairs += [(percent(share), f"by {name}, which never saw them") for name, share in judges]
    return facts([*pairs, (runner.clock(values["seconds"]), "of computing")])


def build(page: Page) -> dict[str, Any]:
    """Fills the tab; returns the components that others need."""
    lead(
        "Calibration needs images, and often there are none to be had. Here the model makes its own: noise is "
        "optimized until the model recognizes its target class and its implicit attention parts object from background."
    )
    with gr.Row():
        with gr.Column(scale=1, min_width=280, elem_classes="wb-form"):
            method = gr.Radio(
                [(METHODS[name], name) for name in ("ouro", "noise")],
                value="ouro",
                label="Method",
                elem_id="wb-samples-method",
            )
            num = gr.Slider(4, 256, 16, step=4, label="Images", elem_id="wb-samples-num")
            steps = gr.Slider(
                10, 1000, 100, step=10, label="Steps", info="the paper's scale is 1000", elem_id="wb-samples-steps"
            )
            seed = gr.Number(0, label="Seed", precision=0, minimum=0, elem_id="wb-samples-seed")
            with gr.Accordion("Advanced", open=False, elem_id="wb-samples-advanced"):
                batch = gr.Slider(1, 64, 16, step=1, label="Images at once", elem_id="wb-samples-batch")
                lr = gr.Number(0.2, label="Learning rate", minimum=0.0001, elem_id="wb-samples-lr")
                window = gr.Radio(
                    [("3×3", 3), ("5×5", 5), ("7×7", 7)], value=5, label="Window of h_p", elem_id="wb-samples-window"
                )
                weights = gr.Radio(
                    [("Δ", "delta"), ("Uniform", "uniform")],
                    value="delta",
                    label="Weights of the neighbors",
                    elem_id="wb-samples-weights",
                )
                features = gr.Radio(
                    [("y_p", "y_p"), ("alpha_p", "alpha_p")],
                    value="y_p",
                    label="Features to contrast",
                    elem_id="wb-samples-features",
                )
            with gr.Row():
                go = gr.Button("Generate", variant="primary", elem_id="wb-samples-go", min_width=110)
                stop = gr.Button("Cancel", interactive=False, elem_id="wb-samples-cancel", min_width=90)
        with gr.Column(scale=3, min_width=320):
            progress = gr.HTML(
                runner.bar(None, "Ready. 16 images in 100 steps take a minute or two on two cores."),
                elem_id="wb-samples-job",
                apply_default_css=False,
            )
            gallery = gr.Gallery(
                label="Images", show_label=False, format="png", columns=8, object_fit="contain", height="auto",
                buttons=["download", "fullscreen"], elem_id="wb-samples-gallery", elem_classes="wb-samples",
                interactive=False, visible=False,
            )  # fmt: skip
            losses = plot_view("wb-samples-losses", empty="The losses appear here while images are being made.")
    title("Finished sets", "kept on this machine; the same settings give the same images")
    with gr.Row(elem_classes="wb-inline"):
        finished = gr.Dropdown([], label="Set", elem_id="wb-samples-sets", scale=4, min_width=280, info=NO_SET)
        use = gr.Button("Use for calibration", elem_id="wb-samples-use", scale=1, min_width=160, interactive=False)
        file = gr.DownloadButton("Download", elem_id="wb-samples-file", scale=1, min_width=120, interactive=False)
    told = gr.HTML(elem_id="wb-samples-facts", apply_default_css=False)

    followed = [progress, gallery, losses, finished, use, file, told, go, stop]

    def chosen(path: str | None) -> tuple:
        """Dropdown, the two buttons and the facts, with this set chosen."""
        found = {entry["path"]: entry for entry in engine.sets()}
        options = [(set_name(entry), key) for key, entry in found.items()]
        entry = found.get(path or "")
        words = f"{len(options)} finished" if options else NO_SET
        return (
            gr.Dropdown(choices=options, value=entry and path, info=words),
            gr.Button(interactive=entry is not None),
            gr.DownloadButton(value=engine.exported(entry) if entry else None, interactive=entry is not None),
            told_of(entry) if entry else "",
        )

    def follow(job: runner.Job) -> Iterator[tuple]:
        shown, drawn = None, -1
        for _ in runner.follow(job):
            preview = job.data.get("preview")
            pictures = gr.skip()
            if preview is not None and preview is not shown:
                shown = preview
                pictures = shelf(preview)
            curve = gr.skip()
            if len(job.history) != drawn:
                drawn = len(job.history)
                curve = loss_chart(job.history)
            sets = (gr.skip(),) * 4
            if job.state == "done":
                pictures = shelf(job.result.arrays["preview"])
                sets = chosen(job.result.values["path"])
            yield (
                runner.bar(job),
                pictures,
                curve,
                *sets,
                gr.Button(interactive=job.over),
                gr.Button(interactive=not job.over),
            )

    @guarded
    def generate(
        model: str,
        method: str,
        num: int,
        steps: int,
        seed: float,
        batch: int,
        lr: float,
        window: int,
        weights: str,
        features: str,
    ) -> Iterator[tuple]:
        spec = {
            "model": model,
            "method": method,
            "num": int(num),
            "steps": int(steps),
            "seed": int(seed or 0),
            "batch": int(batch),
            "lr": lr,
        }
        options = (("features", features), ("weights", weights), ("window", int(window))) if method == "ouro" else ()
        yield from follow(runner.start(KIND, lambda: engine.synthesis_job(**spec, options=options)))

    inputs = [page.model, method, num, steps, seed, batch, lr, window, weights, features]
    go.click(generate, inputs, followed, concurrency_limit=None, **PRIVATE)
    stop.click(lambda: runner.cancel(KIND) and None, None, None, queue=False, **PRIVATE)

    @guarded
    def resume() -> Iterator[tuple]:
        job = runner.latest(KIND)
        if job is not None and not job.over:
            yield from follow(job)
        else:
            yield (gr.skip(), gr.skip(), gr.skip(), *chosen(None), gr.skip(), gr.skip())

    @guarded
    def open_set(path: str | None) -> tuple:
        if not path:
            return (gr.skip(), *chosen(None)[1:])
        entry = next((found for found in engine.sets() if found["path"] == path), None)
        if entry is None:
            raise ValueError(f"the set {Path(path).parent.name} is no longer there; generate it again")
        return (shelf(engine.set_pictures(path, entry["model"], _MOST)), *chosen(path)[1:])

    finished.input(open_set, finished, [gallery, use, file, told], **PRIVATE)

    @guarded
    def other_model() -> list[str]:
        names = engine.generators()
        return gr.Radio(choices=[(METHODS.get(name, name), name) for name in names])

    return {"resume": (resume, followed), "methods": (other_model, method), "use": use, "chosen": finished}
