"""Outliers: which channels are outliers at which time step, and what a list fixed beforehand misses."""

from __future__ import annotations

import html
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import gradio as gr
import numpy as np

from workbench import address, engine
from workbench.page import Page, facts, lead, percent
from workbench.pictures import missing, picker, reset, source_of, start, there
from workbench.player import step_player, steps

TENSORS = {
    "in_proj": "Input of in_proj",
    "x_proj": "Input of x_proj",
    "dt_proj": "Input of dt_proj",
    "out_proj": "Input of out_proj",
    "u": "Scan input u",
    "delta_raw": "Step size before softplus",
    "delta": "Step size Δ",
    "B": "Input matrix B",
    "C": "Output matrix C",
    "y": "Scan output y",
}
"""What the job can look at -> its name here."""
CALIBRATION = 16
"""Images behind the static list."""
WIDTHS = (3, 4, 6, 8)
"""Bits of inliers that a channel is rounded to."""
ROUNDED = (
    "x", "rounded", "listed", "clipped", "step_size", "zero", "outlier_step_size", "outlier_zero", "sqnr",
    "static_rounded", "static_clipped", "static_step_size", "static_zero", "static_sqnr",
)  # fmt: skip
"""Arrays of the job that say how a channel is rounded."""


def first_spec(model: str) -> dict[str, Any]:
    """What the tab opens with: the last layer, whose outliers are the most pronounced."""
    layer = engine.model_row(model)["layers"] - 1
    return spec_of(model, start(model), layer, "in_proj", scans(model, layer)[0][1], 3.0, 10)


def scans(model: str, layer: int) -> list[tuple[str, str]]:
    """(label, name) of every scan of a layer."""
    return [(f"{name.capitalize()} scan", name) for name in engine.model_row(model)["scans"][int(layer)]]


def spec_of(
    model: str,
    picture: Mapping[str, Any],
    layer: int,
    tensor: str,
    way: str,
    kappa: float,
    refresh: float,
    bits: int = 4,
) -> dict[str, Any]:
    """The arguments of the outlier job for one picture; the static list is made from images of the same set."""
    spec = {
        "model": model, "layer": int(layer), "tensor": tensor, "direction": way, "kappa": float(kappa),
        "refresh": int(refresh), "bits": int(bits), **source_of(picture),
    }  # fmt: skip
    if picture["path"]:
        # an upload is of no set: that of the row, or else the upload alone
        spec["data"] = picture["data"] or f"folder:{Path(picture['path']).parent}"
    count = CALIBRATION if spec["data"] == engine.own_data(model) else engine.image_count(model, spec["data"])
    return {**spec, "n": min(CALIBRATION, count)}


def overlap(raw: np.ndarray, other: np.ndarray) -> np.ndarray:
    """|both| / |either| of the outliers [L C] of each step in two pictures [L], NaN where neither has any."""
    both, either = ((raw > 0) & (other > 0)).sum(axis=1), ((raw > 0) | (other > 0)).sum(axis=1)
    return np.divide(both, either, out=np.full(len(raw), np.nan), where=either > 0)


def player_value(
    result: engine.Result, model: str, picture: Mapping[str, Any], relit: engine.Result | None = None
) -> str:
    """The map of one result, with what is left of its outliers in a relit picture where that is given."""
    arrays = result.arrays
    rounding = {name: result.values[name] for name in ("bits", "outlier_bits", "grids", "n")}
    return steps(
        arrays["magnitude"],
        arrays["raw"],
        arrays["dynamic"],
        arrays["static"],
        title=f"outliers of {result.values['path']}",
        path=result.values["path"],
        image=engine.picture(model, **source_of(picture)),
        grid=tuple(result.values["grid"]),
        cells=arrays["cells"].tolist(),
        theta=arrays["threshold"],
        rounding=rounding | {name: arrays[name] for name in ROUNDED},
        overlap=None if relit is None else overlap(arrays["raw"], relit.arrays["raw"]),
        light=1.0 if relit is None else relit.values["light"],
    )


def numbers(result: engine.Result) -> str:
    """The counts that matter, large."""
    raw, values = result.arrays["raw"] > 0, result.values
    per_step = raw.sum(axis=1)
    pairs = [
        (f"{per_step.mean():.1f}", f"outliers per step, of {values['channels']} channels; at most {per_step.max()}"),
        (f"{raw.any(axis=0).sum()}", "channels are an outlier at some step"),
        (percent(values["jaccard"], 0), "overlap from one step to the next"),
        (f"{(result.arrays['static'] > 0).sum()}", f"channels in the static list, from {_images(values['n'])}"),
        (percent(values["missed_by_static"], 0), "of the outliers are not in the static list"),
        (percent(values["share_dynamic"]), "of all values in high precision by the dynamic list"),
    ]
    return facts(pairs)


