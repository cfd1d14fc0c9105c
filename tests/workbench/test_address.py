"""The address of the page: what is read from it, and links, back and forward in a browser."""

from __future__ import annotations

import math

import gradio as gr
import pytest

from tests.browsing import Visit
from workbench import address, quantize
from workbench.address import Asked

WANTED = {"tab": "outliers", "model": "vim_nano", "layer": "2", "kappa": "4.1", "tensor": "u", "n": 3}


def test_values_are_of_their_tab_and_model_only():
    ask = Asked("outliers", "vim_nano", WANTED)
    assert ask.whole("layer", 5, 0, 5) == 2 and ask.one_of("tensor", "in_proj", ["in_proj", "u"]) == "u" and ask.n == 3
    for tab, model in (("attention", "vim_nano"), ("outliers", "vmamba_nano")):
        ask = Asked(tab, model, WANTED)
        assert ask.whole("layer", 5, 0, 5) == 5 and not ask.wrong
    assert Asked("outliers", "any", None).number("kappa", 3, 1, 8, 0.25) == 3


@pytest.mark.parametrize(
    ("text", "value", "said"),
    [
        ("9", 5, "layer=9 is not there (expected 0 to 5), shown is 5"),
        ("-1", 0, "layer=-1 is not there (expected 0 to 5), shown is 0"),
        ("nope", 3, "layer=nope is not there (expected 0 to 5), shown is 3"),
        ("nan", 3, "layer=nan is not there (expected 0 to 5), shown is 3"),
        ("inf", 5, "layer=inf is not there (expected 0 to 5), shown is 5"),
        ("1.6", 2, ""),
    ],
)
def test_a_bad_number_becomes_the_nearest_one_with_a_line(text: str, value: int, said: str):
    ask = Asked("attention", "m", {"tab": "attention", "layer": text})
    assert ask.whole("layer", 3, 0, 5) == value
    assert "; ".join(ask.wrong) == said


@pytest.mark.parametrize("text", ["3", "3.1", "2.9", "8", "1"])
def test_numbers_are_on_the_steps_of_their_slider(text: str):
    value = Asked("t", "m", {"tab": "t", "kappa": text}).number("kappa", 3, 1, 8, 0.25)
    assert math.isclose(value % 0.25, 0, abs_tol=1e-9) and abs(value - float(text)) <= 0.125


def test_what_a_mapping_has_is_handed_on():
    ask = Asked("t", "m", {"tab": "t", "data": "Bees", "map": "<b>"})
    assert ask.one_of("data", "scenes", {"Bees": "folder:/srv/bees"}) == "folder:/srv/bees" and not ask.wrong
    assert ask.one_of("map", "received", ["received"]) == "received"
    assert ask.wrong == ["map=<b> is not there (known: received), shown is received"]


def test_an_address_is_cut_and_counted():
    first = address.parsed({"tab": "attention", "__theme": "dark", "model": "x" * 999})
    assert first == {"tab": "attention", "model": "x" * 200, "n": 1}
    assert address.parsed({}, first) == {"n": 2}
    wrong: list[str] = []
    assert address.tab_of(first, wrong) == "attention" and address.tab_of({}, wrong) == "start" and not wrong
    assert address.tab_of({"tab": "nope"}, wrong) == "start"
    assert address.model_of(first, ["vim_nano"], "vim_nano", wrong) == "vim_nano"
    assert (
        len(wrong) == 2
        and wrong[0].startswith("tab=nope is not there (known: start, attention")
        and "shown is" in wrong[1]
    )


def test_every_tab_has_an_address():
    from workbench.app import demo

    tabs = [block.id for block in demo.blocks.values() if type(block).__name__ == "Tab"]
    assert tuple(tabs) == address.TABS


def values(visit: Visit) -> dict[str, str]:
    return visit.page.evaluate("Object.fromEntries(new URLSearchParams(location.search))")


