"""The form of the Samples tab follows from the classes of the methods, with nothing to be kept in step."""

from __future__ import annotations

import gradio as gr
import pytest

from ouro.registry import GENERATORS
from workbench import app, engine, generators


@pytest.mark.parametrize("method", list(GENERATORS))
def test_form_has_a_field_for_every_option_with_its_default(method: str):
    with gr.Blocks() as page:
        generators.draw(method, gr.State({}), {})
    fields = {
        block.elem_id.rsplit("-", 1)[1]: block.value
        for block in page.blocks.values()
        if isinstance(block, gr.Dropdown | gr.Number | gr.Checkbox)
    }
    assert fields == {setting.name: setting.default for setting in engine.generator_settings(method)}


def test_only_what_was_changed_becomes_an_option():
    assert generators.changed("ouro", {}) == generators.changed("ouro", {"window": 5.0}) == ()
    assert generators.changed("clamp", {"positives": 5.0, "window": 3}) == (("positives", 5),)
    assert generators.changed("ouro", {"window": 7}) == (("window", 7),)
    with pytest.raises(ValueError, match="'temperature' is empty; its default is 0.1"):
        generators.changed("ouro", {"temperature": None})


def test_titles_come_from_the_classes():
    assert engine.generator_titles() == {name: GENERATORS.get(name).title for name in GENERATORS}
    assert engine.optimizes("ouro") and not engine.optimizes("noise")


def test_two_pages_never_draw_the_form_at_once():
    """Gradio counts how often a form was drawn for all pages together, and drops the events of one that another interrupts."""
    drawing = [event for event in app.build().fns.values() if event.renderable]
    assert drawing and all(event.concurrency_limit == 1 for event in drawing)