def _images(count: int) -> str:
    return f"{count} images" if count > 1 else "this image alone"


def build(page: Page, model: str) -> None:
    """Fills the tab."""
    layer = engine.model_row(model)["layers"] - 1
    result = engine.outliers(**first_spec(model))

    lead(
        "Which channels carry large activations changes from one time step to the next. A list fixed before inference "
        "(static) misses some and keeps others in high precision in vain; OuroMamba-Quant rebuilds its list as the "
        "scan goes on, and clears it every few steps."
    )
    pick = picker("outliers", page, model)
    with gr.Row(elem_classes="wb-controls"):
        at = gr.Slider(0, max(1, layer), layer, step=1, label="Layer", elem_id="wb-outliers-layer", min_width=170)
        tensor = gr.Dropdown(
            [(label, name) for name, label in TENSORS.items()], value="in_proj", label="Tensor", filterable=False,
            elem_id="wb-outliers-tensor", min_width=190,
        )  # fmt: skip
        way = gr.Dropdown(
            scans(model, layer), value=result.values["direction"], label="Scan", filterable=False,
            elem_id="wb-outliers-direction", min_width=190,
        )  # fmt: skip
        kappa = gr.Slider(
            1, 8, 3, step=0.25, label="Threshold κ (mean + κ σ)", elem_id="wb-outliers-kappa", min_width=200
        )
        refresh = gr.Slider(1, 50, 10, step=1, label="List lives (steps)", elem_id="wb-outliers-refresh", min_width=200)
    with gr.Row(elem_classes="wb-controls"):
        bits = gr.Radio(
            list(WIDTHS), value=4, label="Bits of inliers (outliers have 8)", elem_id="wb-outliers-bits", min_width=200
        )
        light = gr.Slider(
            0.5, 1.5, 1, step=0.05, label="Relight the picture", elem_id="wb-outliers-light", min_width=200
        )
    with gr.Column(elem_classes="wb-frame"):
        summary = gr.HTML(numbers(result), elem_id="wb-outliers-facts", apply_default_css=False)
        view = step_player("wb-outliers-step", value=player_value(result, model, start(model)))

    settings = [page.model, pick.chosen, at, tensor, way, kappa, refresh, bits, light]

    def show(
        model: str, picture: dict[str, Any], layer: int, tensor: str, way: str, kappa: float, refresh: float,
        bits: int, light: float,
    ) -> tuple:  # fmt: skip
        # a layer of the model before may be asked for once more while the slider is on its way
        layer = min(int(layer), engine.model_row(model)["layers"] - 1)
        offered = scans(model, layer)
        if not there(picture):
            words = f'<p class="wb-lead">{html.escape(missing(model))}</p>'
            return "", words, gr.Dropdown(offered, value=offered[0][1])
        # layers of some models have scans of their own
        way = way if way in dict(offered).values() else offered[0][1]
        spec = spec_of(model, picture, layer, tensor, way, kappa, refresh, bits)
        result = engine.outliers(**spec)
        relit = None if light == 1 else engine.outliers(**{**spec, "bits": None, "light": float(light)})
        return player_value(result, model, picture, relit), numbers(result), gr.Dropdown(offered, value=way)

    shown = [view, summary, way]
    pick.shows(show, settings, shown, dim=[view, summary], on=[control.input for control in settings[2:]])

    def view_of(ask: address.Asked, model: str) -> tuple[Any, ...]:
        last = engine.model_row(model)["layers"] - 1
        layer = ask.whole("layer", last, 0, last)
        offered = scans(model, layer)
        return (
            gr.Slider(maximum=max(1, last), value=layer),
            ask.one_of("tensor", gr.skip(), list(TENSORS)),
            gr.Dropdown(offered, value=ask.one_of("scan", offered[0][1], dict(offered).values())),
            ask.number("kappa", gr.skip(), 1, 8, 0.25),
            ask.number("refresh", gr.skip(), 1, 50, 1),
            ask.one_of("bits", gr.skip(), WIDTHS),
            ask.number("light", gr.skip(), 0.5, 1.5, 0.05),
            *reset(model, ask),
        )

    controls = {
        "layer": at,
        "tensor": tensor,
        "scan": way,
        "kappa": kappa,
        "refresh": refresh,
        "bits": bits,
        "light": light,
    }
    address.follow("outliers", page, view_of, [], [*controls.values(), *pick.parts])
    address.keep(page, "outliers", **controls)
