"""Lists whose choices come and go with the model: no event is refused because another one answered first."""

import gradio as gr
import pytest
from gradio.exceptions import Error

from workbench import app, lists

# their choices are another model's, scan's or kind's after a change
VARYING = (
    *(f"wb-{tab}-{name}" for tab in ("quantize", "sensitivity") for name in ("calib", "set", "measured")),
    "wb-sensitivity-report", "wb-drift-run", "wb-attention-direction", "wb-outliers-direction", "wb-tasks-beside",
    "wb-attention-layer", "wb-attention-window", "wb-outliers-layer", "wb-drift-layer",
)  # fmt: skip


@pytest.fixture(scope="module")
def config() -> dict:
    return app.build().get_config_file()


@pytest.mark.parametrize("name", VARYING)
def test_events_of_a_change_are_told_what_the_page_shows(config: dict, name: str):
    component = next(one["id"] for one in config["components"] if one["props"].get("elem_id") == name)
    changes = [
        one
        for one in config["dependencies"]
        if one["backend_fn"] and component in one["inputs"] and any(event == "change" for _, event in one["targets"])
    ]
    assert changes or name == "wb-tasks-beside"
    kinds = {one["id"]: one["type"] for one in config["components"]}
    for one in changes:
        assert kinds[one["inputs"][0]] == "json" and "silent" in str(one["js"]), one["targets"]


def test_a_handler_gets_the_value_of_a_field_that_has_lost_it():
    seen = []
    with gr.Blocks() as page:
        fields = gr.Dropdown(["a", "b"], value="a"), gr.Number(3), gr.Slider(0, 4)
        lists.on([fields[0].change], lambda *values: seen.append(values), fields, None)
    (event,) = page.fns.values()
    for field, value, why in (
        (fields[0], "gone", "not in the list of choices"),
        (fields[2], 5, "greater than maximum"),
    ):
        with pytest.raises(Error, match=why):
            field.preprocess(value)
    # as the page sends it
    sent = (["gone", 5], None, 4, 0)
    event.fn(*(one.preprocess(value) for one, value in zip(event.inputs, sent, strict=True)))
    assert seen == [("gone", 4, 5)]
