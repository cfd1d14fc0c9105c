"""HTML whose buttons are heard: one listener for all of them, so that the text may come anew at any time."""

from __future__ import annotations

import html

import gradio as gr


def acting_view(elem_id: str, *, value: str = "", tab: str = "", key: str = "") -> gr.HTML:
    """The text; its value is markup with `button`s. Event `select` carries `act` and `name` of the one that was pressed.

    tab, key: where the address keeps which `<details data-name>` is open, if it is to.
    """
    return gr.HTML(
        value=value,
        html_template=f'<div class="wb-acts" data-tab="{tab}" data-key="{key}"></div>',
        js_on_load="wb.acts(element, props, trigger, watch); // 'select'",
        apply_default_css=False,
        elem_id=elem_id,
    )


def button(words: str, act: str, name: str, *, strong: bool = False, about: str = "") -> str:
    """A button that does `act` to what is called `name`, and to people `about`."""
    said = html.escape(f"{words} {about or name}", quote=True)
    return (
        f'<button type="button" class="wb-small{" wb-strong" if strong else ""}" data-act="{act}" '
        f'data-name="{html.escape(name, quote=True)}" aria-label="{said}">{html.escape(words)}</button>'
    )