@pytest.mark.full
def test_back_and_forward_go_through_views(visit: Visit):
    page = visit.page
    visit.open("Attention")
    page.wait_for_url("**tab=attention**layer=3**")
    visit.number("wb-attention-layer", 1)
    visit.until_label("wb-attention-h", "layer 1")
    page.wait_for_url("**layer=1**")
    page.locator("#wb-attention-images button").nth(2).click()
    visit.until_label("wb-attention-input", "(no. 2)")
    page.wait_for_url("**image=2**")
    visit.open("Outliers")
    page.wait_for_url("**tab=outliers**")
    page.go_back()
    page.wait_for_selector("#wb-attention-h")
    assert values(visit)["image"] == "2" and "(no. 2)" in visit.label("wb-attention-input")
    page.go_back()
    visit.until_label("wb-attention-input", "(no. 0)")
    page.go_back()
    visit.until_label("wb-attention-h", "layer 3")
    assert page.input_value("#wb-attention-layer input[type=number]") == "3"
    page.go_forward()
    visit.until_label("wb-attention-h", "layer 1")


@pytest.mark.full
def test_a_link_opens_the_same_view_elsewhere(server: str, browser, visit: Visit):
    page = visit.page
    visit.open("Attention")
    page.wait_for_url("**layer=3**")
    visit.number("wb-attention-layer", 2)
    page.get_by_label("7×7").check()
    page.locator("#wb-attention-images button").nth(4).click()
    visit.until_label("wb-attention-input", "(no. 4)")
    page.locator("#wb-attention-input").click()
    page.wait_for_url("**image=4**patch=**")
    other = Visit(browser, page.url.partition("?")[0], query=page.url.partition("?")[2])
    names = ("input", "h", "hp", "diff", "delta")
    other.until_label("wb-attention-input", "(no. 4)")
    other.until_label("wb-attention-h", "layer 2")
    for name in names:
        assert other.label(f"wb-attention-{name}") == visit.label(f"wb-attention-{name}")
    assert other.page.get_by_label("7×7").is_checked()
    assert values(other) == values(visit)
    other.page.close()
    assert not other.wrong


@pytest.mark.full
def test_what_is_not_there_is_said_and_nearest(server: str, browser):
    visit = Visit(browser, server, query="tab=outliers&model=vim_nano&layer=nope&kappa=99&image=7")
    page = visit.page
    page.get_by_text("layer=nope is not there (expected 0 to 5), shown is 5").wait_for()
    page.get_by_text("kappa=99 is not there (expected 1 to 8), shown is 8").wait_for()
    assert page.input_value("#wb-outliers-kappa input[type=number]") == "8"
    page.wait_for_selector("#wb-outliers-images [aria-checked=true]")
    page.wait_for_url("**image=7**")
    page.close()
    other = Visit(browser, server, query="tab=attention&model=vim_nano&weights=00000000")
    other.page.get_by_text("the link was made with other weights of vim_nano").wait_for()
    other.page.close()
    # nothing is asked of a model that is not there
    third = Visit(browser, server, query="tab=outliers&model=nope&layer=2")
    third.page.get_by_text("model=nope is not there, shown is vim_nano.").wait_for()
    third.page.wait_for_url("**layer=*")
    assert third.page.locator(".toast-body").count() == 1
    third.page.close()
    assert not visit.wrong and not other.wrong and not third.wrong


@pytest.mark.parametrize(
    ("field", "text", "value", "said"),
    [
        (lambda: gr.Slider(4, 256, 16, step=4), "17", 16, ""),
        (lambda: gr.Slider(4, 256, 16, step=4), "999", 256, "k=999 is not there (expected 4 to 256), shown is 256"),
        (lambda: gr.Number(0, precision=0, minimum=0), "-3", 0, "k=-3 is not there (expected 0 or more), shown is 0"),
        (lambda: gr.Number(0, precision=0, minimum=0), "inf", None, "k=inf is not there (expected 0 or more)"),
        (lambda: gr.Number(0.2, minimum=0.0001), "0.25", 0.25, ""),
        (lambda: gr.Radio([("One", "one")], value="one"), "two", None, "k=two is not there (known: one)"),
        (lambda: gr.CheckboxGroup([("3", 3), ("4", 4)]), "4,3", [4, 3], ""),
        (lambda: gr.CheckboxGroup([("3", 3), ("4", 4)]), "3,9", [3], "k=3,9 is not there (known: 3, 4), shown is 3"),
    ],
)
def test_a_field_takes_the_nearest_value_that_it_can_have(field, text: str, value, said: str):
    ask = Asked("t", "m", {"tab": "t", "k": text})
    assert ask.field("k", field()) == (gr.skip() if value is None else value)
    assert "; ".join(ask.wrong) == said


