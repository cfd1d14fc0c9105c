"""A strip of pictures to choose one from, by pointer or arrow keys."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import gradio as gr
import numpy as np

from workbench import pack


def strip_view(elem_id: str, *, value: str) -> gr.HTML:
    """The strip; its value is a text made by `strip`. Event `select` carries the index of the chosen picture."""
    return gr.HTML(
        value=value,
        html_template='<div class="wb-strip" role="radiogroup"></div>',
        js_on_load="wb.strip(element, props, trigger, watch); // 'select'",
        apply_default_css=False,
        elem_id=elem_id,
    )


def strip(
    images: np.ndarray,
    names: Sequence[str],
    chosen: int = 0,
    label: str = "images",
    of: str = "",
    place: Mapping[str, Any] | None = None,
) -> str:
    """The value of a `strip_view`: uint8 images [n 3 h w] and their names; `chosen` -1 for none.

    of: what they belong to. The page draws a strip anew when its value changes, and what a person chose meanwhile is no
    part of it: the same pictures of something else have to be another value. place: {tab, first, data, weights} for the
    page's address, see `workbench.address`.
    """
    items = [
        {"src": pack.png_url(image.transpose(1, 2, 0)), "name": name} for image, name in zip(images, names, strict=True)
    ]
    return pack.text({"items": items, "chosen": chosen, "label": label, "of": of, "place": place})


def empty_strip(words: str) -> str:
    """The value of a `strip_view` that has no picture, and why."""
    return pack.text({"items": [], "words": words})
