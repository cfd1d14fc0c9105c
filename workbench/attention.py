"""Attention: which patches a scan's hidden state makes attend to which, for h and for the patched h_p."""

from __future__ import annotations

import html
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import gradio as gr
import numpy as np

from workbench import address, engine, lists, runner
from workbench.answers import takes
from workbench.board import attention_board, board
from workbench.errors import guarded
from workbench.page import DIMMED, PRIVATE, Page, lead, signed, title
from workbench.pictures import missing, name_of, picker, reset, source_of, start, there
from workbench.plot import figure, nothing, plot_view

KIND = "attention scores"
WINDOWS = (3, 5, 7)
CALLED = {"delta": "Δ"}
"""Source of a map -> its name on the page, where it has another one."""
UNKNOWN = "A score needs to know where the one object of an image is, which is known of scenes and digits."
WORSE = (
    "That h_p finds an object worse than h is common on these models: Paper counts how often, under figure 1. What the paper "
    "claims of h_p is that images generated with it are good to calibrate on."
)
DIRECTIONS = {"both": "all directions", "forward": "forward scan", "backward": "backward scan"}
REDUCTIONS = {
    "received": "attention received",
    "given": "attention given",
    "rollout": "rollout through layers",
}
"""Reduction -> what it means; others are offered under their own name."""


def first_layer(model: str) -> int:
    """The layer that the tab opens with: the middle one, where maps tend to be about objects."""
    return engine.model_row(model)["layers"] // 2


def first_spec(model: str) -> dict[str, Any]:
    """What the tab opens with."""
    return spec_of(model, start(model), first_layer(model), 5, "delta")


def spec_of(model: str, picture: Mapping[str, Any], layer: int, window: int, weights: str) -> dict[str, Any]:
    """The arguments of the explain job for one picture."""
    spec = {"model": model, "layer": int(layer), "window": fitting(model, window), "weights": weights}
    return {**spec, **source_of(picture)}


def windows(model: str) -> list[int]:
    """The windows of h_p that fit the smallest grid of patches of a model."""
    side = min(engine.model_row(model)["grid"])
    return [window for window in WINDOWS if window <= side] or [1]


def fitting(model: str, window: int) -> int:
    """The window, or the widest one that fits the model."""
    return min(int(window), max(windows(model)))


def available(result: engine.Result) -> tuple[list[str], list[str]]:
    """Directions and reductions that the result holds maps of for h_p, and so for both."""
    keys = [name.split("/") for name in result.arrays if name.startswith("map/") and "/h_p/" in name]
    return list(dict.fromkeys(key[2] for key in keys)), list(dict.fromkeys(key[4] for key in keys))


def table_rows(result: engine.Result, direction: str, reduction: str) -> list[Mapping[str, Any]]:
    """The scores of one direction and reduction; those of delta, which is reduced in one way only, among them."""
    wanted = ((direction, reduction), (direction, "mean"))
    return [row for row in result.values["table"] if (row["direction"], row["reduction"]) in wanted]


def maps_of(result: engine.Result, layer: int, direction: str, reduction: str) -> dict[str, np.ndarray]:
    """The maps of h and h_p, and that of delta, which has one reduction only, where it is known."""
    arrays, place = result.arrays, f"map/{layer}/{direction}"
    maps = {source: arrays[f"{place}/{source}/{reduction}"] for source in ("h", "h_p")}
    delta = arrays.get(f"{place}/delta/mean")
    return maps if delta is None else {**maps, "delta": delta}


def alike(result: engine.Result, layer: int, direction: str, reduction: str) -> str:
    """How far the maps of h and h_p are spread and how alike they are, in a sentence."""
    maps = maps_of(result, layer, direction, reduction)
    h, h_p = (maps[source].astype(np.float64).ravel() for source in ("h", "h_p"))
    spread = f"h {entropy(h):.2f}, h_p {entropy(h_p):.2f}"
    cosine = h @ h_p / max(float(np.linalg.norm(h) * np.linalg.norm(h_p)), 1e-30)
    far = [reach(result.arrays[f"matrix/{source}"], result.values["grid"]) for source in ("h", "h_p")]
    return (
        f"Entropy of the maps, where an even one has 1: {spread}. Their cosine is {cosine:.2f}. "
        f"A patch looks {far[0]:.1f} patches far in h and {far[1]:.1f} in h_p, all directions together."
    )


