"""The row of held-out images above a tab: choose one, turn to others, or upload one's own."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import gradio as gr
import numpy as np

from workbench import engine
from workbench.errors import guarded
from workbench.page import DIMMED, PRIVATE, Page
from workbench.strip import strip, strip_view

SHOWN = 12
"""Images offered at once."""

START = {"sample": 0, "path": None, "first": 0}
"""The chosen picture: number in the test split, or path of an upload; `first` is the first number in the row."""


def row(model: str, first: int) -> tuple[np.ndarray, tuple[str, ...]]:
    """The images from number `first` on, at the model's size, and their classes."""
    entry = engine.model_row(model)
    return engine.held_out(entry["data"], first, SHOWN, entry["input_size"][-1])


def name_of(model: str, picture: Mapping[str, Any]) -> str:
    """What a chosen picture is called."""
    if picture["path"]:
        return "your image"
    names = row(model, picture["first"])[1]
    return f"{names[picture['sample'] - picture['first']]} (no. {picture['sample']})"


@dataclass(frozen=True, slots=True)
class Picker:
    """The components of one row, and the events after which another picture is chosen."""

    chosen: gr.State
    view: gr.HTML
    events: tuple[Any, ...]

    def then(self, handler: Callable[..., Any], inputs: Sequence[Any], outputs: Sequence[Any], dim: Any) -> None:
        """Calls the handler when another picture was chosen; `dim` is dimmed until it is through."""
        for event in self.events:
            event.success(handler, inputs, outputs, show_progress_on=[dim], **DIMMED)


def reset(model: str) -> tuple[str, dict[str, Any]]:
    """Values of a picker's view and choice for the first images of this model's data."""
    return _strip(model, 0, 0), dict(START)


def picker(tab: str, page: Page, model: str, *, upload: bool = False) -> Picker:
    """Builds the row inside a tab."""
    chosen = gr.State(dict(START))
    with gr.Row(elem_classes="wb-pickrow"):
        with gr.Column(scale=8, min_width=260):
            view = strip_view(f"wb-{tab}-images", value=_strip(model, 0, 0))
        with gr.Column(scale=0, min_width=132, elem_classes="wb-sideways"):
            more = gr.Button("Other images", size="sm", elem_id=f"wb-{tab}-more")
            own = gr.UploadButton(
                "Upload yours", size="sm", file_types=["image"], elem_id=f"wb-{tab}-upload", visible=upload
            )

    @guarded
    def pick(picture: dict[str, Any], event: gr.EventData) -> dict[str, Any]:
        return {**picture, "sample": picture["first"] + int(event._data["index"]), "path": None}

    @guarded
    def turn(model: str, picture: dict[str, Any]) -> tuple[str, dict[str, Any]]:
        first = picture["first"] + SHOWN
        if first + SHOWN > engine.held_out_count(engine.model_row(model)["data"]):
            first = 0
        return _strip(model, first, 0), {"sample": first, "path": None, "first": first}

    @guarded
    def take(model: str, picture: dict[str, Any], path: str) -> tuple[str, dict[str, Any]]:
        engine.check_picture(path)
        return _strip(model, picture["first"], -1), {**picture, "path": path}

    events = (
        view.select(pick, chosen, chosen, **PRIVATE),
        more.click(turn, [page.model, chosen], [view, chosen], **PRIVATE),
        own.upload(take, [page.model, chosen, own], [view, chosen], **PRIVATE),
    )
    return Picker(chosen, view, events)


def _strip(model: str, first: int, chosen: int) -> str:
    return strip(*row(model, first), chosen, f"held-out images {first} to {first + SHOWN - 1}")
