"""The form of the Samples tab against the methods themselves."""

from __future__ import annotations

import inspect
from typing import Any

import gradio as gr
import pytest

from ouro.registry import GENERATORS
from workbench import generators


def options_of(method: str) -> dict[str, Any]:
    """Option -> default, of a method and of what it inherits options from by `**common`."""
    found: dict[str, Any] = {}
    for kind in reversed(GENERATORS.get(method).__mro__[:-1]):
        if "__init__" not in vars(kind):
            continue
        parameters = inspect.signature(kind.__init__).parameters.values()
        if not any(parameter.kind is parameter.VAR_KEYWORD for parameter in parameters):
            found.clear()
        found |= {one.name: one.default for one in parameters if one.kind is one.KEYWORD_ONLY}
    return {
        name: default for name, default in found.items() if name != "seed" and default is not inspect.Parameter.empty
    }


@pytest.mark.parametrize("method", list(GENERATORS))
def test_form_offers_every_option_with_its_default(method: str):
    assert {setting.name: setting.default for setting in generators.SETTINGS[method]} == options_of(method)


@pytest.mark.parametrize("method", list(GENERATORS))
def test_default_is_among_the_choices(method: str):
    for setting in generators.SETTINGS[method]:
        assert not setting.choices or setting.default in [value for _, value in setting.choices]


def test_only_what_was_changed_becomes_an_option():
    with gr.Blocks():
        form = generators.form("ouro")
    values = [component.value for component in form.inputs]
    assert form.chosen("ouro", values) == ()
    places = {(owner, name): at for at, (owner, name, _) in enumerate(form.fields)}
    values[places["clamp", "positives"]] = 5.0
    values[places["ouro", "window"]] = 7
    assert form.chosen("clamp", values) == (("positives", 5),)
    assert form.chosen("ouro", values) == (("window", 7),)
    values[places["ouro", "temperature"]] = None
    with pytest.raises(ValueError, match="'temperature' is empty; its default is 0.1"):
        form.chosen("ouro", values)


def test_settings_of_the_chosen_method_alone_are_shown():
    with gr.Blocks():
        form = generators.form("psaq")
    assert [name for name, group in form.groups.items() if group.visible] == ["psaq"]
    assert [update.visible for update in form.shown("class")] == [name == "class" for name in form.groups]