def entropy(values: np.ndarray) -> float:
    """Entropy of a map as shares of its sum, over that of an even map; of one cell or an empty map 0."""
    shares = np.abs(values) / max(float(np.abs(values).sum()), 1e-30)
    known = shares[shares > 0]
    return float(-(known * np.log(known)).sum() / np.log(len(values))) if len(values) > 1 else 0.0


def reach(matrix: np.ndarray, grid: Sequence[int]) -> float:
    """Mean distance, in patches, between a patch and what it attends to: of a matrix [P P], row = the patch that attends."""
    places = np.stack(np.unravel_index(np.arange(len(matrix)), tuple(grid)), axis=1)
    far = np.linalg.norm(places[:, None] - places[None], axis=2)
    weights = np.abs(matrix)
    return float((weights * far).sum() / max(float(weights.sum()), 1e-30))


def board_value(result: engine.Result, layer: int, direction: str, reduction: str, image_name: str) -> str:
    """The board of one layer."""
    maps = maps_of(result, layer, direction, reduction)
    # signed by how a patch is read; as everywhere, what is shown is how much
    matrices = {source: np.abs(result.arrays[f"matrix/{source}"]) for source in ("h", "h_p")}
    auroc = {row["source"]: row["auroc"] for row in table_rows(result, direction, reduction) if row["layer"] == layer}
    notes = {source: f"AUROC {auroc[source]:.2f}" for source in maps if auroc.get(source) is not None}
    if {"h", "h_p"} <= notes.keys():
        notes["diff"] = f"AUROC {signed(auroc['h_p'] - auroc['h'], 2)}"
    return board(
        result.arrays["image"],
        maps,
        matrices=matrices,
        mask=result.arrays.get("mask"),
        image_name=image_name,
        place=f"layer {layer}, {DIRECTIONS.get(direction, direction)}",
        reduction=REDUCTIONS.get(reduction, reduction),
        notes={"input": image_name, **notes},
        window=result.values["window"],
        weights=result.values["weights"],
    )


def image_chart(result: engine.Result, layer: int, direction: str, reduction: str) -> str:
    """AUROC of this image's maps, layer by layer, as a heat map with the numbers in it."""
    rows = table_rows(result, direction, reduction)
    if not rows:
        return nothing("Nobody knows where the object is in this image, so there is nothing to score.")
    layers = sorted({row["layer"] for row in rows})
    sources = [source for source in ("delta", "h_p", "h") if any(row["source"] == source for row in rows)]
    grid = {(row["source"], row["layer"]): row["auroc"] for row in rows}
    z = [[grid.get((source, k)) for k in layers] for source in sources]
    data = [
        {
            "type": "heatmap", "name": "AUROC", "x": layers, "y": [CALLED.get(source, source) for source in sources], "z": z,
            "zmin": 0.2, "zmax": 1, "xgap": 3, "ygap": 3, "showscale": False,
            "colorscale": [[0, "#2f6fb0"], [0.375, "#dcd8cf"], [1, "#d9982a"]],
            "text": [["" if v is None else f"{v:.2f}" for v in row] for row in z],
            "texttemplate": "%{text}", "textfont": {"color": "#1d1b18", "size": 13},
            "hovertemplate": "layer %{x}, %{y}: AUROC %{z:.3f}<extra></extra>",
        }
    ]  # fmt: skip
    here = layers.index(layer) if layer in layers else None
    shapes = []
    if here is not None:
        shapes = [{"type": "rect", "x0": layer - 0.5, "x1": layer + 0.5, "y0": -0.5, "y1": len(sources) - 0.5,
                   "line": {"color": "$cursor", "width": 2}, "fillcolor": "rgba(0,0,0,0)"}]  # fmt: skip
    layout = {
        "xaxis": {"title": {"text": "layer"}, "dtick": 1 if len(layers) < 16 else 4, "showgrid": False},
        "yaxis": {"showgrid": False, "ticks": ""}, "shapes": shapes, "margin": {"l": 52, "r": 8, "t": 8, "b": 40},
    }  # fmt: skip
    best = max(rows, key=lambda row: row["auroc"])
    by = CALLED.get(best["source"], best["source"])
    alt = f"AUROC per layer of this image's maps; best {best['auroc']:.2f} by {by} in layer {best['layer']}"
    return figure(data, layout, alt=alt, height=60 + 58 * len(sources), name="auroc-image")


