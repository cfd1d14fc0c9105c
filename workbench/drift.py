"""Error through time: how far the state of a quantized model is from the float one's, on one image, step by step."""

from __future__ import annotations

import html
from collections.abc import Mapping
from typing import Any

import gradio as gr

from workbench import address, engine, pack, tasks
from workbench.page import PRIVATE, Page
from workbench.pictures import missing, picker, reset, source_of, there

NOTHING = "Nothing was made of this model in a few bits yet: press Run, or “Quantize now” in Tasks."


def view(elem_id: str) -> gr.HTML:
    """The chart; its value is a text made by `lines`. The cursor of the page goes through it."""
    return gr.HTML(
        html_template='<div class="wb-drift" hidden></div>',
        js_on_load="wb.drift(element, props, trigger, watch)",
        apply_default_css=False,
        elem_id=elem_id,
    )


def lines(result: engine.Result) -> str:
    """The value of a `view`."""
    values, arrays = result.values, result.arrays
    made = values["beside"]
    return pack.text(
        {
            "title": f"{made['method']} {made['bits']}, layer {values['layer']}",
            "grid": values["grid"],
            "lines": [
                {
                    "name": name,
                    "error": pack.b64(arrays[f"error/{name}"], "f4"),
                    "cells": arrays[f"cells/{name}"].tolist(),
                    "mean": values["mean"][name],
                    "worst": values["worst"][name],
                }
                for name in values["directions"]
            ],
        }
    )


def runs(model: str) -> list[tuple[str, str]]:
    """(words, path) of what was made of a model in a few bits, newest first."""
    return [(words, path) for words, path in tasks.choices(model) if path]


def build(page: Page, model: str) -> None:
    """Fills its part of the tab, which looks at nothing before it is opened."""
    seen = gr.State(0)
    last = engine.model_row(model)["layers"] - 1
    with gr.Accordion("Error through time", open=False, elem_id="wb-quantize-drift") as part:
        pick = picker("quantize", page, model)
        with gr.Row(elem_classes="wb-controls"):
            made = gr.Dropdown(
                [], label="Run", filterable=False, elem_id="wb-drift-run", scale=4, min_width=260,
                info="||h_q,t − h_t|| / ||h_t|| of the state, under the cursor of Attention and Outliers",
            )  # fmt: skip
            at = gr.Slider(0, max(1, last), last, step=1, label="Layer", elem_id="wb-drift-layer", min_width=180)
        said = gr.HTML(elem_id="wb-drift-said", apply_default_css=False)
        chart = view("wb-drift-chart")

    def shown(model: str, picture: Mapping[str, Any], path: str | None, layer: int) -> dict[Any, Any]:
        options = runs(model)
        paths = [path for _, path in options]
        path = path if path in paths else next(iter(paths), None)
        update: dict[Any, Any] = {made: gr.Dropdown(choices=options, value=path), said: "", chart: ""}
        if path is None or not there(picture):
            words = NOTHING if path is None else missing(model)
            return {**update, said: f'<p class="wb-note">{html.escape(words)}</p>'}
        layer = min(int(layer), engine.model_row(model)["layers"] - 1)
        try:
            return {**update, chart: lines(engine.drifted(model=model, beside=path, layer=layer, **source_of(picture)))}
        except ValueError as error:
            # a denoiser looks at no picture, and not every mixer has a state
            return {**update, said: f'<p class="wb-note">{html.escape(str(error))}</p>'}

    settings = [page.model, pick.chosen, made, at]
    outputs = [made, said, chart]

    def look(model: str, picture: Mapping[str, Any], path: str | None, layer: int, seen: int) -> dict[Any, Any]:
        # models are opened for those who look
        return shown(model, picture, path, layer) if seen else dict.fromkeys(outputs, gr.skip())

    part.expand(lambda seen: seen + 1, seen, seen, **PRIVATE)
    pick.shows(look, [*settings, seen], outputs, dim=[chart], on=[seen.change, made.input, at.input])

    def view_of(ask: address.Asked, model: str) -> tuple[Any, ...]:
        last = engine.model_row(model)["layers"] - 1
        return gr.Slider(maximum=max(1, last), value=ask.whole("layer", last, 0, last)), *reset(model, ask)

    address.follow("quantize", page, view_of, [], [at, *pick.parts])
    address.keep(page, "quantize", layer=at)
