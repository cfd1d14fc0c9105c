"""A game beside a scan: guess which part of the model hurts most before it is known."""

from __future__ import annotations

import html
from collections.abc import Mapping
from typing import Any

import gradio as gr

from workbench import damage, engine
from workbench.errors import guarded
from workbench.page import PRIVATE, Page


def verdict(guess: str | None, values: Mapping[str, Any] | None) -> str:
    """How near a guess came, in a sentence; "" where there is none or it is of another scan."""
    if not guess or values is None:
        return ""
    ranked = damage.ranked(values)
    if guess not in ranked:
        return ""
    place, said = ranked.index(guess) + 1, html.escape(guess)
    if place == 1:
        return f'<p class="wb-note" role="status"><b>You guessed it:</b> {said} hurts most of {len(ranked)}.</p>'
    worst = html.escape(ranked[0])
    return (
        f'<p class="wb-note" role="status">You guessed {said}: number {place} of {len(ranked)}. {worst} hurts most.</p>'
    )


def build(page: Page, scope: gr.Dropdown, by: gr.Radio) -> tuple[gr.Dropdown, gr.HTML]:
    """The guess, and where it is judged."""
    with gr.Accordion("Guess first", open=False, elem_id="wb-sensitivity-guess") as part:
        guess = gr.Dropdown(
            [], label="Which part hurts most when it is rounded?", elem_id="wb-guess", info="for fun: told when the scan is done"
        )  # fmt: skip
    told = gr.HTML(elem_id="wb-guess-told", apply_default_css=False)

    @guarded
    def known(model: str, scope: str, by: str) -> gr.Dropdown:
        return gr.Dropdown(choices=list(engine.groups(model, scope, by)), value=None)

    for event in (part.expand, scope.input, by.input, page.model.change):
        event(known, [page.model, scope, by], guess, **PRIVATE)
    return guess, told