def scores_chart(result: engine.Result, direction: str, reduction: str) -> str:
    """AUROC over many images, layer by layer, with its interval."""
    rows, values = table_rows(result, direction, reduction), result.values
    words = f"{values['scored']} images, window {values['window']}×{values['window']}"
    if (direction, reduction) == (values["direction"], values["reduction"]) and values["ci95"]["gain"]:
        low, high = values["ci95"]["gain"]
        gain, low, high = (signed(value, 3) for value in (values["gain"], low, high))
        words += f"; layer {values['layer']}: h_p − h = {gain} ({low} to {high})"
    looks = {"h": ("$h", "h"), "h_p": ("$hp", "h_p"), "delta": ("$float", CALLED["delta"])}
    data = []
    for source, (color, name) in looks.items():
        selected = sorted((row for row in rows if row["source"] == source), key=lambda row: row["layer"])
        if not selected:
            continue
        up = [row["auroc_hi"] - row["auroc"] for row in selected]
        down = [row["auroc"] - row["auroc_lo"] for row in selected]
        data.append(
            {
                "type": "scatter", "mode": "lines+markers", "name": name, "x": [row["layer"] for row in selected],
                "y": [row["auroc"] for row in selected], "line": {"color": color, "width": 2}, "marker": {"size": 7},
                "error_y": {"type": "data", "array": up, "arrayminus": down, "color": color, "thickness": 1.2},
                "hovertemplate": f"layer %{{x}}, {name}: %{{y:.3f}}<extra></extra>",
            }
        )  # fmt: skip
    layout = {
        "xaxis": {"title": {"text": "layer"}, "dtick": 1}, "yaxis": {"title": {"text": "AUROC"}},
        "shapes": [{"type": "line", "xref": "paper", "x0": 0, "x1": 1, "y0": 0.5, "y1": 0.5,
                    "line": {"color": "$muted", "dash": "dot", "width": 1}}],
        "title": {"text": words, "x": 0, "xanchor": "left", "font": {"size": 13}},
        "legend": {"orientation": "h", "y": 1.13, "x": 0}, "margin": {"l": 56, "r": 8, "t": 58, "b": 40},
    }  # fmt: skip
    return figure(data, layout, alt=f"AUROC per layer, {words}", height=290, name="auroc-many")


def latest_scores(model: str, direction: str, reduction: str) -> str:
    """The chart of the last scoring of this model, in this direction and reduction."""
    if not engine.has_masks(model):
        return nothing(UNKNOWN)
    job = runner.latest(KIND)
    if job is None or not job.found(model):
        return nothing("One image proves little. Score some more: 20 take a few seconds.")
    return scores_chart(engine.plain(job.result), direction, reduction)


