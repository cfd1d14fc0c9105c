"""Which images a model is calibrated on: the same three choices wherever something is quantized."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import gradio as gr

from workbench import sets
from workbench.errors import guarded
from workbench.page import PRIVATE, Page


@dataclass(frozen=True, slots=True)
class Source:
    """The components: real images, noise or a generated set; how many of the first two, which of the last."""

    kind: gr.Radio
    count: gr.Slider
    chosen: gr.Dropdown

    @property
    def inputs(self) -> list[Any]:
        return [self.kind, self.count, self.chosen]


def source(tab: str, page: Page) -> Source:
    """Builds the choice inside a tab."""
    kind = gr.Radio(
        [("Real images", "real"), ("Noise", "noise"), ("A generated set", "set")], value="real",
        label="Calibration images", elem_id=f"wb-{tab}-calib",
    )  # fmt: skip
    count = gr.Slider(8, 256, 32, step=8, label="How many", elem_id=f"wb-{tab}-count")
    chosen = gr.Dropdown([], label="Generated set", visible=False, elem_id=f"wb-{tab}-set", info=sets.NO_SET)

    @guarded
    def fitting(model: str, kind: str, path: str | None) -> tuple:
        options = sets.choices(model) if kind == "set" else []
        paths = [path for _, path in options]
        # a set that was handed over together with its model stays
        value = path if path in paths else next(iter(paths), None)
        words = f"{len(options)} for this model" if options else "None for this model yet: make one in Samples."
        return (
            gr.Slider(visible=kind != "set"),
            gr.Dropdown(visible=kind == "set", choices=options, value=value, info=words),
        )

    kind.input(fitting, [page.model, kind, chosen], [count, chosen], **PRIVATE)
    page.model.change(fitting, [page.model, kind, chosen], [count, chosen], **PRIVATE)
    return Source(kind, count, chosen)


def spelled(kind: str, count: float, chosen: str | None) -> str:
    """The choice as jobs take it: real:32, noise:32, or the path of a set.

    Raises:
        ValueError: a set is wanted and none is chosen.
    """
    if kind != "set":
        return f"{kind}:{int(count)}"
    if not chosen:
        raise ValueError("no generated set is chosen; make one in Samples, or calibrate on real images")
    return chosen


def told(calib: Any) -> str:
    """real:128 -> 128 real; noise:128 -> 128 noise; a path -> synthetic."""
    kind, _, count = str(calib).partition(":")
    if kind in ("real", "noise") and count.isdigit():
        return f"{count} {kind}"
    return "synthetic" if calib else ""


def handed(model: str, path: str, options: Sequence[tuple[str, str]]) -> tuple:
    """Updates of a source's components that choose this set."""
    return (
        "set",
        gr.Slider(visible=False),
        gr.Dropdown(choices=list(options), value=path, visible=True, info=f"{len(options)} for {model}"),
    )
