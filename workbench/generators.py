"""The settings of the chosen generation method, for the form of the Samples tab; a method's class says what they are."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import gradio as gr

from workbench import engine
from workbench.page import PRIVATE

_WIDTH = 100
_LONGEST = 60
"""Characters of a setting's words that the form has room for."""


def form(method: gr.Radio) -> gr.State:
    """Builds the form, which follows the method and begins with its defaults; the state has what was set of it."""
    chosen = gr.State({})
    method.change(lambda: {}, None, chosen, **PRIVATE)

    # drawn when the page opens and whenever another method is chosen
    @gr.render(inputs=[method])
    def fields(method: str) -> None:
        draw(method, chosen)

    return chosen


def draw(method: str, chosen: gr.State) -> None:
    """The fields of a method, each of which keeps its value in `chosen`."""
    settings = engine.generator_settings(method)
    with gr.Column(elem_id=f"wb-samples-of-{method}", elem_classes="wb-form"):
        for first in range(0, len(settings), 2):
            with gr.Row(elem_classes="wb-pair"):
                for setting in settings[first : first + 2]:
                    name = setting.name
                    field = _field(method, setting)
                    field.input(
                        lambda value, kept, name=name: {**kept, name: value}, [field, chosen], chosen, **PRIVATE
                    )
        if not settings:
            gr.HTML('<p class="wb-note">There is nothing to set.</p>')


def _field(method: str, setting: Any) -> gr.Dropdown | gr.Number | gr.Checkbox:
    words = setting.help.split(";")[0].split(". ")[0].rstrip(".")
    look = {
        "label": label(setting.name), "info": words if len(words) <= _LONGEST else None, "value": setting.default,
        "elem_id": f"wb-samples-{method}-{setting.name}", "min_width": _WIDTH, "interactive": True,
    }  # fmt: skip
    if setting.choices:
        return gr.Dropdown([(str(choice), choice) for choice in setting.choices], filterable=False, **look)
    if setting.kind is bool:
        return gr.Checkbox(**look)
    return gr.Number(minimum=setting.least, precision=0 if setting.kind is int else None, **look)


def label(name: str) -> str:
    """class_weight -> Class weight."""
    return name.replace("_", " ").capitalize()


def changed(method: str, values: Mapping[str, Any]) -> tuple[tuple[str, Any], ...]:
    """The options of a method that differ from its defaults, so that the same set has one name only.

    Raises:
        ValueError: a field was left empty.
    """
    options = []
    for setting in engine.generator_settings(method):
        value = values.get(setting.name, setting.default)
        if value is None and not setting.optional:
            raise ValueError(f"{label(setting.name).lower()!r} is empty; its default is {setting.default}")
        value = int(value) if setting.kind is int else value
        if value != setting.default:
            options.append((setting.name, value))
    return tuple(options)