def verdict(result: engine.Result, layer: int, direction: str, reduction: str) -> str:
    """The finding in a sentence."""
    auroc = {
        row["source"]: row.get("auroc") for row in table_rows(result, direction, reduction) if row["layer"] == layer
    }
    place = f"Layer {layer}, {DIRECTIONS.get(direction, direction)}"
    seen = takes(result.values)
    h, h_p = auroc.get("h"), auroc.get("h_p")
    known = alike(result, layer, direction, reduction)
    if h is None or h_p is None:
        words = html.escape(REDUCTIONS.get(reduction, reduction))
        return f'<p class="wb-lead">{place}: {words}. {seen}</p><p class="wb-note">{known}</p>'
    gap = h_p - h
    word = "better than" if gap > 0.005 else "worse than" if gap < -0.005 else "as well as"
    finding = f"h_p separates the object from the background <b>{word}</b> h"
    context = " " + WORSE if gap < -0.005 else ""
    if max(h, h_p) < 0.5:
        finding = "<b>neither</b> h_p nor h attends more to the object than to the background"
    return (
        f'<p class="wb-lead">{place}: on this image {finding}, '
        f"AUROC <b>{h_p:.2f}</b> against <b>{h:.2f}</b> (0.5 is chance). {seen}</p>"
        f'<p class="wb-note">{known}{context}</p>'
    )


def _sized(sides: list[int]) -> list[tuple[str, int]]:
    return [(f"{side}×{side}", side) for side in sides]


