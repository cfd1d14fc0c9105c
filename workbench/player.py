"""The step player: a step x channel map under a cursor that scrubs and plays in the browser, without the server."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import gradio as gr
import numpy as np

from workbench import pack


def step_player(elem_id: str, *, value: str | None = None) -> gr.HTML:
    """The player; its value is a text made by `steps`.

    Arrow keys, Space, comma and period work inside it; c keeps a step to compare with, b begins and ends the choice of
    a part of the map, which a pointer drags; Esc ends both.
    """
    return gr.HTML(
        value=value,
        html_template=f'<div class="wb-stepmap" data-key="{elem_id}"></div>',
        js_on_load="wb.stepmap(element, props, trigger, watch)",
        apply_default_css=False,
        elem_id=elem_id,
    )


def steps(
    magnitude: np.ndarray,
    raw: np.ndarray,
    dynamic: np.ndarray,
    static: np.ndarray,
    *,
    title: str,
    path: str = "",
    image: np.ndarray | None = None,
    grid: tuple[int, int] | None = None,
    cells: Sequence[int] | None = None,
    theta: np.ndarray | None = None,
    rounding: Mapping[str, Any] | None = None,
    overlap: np.ndarray | None = None,
    light: float = 1.0,
) -> str:
    """The value of a `step_player`.

    Args:
        magnitude, raw, dynamic: [L C], |x|, whether it is an outlier of its step, and whether the channel is in the
            dynamic list then.
        static: [C], the channels of a list fixed beforehand.
        path: of the tensor, whose channels the what-if of Sensitivity can then keep at more bits; "" offers nothing.
        image, grid, cells: the picture uint8 [3 h w], its patches, and the one that each step reads (-1: class token).
        theta: the threshold at each step [L].
        rounding: what a section on the channel of the cursor shows: {bits, outlier_bits, grids, n} and the arrays of
            `ouro.jobs.rounding.rounding` by name; without it there is none.
        overlap: how much of the outliers of each step stays in a picture `light` times as bright [L], NaN where
            there is none.
    """
    L, C = magnitude.shape
    value = {
        "L": L,
        "C": C,
        "magnitude": pack.b64(magnitude, "f4"),
        "raw": pack.b64(raw > 0, "u1"),
        "dynamic": pack.b64(dynamic > 0, "u1"),
        "fixed": pack.b64(static > 0, "u1"),
        "theta": None if theta is None else pack.b64(theta, "f4"),
        "rounding": None if rounding is None else _packed(rounding),
        "overlap": None if overlap is None else pack.b64(overlap, "f4"),
        "light": light,
        "title": title,
        "path": path,
        "image": None if image is None else pack.pixels(image),
        "size": None if image is None else image.shape[1:],
        "grid": grid,
        "cells": None if cells is None else list(cells),
    }
    return pack.text(value)


def _packed(rounding: Mapping[str, Any]) -> dict[str, Any]:
    """Arrays as text, flags apart from numbers."""
    arrays = {name: value for name, value in rounding.items() if isinstance(value, np.ndarray)}
    flags = {name: pack.b64(array, "u1") for name, array in arrays.items() if array.dtype == np.uint8}
    numbers = {name: pack.b64(array, "f4") for name, array in arrays.items() if name not in flags}
    return {name: value for name, value in rounding.items() if name not in arrays} | {"bytes": flags, "floats": numbers}
