"""Events that read lists whose choices come and go with the model.

Gradio refuses the value of a list that is not among its choices. While a page changes its model, several answers are on their
way, and what one event reads may already have gone by another one's answer: a toast about a choice that nobody made, and an
event that is lost. Here an event is told what the page shows, and its handler decides what still holds.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import gradio as gr

from workbench.errors import guarded


def on(events: Sequence[Any], handler: Callable[..., Any], inputs: Sequence[Any], outputs: Any, **options: Any) -> Any:
    """Calls a handler, which is no generator, with what the page shows in its inputs; otherwise as `gr.on`."""
    lists = [at for at, component in enumerate(inputs) if isinstance(component, gr.Dropdown | gr.Radio)]
    carried = gr.JSON(visible=False)

    def told(shown: Sequence[Any], *values: Any) -> Any:
        known = dict(zip(lists, shown, strict=True))
        return handler(*(known.get(at, value) for at, value in enumerate(values)))

    # the lists themselves say nothing, which is never refused
    js = (
        f"(_, ...values) => [{lists}.map((at) => values[at]), "
        f"...values.map((value, at) => {lists}.includes(at) ? null : value)]"
    )
    return gr.on(events, guarded(told), [carried, *inputs], outputs, js=js, **options)
