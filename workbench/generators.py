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


def form(method: gr.Radio) -> tuple[gr.State, gr.State]:
    """Builds the form, which follows the method and begins with its defaults.

    The first state has what was set, by method and name; the form is drawn once the second one has changed.
    """
    chosen, drawn = gr.State({}), gr.State(0)

    # not whenever a value is set, or the field would be lost while somebody types; and one after the other, as Gradio goes
    # through all events of the page when it has drawn, whoever adds others meanwhile
    @gr.render(inputs=[method, chosen], triggers=[drawn.change, method.change], concurrency_limit=1)
    def fields(method: str, values: Mapping[str, Mapping[str, Any]]) -> None:
        draw(method, chosen, values.get(method, {}))

    return chosen, drawn


def restored(kept: Any) -> dict[str, dict[str, Any]]:
    """Of settings by method and name, those that there still are."""
    known = {method: {setting.name for setting in engine.generator_settings(method)} for method in engine.generators()}
    return {
        method: {name: value for name, value in values.items() if name in known[method]}
        for method, values in (kept if isinstance(kept, dict) else {}).items()
        if method in known and isinstance(values, dict)
    }


def draw(method: str, chosen: gr.State, values: Mapping[str, Any]) -> None:
    """The fields of a method with these values, each of which keeps its own in `chosen`."""
    settings = engine.generator_settings(method)
    with gr.Column(elem_id=f"wb-samples-of-{method}", elem_classes="wb-form"):
        for first in range(0, len(settings), 2):
            with gr.Row(elem_classes="wb-pair"):
                for setting in settings[first : first + 2]:
                    name = setting.name
                    field = _field(method, setting, values.get(name, setting.default))

                    def keep(value: Any, kept: Mapping[str, Any], name: str = name) -> dict[str, Any]:
                        return {**kept, method: {**kept.get(method, {}), name: value}}

                    # the same event when it is drawn once more: what somebody types meanwhile is heard
                    field.input(keep, [field, chosen], chosen, key=f"{method}.{name}", **PRIVATE)
        if not settings:
            gr.HTML('<p class="wb-note">There is nothing to set.</p>')


def _field(method: str, setting: Any, value: Any) -> gr.Dropdown | gr.Number | gr.Checkbox:
    words = setting.help.split(";")[0].split(". ")[0].rstrip(".")
    look = {
        "label": label(setting.name), "info": words if len(words) <= _LONGEST else None, "value": value,
        "elem_id": f"wb-samples-{method}-{setting.name}", "min_width": _WIDTH, "interactive": True,
        "key": f"{method}.{setting.name}", "preserved_by_key": [],
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
