"""A Plotly chart in a `gr.HTML`: Plotly's own script from the installed wheel, clicks, dark mode, a spoken label.

gr.Plot has no click event, stays white in dark mode and ships an older plotly.js than the Python package expects.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import gradio as gr

from workbench import pack

_SPEC = find_spec("plotly")
assert _SPEC is not None and _SPEC.origin is not None
_SCRIPT = Path(_SPEC.origin).resolve().parent / "package_data" / "plotly.min.js"
gr.set_static_paths([_SCRIPT])

LEGEND = {"orientation": "h", "x": 0, "y": 1.02, "yanchor": "bottom"}
"""A legend above the chart, which grows away from it where the page is narrow."""

_INK = "#444444"
"""What `ouro.figures` draws auxiliary lines with; too dark for a dark page."""


def plot_view(elem_id: str, *, value: str | None = None, empty: str = "") -> gr.HTML:
    """The chart; its value is a text made by `figure`. Event `select` carries x, y, curve and data of a clicked point.

    Args:
        empty: what stands there while there is nothing to show.
    """
    return gr.HTML(
        value=value or pack.text({"empty": empty}),
        html_template='<div class="wb-plot" role="img" hidden></div><div class="wb-empty"></div>',
        js_on_load="wb.plot(element, props, trigger, watch); // 'select'",
        head=f'<script src="/gradio_api/file={_SCRIPT}"></script>',
        apply_default_css=False,
        elem_id=elem_id,
    )


def figure(
    data: Sequence[Mapping[str, Any]],
    layout: Mapping[str, Any] | None = None,
    *,
    alt: str,
    height: int = 300,
    name: str = "ouro",
) -> str:
    """The value of a `plot_view`. A color "$accent" is looked up in the page's tokens, light or dark.

    Args:
        alt: what the chart shows, in a sentence.
        name: file name of an exported picture.
    """
    return pack.text({"data": data, "layout": layout or {}, "alt": alt, "height": height, "name": name})


def from_figures(figure: Any, *, alt: str, height: int = 360, name: str = "ouro") -> str:
    """The value of a `plot_view` for a figure of `ouro.figures`, in the page's colors of text and lines."""
    drawn = figure.to_plotly_json()
    layout = {key: value for key, value in drawn["layout"].items() if key != "template"}
    title = layout.get("title")
    if isinstance(title, dict):
        layout["title"] = {**title, "x": 0, "xanchor": "left", "font": {"size": 13}}
    return pack.text({"data": drawn["data"], "layout": layout, "alt": alt, "height": height, "name": name}).replace(
        f'"{_INK}"', '"$muted"'
    )


def nothing(words: str) -> str:
    """The value of a `plot_view` that has nothing to show, and why."""
    return pack.text({"empty": words})