def test_bits_are_read_before_they_are_taken():
    ask = Asked("t", "m", {"tab": "t", "bits": "w5a5", "other": "w4x"})
    assert ask.checked("bits", quantize.fault) == "w5a5" and not ask.wrong
    assert ask.checked("other", quantize.fault) == gr.skip() and "w4x" in ask.wrong[0]


@pytest.mark.full
def test_forms_stand_in_the_address_and_come_from_it(server: str, browser):
    query = "tab=sensitivity&model=vim_nano&mode=cumulative&bits=w5a5&limit=99999&calib=noise&widths=2,4&budget=3.5&seed=7&scope=nope"
    visit = Visit(browser, server, query=query)
    page = visit.page
    page.get_by_text("limit=99999 is not there (expected 20 to 2000), shown is 2000").wait_for()
    page.get_by_text("scope=nope is not there (known: lin, ssm, rec, full)").wait_for()
    page.wait_for_url("**limit=2000**")
    assert page.get_by_label("One after another").is_checked() and page.get_by_label("Noise").is_checked()
    assert page.input_value("#wb-sensitivity-budget input") == "3.5"
    page.wait_for_timeout(1500)
    assert page.get_by_label("Noise").is_checked(), "what the list of pictures sets off leaves it"
    # the address follows the page, and on busy cores at a distance
    page.wait_for_function(
        "() => { const said = new URLSearchParams(location.search); return said.get('calib') === 'noise' && said.get('widths') === '2,4'; }",
        polling=100,
    )
    known = values(visit)
    assert (known["bits"], known["widths"], known["seed"], known["calib"]) == ("w5a5", "2,4", "7", "noise")
    page.close()
    assert not visit.wrong


@pytest.mark.full
def test_back_goes_through_what_kernels_and_paper_show(visit: Visit):
    page = visit.page
    visit.open("Kernels")
    page.wait_for_url("**kernel=selective_scan**")
    page.locator("#wb-kernels-which input").click()
    page.get_by_role("option", name="All nine").click()
    page.wait_for_url("**kernel=all**")
    visit.open("Paper")
    page.wait_for_url("**tab=paper**")
    page.locator("#wb-paper-fig2 summary").click()
    page.wait_for_url("**tab=paper**entry=fig2**")
    page.locator("#wb-paper-filter label").nth(1).click()
    page.wait_for_function("!new URLSearchParams(location.search).get('verdict').includes('all')", polling=100)
    page.go_back()
    page.wait_for_url("**verdict=all**")
    page.wait_for_selector("#wb-paper-fig2[open]")
    page.go_back()
    page.wait_for_selector("#wb-paper-fig2:not([open])")
    page.go_back()
    page.wait_for_selector("#wb-kernels-which", state="visible")
    assert values(visit)["kernel"] == "all"
    page.go_back()
    page.wait_for_function("document.querySelector('#wb-kernels-which input').value === 'selective_scan'", polling=100)
    page.go_forward()
    page.wait_for_function("document.querySelector('#wb-kernels-which input').value === 'All nine'", polling=100)


def test_a_link_to_a_list_of_runs_names_a_kind_and_a_model_that_may_not_be_there(server, browser):
    visit = Visit(browser, server, query="tab=runs&kind=nothing&of=nobody&sort=size")
    visit.page.locator(".toast-body").get_by_text("kind=nothing is not there (no run is of it)").wait_for()
    words = visit.page.locator(".toast-body").all_inner_texts()
    assert len(words) == 1 and "of=nobody is not there (no run is of it)" in words[0]
    visit.page.close()
