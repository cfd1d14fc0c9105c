"""Events that read fields whose choices or bounds come and go with the model.

Gradio refuses the value of a list that is not among its choices, and of a slider beyond its end. While a page changes its
model, several answers are on their way, and what one event reads may already have gone by another one's answer: a toast about
a choice that nobody made, and an event that is lost. Here an event is told what the page shows, and its handler decides what
still holds.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Sequence
from typing import Any

import gradio as gr

from workbench.errors import guarded


def on(events: Sequence[Any], handler: Callable[..., Any], inputs: Sequence[Any], outputs: Any, **options: Any) -> Any:
    """Calls a handler, which is no generator, with what the page shows in its inputs; otherwise as `gr.on`."""
    # what the fields themselves say is never refused, and never read
    silent = {
        at: component.minimum if isinstance(component, gr.Slider) else None
        for at, component in enumerate(inputs)
        if isinstance(component, gr.Dropdown | gr.Radio | gr.Slider)
    }
    carried = gr.JSON(visible=False)

    def told(shown: Sequence[Any], *values: Any) -> Any:
        known = dict(zip(silent, shown, strict=True))
        return handler(*(known.get(at, value) for at, value in enumerate(values)))

    js = (
        f"(_, ...values) => {{ const silent = {json.dumps(silent)};"
        " return [Object.keys(silent).map((at) => values[at]),"
        " ...values.map((value, at) => at in silent ? silent[at] : value)]; }"
    )
    return gr.on(events, guarded(told), [carried, *inputs], outputs, js=js, **options)
