"""What was set in a form, kept in the browser, so that it is there again when the page is loaded anew."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

import gradio as gr

from workbench.page import PRIVATE

VERSION = 1
"""Of what is kept; goes up when the same name comes to mean something else."""


@dataclass(frozen=True, slots=True)
class Form:
    """Fields by name, and where their values are kept; `more` gives updates for fields that depend on what there is.

    `more` is called with the model that the page opens with and what was kept.
    """

    fields: Mapping[str, Any]
    kept: gr.BrowserState
    more: Callable[[str, Mapping[str, Any]], Mapping[Any, Any]] | None = None

    def restored(self, model: str, kept: Mapping[str, Any] | None) -> dict[Any, Any]:
        """An update for every field whose value of before is still one that it can have."""
        values = kept if isinstance(kept, dict) else {}
        update: dict[Any, Any] = {
            field: type(field)(value=values[name])
            for name, field in self.fields.items()
            if name in values and allowed(field, values[name])
        }
        return update | (dict(self.more(model, values)) if self.more and values else {})


def states(*tabs: str) -> dict[str, gr.BrowserState]:
    """Where forms are kept, by tab; made outside the tabs, because what is in an unopened one does not read its value."""
    return {tab: gr.BrowserState({}, storage_key=f"wb.{tab}.v{VERSION}", secret=f"wb.{tab}") for tab in tabs}


def keep(
    kept: gr.BrowserState,
    fields: Mapping[str, Any],
    *sent: Any,
    more: Callable[[str, Mapping[str, Any]], Mapping[Any, Any]] | None = None,
) -> Form:
    """Keeps the values of fields whenever a person changes one of them.

    Args:
        sent: buttons that use the form; what others have set in it is kept then.
    """
    names = list(fields)

    def now(*values: Any) -> dict[str, Any]:
        return dict(zip(names, values, strict=True))

    # what only the server has must go there; all else is known to the page, whatever a list may hold by now
    here = not any(isinstance(field, gr.State) for field in fields.values())
    js = f"(...values) => Object.fromEntries({names!r}.map((name, at) => [name, values[at]]))"
    touched = [_touch(field) for field in fields.values()]
    gr.on(
        [*touched, *(button.click for button in sent)],
        None if here else now,
        list(fields.values()),
        kept,
        js=js if here else None,
        queue=False,
        trigger_mode="always_last",
        **PRIVATE,
    )
    return Form(fields, kept, more)


def _touch(field: Any) -> Any:
    """The event of a field that a person has set; a number that is being typed may be none that a slider can have."""
    if isinstance(field, gr.State):
        return field.change
    return field.release if isinstance(field, gr.Slider) else field.input


def allowed(field: Any, value: Any) -> bool:
    """Whether a field, as it was built, can have this value; of other fields than these it is not known."""
    if isinstance(field, gr.Slider | gr.Number):
        number = isinstance(value, int | float) and not isinstance(value, bool) and math.isfinite(value)
        low = -math.inf if field.minimum is None else field.minimum
        high = math.inf if field.maximum is None else field.maximum
        return number and low <= value <= high
    known = [choice for _, choice in getattr(field, "choices", None) or ()]
    if isinstance(field, gr.CheckboxGroup):
        return isinstance(value, list) and all(item in known for item in value)
    if isinstance(field, gr.Dropdown) and field.allow_custom_value:
        return isinstance(value, str) and 0 < len(value) < 40
    if isinstance(field, gr.Textbox):
        return isinstance(value, str) and len(value) < 200
    return isinstance(field, gr.Radio | gr.Dropdown) and value in known
