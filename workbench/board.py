"""The attention board: image, h, h_p, their difference and Delta side by side, and what any one patch attends to.

All of it is sent once; choosing a patch, playing through patches and every display option stay in the browser.
"""

from __future__ import annotations

from collections.abc import Mapping

import gradio as gr
import numpy as np

from workbench import pack

MATRIX_LIMIT = 1200
"""Patches up to which the row of every patch is sent (two matrices of 2 bytes a cell)."""


def attention_board(elem_id: str, *, value: str | None = None) -> gr.HTML:
    """The board; its value is a text made by `board`."""
    return gr.HTML(
        value=value,
        html_template=f'<div class="wb-board" data-key="{elem_id}"></div>',
        js_on_load="wb.board(element, props, trigger, watch)",
        apply_default_css=False,
        elem_id=f"{elem_id}-board",
    )


def board(
    image: np.ndarray,
    maps: Mapping[str, np.ndarray],
    *,
    matrices: Mapping[str, np.ndarray] | None = None,
    mask: np.ndarray | None = None,
    image_name: str,
    place: str,
    reduction: str,
    notes: Mapping[str, str] | None = None,
    window: int = 1,
    weights: str = "delta",
) -> str:
    """The value of an `attention_board`.

    Args:
        image: uint8 [3 h w].
        maps: "h" and "h_p", float [H W]; "delta" beside them, if it is known.
        matrices: the same names, [P P], row = the patch that attends; left out above MATRIX_LIMIT patches.
        mask: where the object is, [h w], if anybody knows.
        place, reduction: which scan and how it was summed up, for the spoken label.
        notes: panel -> a few words beside its title.
        window, weights: which states h_p of a patch sums over, and by what rule.
    """
    H, W = maps["h"].shape
    value = {
        "image": pack.pixels(image),
        "size": image.shape[1:],
        "grid": (H, W),
        "maps": {name: pack.b64(values, "f4") for name, values in maps.items()},
        "mask": None if mask is None else pack.b64(mask > 0, "u1"),
        "titles": {
            "input": "Input",
            "h": "h, as it is",
            "h_p": "h_p, patched",
            "diff": "Scaled h_p − h",
            "delta": "Δ, step size",
        },
        "notes": dict(notes or {}),
        "image_name": image_name,
        "place": place,
        "reduction": reduction,
        "window": window,
        "weights": weights,
    }
    if matrices is not None and H * W <= MATRIX_LIMIT and all(m.shape == (H * W, H * W) for m in matrices.values()):
        value["matrix"] = {name: pack.rows16(matrices[name]) for name in ("h", "h_p")}
    return pack.text(value)
