"""What a form keeps in the browser: what counts as valid, and that a reload brings it back."""

from __future__ import annotations

import gradio as gr
import pytest

from tests.browsing import Visit
from workbench import forms, generators


@pytest.mark.parametrize(
    ("field", "good", "bad"),
    [
        (lambda: gr.Slider(4, 256, 16, step=4), [4, 16.0, 256], [3, 257, None, "16", True, float("nan")]),
        (lambda: gr.Number(0, minimum=0), [0, 10**6], [-1, None, [0]]),
        (lambda: gr.Radio([("One", "one")], value="one"), ["one"], ["One", "two", None]),
        (lambda: gr.CheckboxGroup(["a", "b"]), [[], ["b", "a"]], [["c"], "a", None]),
        (lambda: gr.Dropdown(["w4a4"], allow_custom_value=True), ["w4a4", "w5a5"], ["", 4, "w" * 50]),
    ],
    ids=["slider", "number", "radio", "group", "open list"],
)
def test_only_what_a_field_can_have_is_put_back(field, good, bad):
    field = field()
    assert all(forms.allowed(field, value) for value in good)
    assert not any(forms.allowed(field, value) for value in bad)


def test_what_is_not_valid_any_more_stays_as_it_was():
    with gr.Blocks():
        num, method = gr.Slider(4, 64, 16), gr.Radio(["ouro"], value="ouro")
        form = forms.keep(forms.states("tab")["tab"], {"num": num, "method": method})
    assert set(form.restored("m", {"num": 32, "method": "gone", "never": 1})) == {num}
    for damaged in (None, {}, [], "x"):
        assert form.restored("m", damaged) == {}
    assert generators.restored({"ouro": {"window": 7, "gone": 1}, "gone": {"a": 1}, "psaq": 3}) == {
        "ouro": {"window": 7}
    }


@pytest.mark.full
def test_a_reload_finds_the_forms_as_they_were(visit: Visit):
    page = visit.page
    page.wait_for_selector("#wb-start-models [data-act=open]", timeout=180_000)
    visit.open("Quantize")
    page.locator("#wb-quantize-calib").get_by_label("Noise").check()
    page.locator("#wb-quantize-method").get_by_label("OuroMamba-Quant").uncheck()
    visit.open("Sensitivity")
    page.locator("#wb-sensitivity-mode").get_by_label("All but one").check()
    visit.open("Samples")
    page.locator("#wb-samples-method").get_by_label("PSAQ").check()
    visit.number("wb-samples-num", 24)
    page.locator("button:visible", has_text="Advanced").first.click()
    page.wait_for_selector("#wb-samples-psaq-points")
    visit.number("wb-samples-psaq-points", 33)
    page.wait_for_timeout(500)
    visit.reload()
    # the address has the tab
    page.wait_for_selector("#wb-samples-method")
    page.wait_for_selector("#wb-device .wb-on", timeout=180_000)
    # whatever the page looks up as it opens has been looked up
    page.wait_for_timeout(1500)
    visit.open("Samples")
    page.wait_for_selector("#wb-samples-method input[value=psaq]:checked")
    assert page.input_value("#wb-samples-num input[type=number]") == "24"
    page.locator("button:visible", has_text="Advanced").first.click()
    page.wait_for_selector("#wb-samples-psaq-points")
    assert page.input_value("#wb-samples-psaq-points input") == "33"
    visit.open("Quantize")
    page.wait_for_selector("#wb-quantize-calib input[value=noise]:checked")
    assert not page.locator("#wb-quantize-method").get_by_label("OuroMamba-Quant").is_checked()
    visit.open("Sensitivity")
    page.wait_for_selector("#wb-sensitivity-mode input[value=leave_one_float]:checked")