def build(page: Page, model: str) -> None:
    """Fills the tab."""
    layer, last = first_layer(model), engine.model_row(model)["layers"] - 1
    result = engine.explained(**first_spec(model))
    directions, reductions = available(result)
    direction, reduction = result.values["direction"], result.values["reduction"]

    lead(
        "A Vision Mamba has no attention matrix, but its scan implies one: how much of the state that patch <i>i</i> "
        "reads came from patch <i>j</i>. Unrolling <b>h</b> gives the implicit attention; mixing each state with its "
        "neighbors first gives the patched <b>h_p</b>, which OuroMamba generates its data from."
    )
    pick = picker("attention", page, model)
    with gr.Row(elem_classes="wb-controls"):
        at = gr.Slider(
            0, max(1, last), layer, step=1, label="Layer", elem_id="wb-attention-layer", min_width=140, scale=2
        )
        way = gr.Dropdown(
            [(DIRECTIONS.get(name, name).capitalize(), name) for name in directions], value=direction, label="Scan",
            elem_id="wb-attention-direction", min_width=178, scale=2, filterable=False,
        )  # fmt: skip
        summed = gr.Dropdown(
            [(REDUCTIONS.get(name, name).capitalize(), name) for name in reductions], value=reduction, label="Map",
            elem_id="wb-attention-reduction", min_width=240, scale=3, filterable=False,
        )  # fmt: skip
        window = gr.Radio(
            _sized(windows(model)),
            value=fitting(model, 5),
            label="Window of h_p",
            elem_id="wb-attention-window",
            min_width=264,
            scale=3,
        )
        weights = gr.Radio(
            [("Δ", "delta"), ("Uniform", "uniform")], value="delta", label="Weights of the neighbors",
            elem_id="wb-attention-weights", min_width=170, scale=2,
        )  # fmt: skip
    with gr.Column(elem_classes="wb-frame"):
        said = gr.HTML(
            verdict(result, layer, direction, reduction), elem_id="wb-attention-verdict", apply_default_css=False
        )
        view = attention_board(
            "wb-attention", value=board_value(result, layer, direction, reduction, name_of(model, start(model)))
        )
    with gr.Row():
        with gr.Column(min_width=300):
            title("This image, every layer", "AUROC against the object's mask; click a layer")
            layers = plot_view("wb-attention-auroc", value=image_chart(result, layer, direction, reduction))
        with gr.Column(min_width=300):
            title("Many held-out images", "the same score with its 95 % interval")
            many = plot_view(
                "wb-attention-scores", empty="One image proves little. Score some more: 20 take a few seconds."
            )
            with gr.Row(elem_classes="wb-inline"):
                count = gr.Number(
                    20,
                    minimum=2,
                    maximum=2000,
                    precision=0,
                    label="Images",
                    elem_id="wb-attention-n",
                    min_width=90,
                    scale=1,
                )
                go = gr.Button("Score them", elem_id="wb-attention-score", scale=1, min_width=120)
                stop = gr.Button("Cancel", elem_id="wb-attention-cancel", scale=1, min_width=90, interactive=False)
            progress = gr.HTML(elem_id="wb-attention-job", apply_default_css=False)
    scored = gr.State(0)

    settings = [page.model, pick.chosen, at, way, summed, window, weights]
    shown = [view, said, layers, many]

    @guarded
    def show(
        model: str, picture: dict[str, Any], layer: int, way: str, summed: str, window: int, weights: str
    ) -> tuple:
        if not there(picture):
            return "", f'<p class="wb-lead">{html.escape(missing(model))}</p>', nothing(""), nothing("")
        # a layer of the model before may be asked for once more while the slider is on its way
        layer = min(int(layer), engine.model_row(model)["layers"] - 1)
        result = engine.explained(**spec_of(model, picture, layer, window, weights))
        return (
            board_value(result, layer, way, summed, name_of(model, picture)),
            verdict(result, layer, way, summed),
            image_chart(result, layer, way, summed),
            latest_scores(model, way, summed),
        )

    pick.shows(show, settings, shown, dim=[view, said], on=[control.input for control in settings[2:]])

    @guarded
    def jump(event: gr.EventData) -> int:
        return int(event._data["x"])

    layers.select(jump, None, at, **PRIVATE).then(show, settings, shown, show_progress_on=[view], **DIMMED)

    def view_of(ask: address.Asked, model: str, window: int) -> tuple[Any, ...]:
        last, sizes = engine.model_row(model)["layers"] - 1, windows(model)
        return (
            gr.Slider(maximum=max(1, last), value=ask.whole("layer", first_layer(model), 0, last)),
            ask.one_of("scan", gr.skip(), directions),
            ask.one_of("map", gr.skip(), reductions),
            gr.Radio(choices=_sized(sizes), value=ask.one_of("window", fitting(model, window), sizes)),
            ask.one_of("neighbors", gr.skip(), ("delta", "uniform")),
            *reset(model, ask),
        )

    address.follow("attention", page, view_of, [window], [at, way, summed, window, weights, *pick.parts])
    address.keep(page, "attention", layer=at, scan=way, map=summed, window=window, neighbors=weights)

    @guarded
    def score(model: str, layer: int, way: str, summed: str, window: int, weights: str, n: float) -> Iterator[tuple]:
        data = engine.own_data(model)
        if not engine.has_masks(model):
            raise ValueError(f"nobody knows where one object is in images for {model}; scenes and digits have masks")
        spec = {
            "model": model, "sample": None, "layer": int(layer), "window": fitting(model, window), "weights": weights,
            "n": int(n or 2), "data": data,
        }  # fmt: skip
        about = f"{model} · layer {spec['layer']}, {spec['n']} images"
        for job in runner.follow(runner.start(KIND, lambda: engine.explain_job(**spec), about, model=model)):
            number = job.number if job.state == "done" else gr.skip()
            yield runner.bar(job), number, gr.Button(interactive=job.over), gr.Button(interactive=not job.over)

    # as the page is by then: its model and what it sums up may have been changed meanwhile
    lists.on(
        [scored.change], lambda _, *asked: latest_scores(*asked), [scored, page.model, way, summed], many, **PRIVATE
    )
    followed = [progress, scored, go, stop]
    go.click(score, [page.model, at, way, summed, window, weights, count], followed, concurrency_limit=None, **PRIVATE)
    stop.click(guarded(lambda: runner.stopped(KIND)), None, progress, queue=False, **PRIVATE)


def first_map(result: engine.Result, source: str) -> np.ndarray:
    """What the board shows at first of a source, for a thumbnail."""
    return result.arrays[f"map/{result.values['layer']}/both/{source}/{result.values['reduction']}"]
