"""The Outliers tab: what its numbers are, and a walk through lists, two steps compared, one channel and a relit picture."""

from __future__ import annotations

import base64
import json
import re

import numpy as np
import pytest

from tests.browsing import Visit
from workbench import engine, outliers, pictures

MAP = "wb-outliers-step-map"


def test_overlap_of_sets_is_per_step():
    raw = np.array([[1, 1, 0], [0, 1, 1], [0, 0, 0], [1, 0, 0]], np.uint8)
    other = np.array([[1, 1, 0], [1, 1, 0], [0, 0, 0], [0, 0, 0]], np.uint8)
    assert np.array_equal(outliers.overlap(raw, other), [1, 1 / 3, np.nan, 0], equal_nan=True)


def test_the_page_holds_the_numbers_of_the_report():
    spec = outliers.first_spec("vim_nano")
    result = engine.outliers(**spec)
    relit = engine.outliers(**{**spec, "light": 0.5})
    text = outliers.player_value(result, "vim_nano", pictures.start("vim_nano"), relit)
    value = json.loads(text)
    sent = value["rounding"]
    numbers = {name: np.frombuffer(base64.b64decode(words), "<f4") for name, words in sent["floats"].items()}
    flags = {name: np.frombuffer(base64.b64decode(words), "u1") for name, words in sent["bytes"].items()}
    assert set(numbers) | set(flags) == set(outliers.ROUNDED)
    assert set(flags) == {"listed", "clipped", "static_clipped"}
    for name, array in (numbers | flags).items():
        assert np.array_equal(array, result.arrays[name].ravel(), equal_nan=True)
    assert (sent["bits"], sent["outlier_bits"], sent["grids"]["inliers"]) == (4, 8, [-7, 7])
    assert value["light"] == 0.5 and len(base64.b64decode(value["overlap"])) == 4 * value["L"]


def channels(visit: Visit, group: str) -> set[int]:
    """The numbers in an unfolded list whose words begin so."""
    box = visit.page.locator("#wb-outliers-step .wb-group").filter(has_text=group)
    while box.locator("[aria-expanded=false]").count():
        box.locator("[aria-expanded=false]").click()
    return {int(words) for words in box.locator(".wb-chip:not(.wb-fold)").all_inner_texts()}


def to_step(visit: Visit, step: int) -> None:
    visit.page.get_by_label("step number").fill(str(step))
    visit.until_label(MAP, f"at step {step} ")


@pytest.mark.full
def test_channels_of_a_step_are_named_and_two_steps_compared(visit: Visit):
    page = visit.page
    arrays = engine.outliers(**outliers.first_spec("vim_nano")).arrays
    raw, static = arrays["raw"] > 0, arrays["static"] > 0
    visit.open("Outliers")
    visit.until_label(MAP, "197 time steps by 96 channels")
    to_step(visit, 30)
    for words, expected in (
        ("outliers in the static list", raw[30] & static),
        ("outliers the static list misses", raw[30] & ~static),
        ("kept by the static list in vain", static & ~raw[30]),
    ):
        assert channels(visit, words) == set(np.flatnonzero(expected)), words
    missed = page.locator("#wb-outliers-step .wb-group").filter(has_text="misses").locator(".wb-chip").first
    number = missed.inner_text()
    missed.press("Enter")
    assert (
        missed.get_attribute("aria-current") is not None
        and page.get_by_label("channel", exact=True).input_value() == number
    )
    # another channel is current, and the focus stays where it was
    page.keyboard.press(".")
    assert page.get_by_label("channel", exact=True).input_value() == str(int(number) + 1)
    page.keyboard.press("c")
    to_step(visit, 90)
    both, only, now = raw[30] & raw[90], raw[30] & ~raw[90], raw[90] & ~raw[30]
    assert channels(visit, "outliers at step 30 only") == set(np.flatnonzero(only))
    assert channels(visit, "outliers at step 90 only") == set(np.flatnonzero(now))
    assert channels(visit, "outliers at both") == set(np.flatnonzero(both))
    listed = ", ".join(map(str, np.flatnonzero(only)))
    page.get_by_text(f"{only.sum()} outliers at 30 and not at 90 (channels {listed})").wait_for(state="attached")
    page.locator(f"#{MAP}").press("Escape")
    page.wait_for_selector("#wb-outliers-step-versus", state="hidden")
    page.get_by_role("button", name="Compare with this step").click()
    assert "Step 90 beside step 90" in page.inner_text("#wb-outliers-step-versus")
    page.get_by_role("button", name="End comparison").click()
    page.wait_for_selector("#wb-outliers-step-versus", state="hidden")


@pytest.mark.full
def test_a_part_of_the_map_is_chosen_by_pointer_and_by_keyboard(visit: Visit):
    page = visit.page
    raw = engine.outliers(**outliers.first_spec("vim_nano")).arrays["raw"] > 0
    visit.open("Outliers")
    visit.until_label(MAP, "197 time steps by 96 channels")
    to_step(visit, 30)
    page.get_by_label("channel", exact=True).fill("10")
    page.locator(f"#{MAP}").press("b")
    for key in ("ArrowRight", "ArrowRight", "ArrowDown", "ArrowDown", "ArrowDown", "b", "ArrowRight"):
        page.keyboard.press(key)
    page.get_by_text("In steps 30 to 32, channels 10 to 13").wait_for()
    found = np.flatnonzero(raw[30:33, 10:14].any(axis=0)) + 10
    assert channels(visit, "outliers there") == set(found)
    # the address is written once the cursor rests
    page.wait_for_function("() => location.search.includes('part=30-32-10-13')", polling=100)
    page.keyboard.press("Escape")
    page.get_by_text("In steps").wait_for(state="detached")
    box = page.locator(f"#{MAP}").bounding_box()
    page.mouse.move(box["x"] + 0.3 * box["width"], box["y"] + 0.2 * box["height"])
    page.mouse.down()
    page.mouse.move(box["x"] + 0.5 * box["width"], box["y"] + 2 * box["height"], steps=3)
    page.mouse.up()
    # a drag ends at the edge, and leaves the cursor where it was
    page.get_by_text(", channels ").get_by_text(" to 95").wait_for()
    visit.until_label(MAP, "at step 33 ")
    steps, _, rest = page.locator("#wb-outliers-step b", has_text="In steps").inner_text()[9:].partition(", channels ")
    (first, last), (low, high) = (map(int, words.split(" to ")) for words in (steps, rest))
    part = raw[first : last + 1, low : high + 1].any(axis=0)
    assert part.sum() > 1 and high == 95
    link = page.get_by_role("link", name="had 8 bits?")
    kept = [int(number) for number in re.search(r"%3A([^&]*)$", link.get_attribute("href"))[1].split("%2C")]
    assert set(kept) <= set(np.flatnonzero(part) + low)
    page.wait_for_function(f"() => location.search.includes('part={first}-{last}-{low}-{high}')", polling=100)
    visit.reload()
    page.get_by_text(f"In steps {first} to {last}, channels {low} to {high}").wait_for()
    page.get_by_role("button", name="Choose nothing").click()
    page.get_by_text("In steps").wait_for(state="detached")


@pytest.mark.full
def test_a_long_list_folds(visit: Visit):
    page = visit.page
    listed = engine.outliers(**{**outliers.first_spec("vim_nano"), "kappa": 1.0}).arrays["dynamic"] > 0
    assert listed[39].sum() > 20
    visit.open("Outliers")
    visit.until_label(MAP, "197 time steps by 96 channels")
    # the list is the longest just before it is cleared
    to_step(visit, 39)
    visit.number("wb-outliers-kappa", 1)
    page.get_by_role("radio", name="Dynamic list").click()
    visit.until_label(MAP, f"at step 39 {listed[39].sum()} outliers")
    fold = page.locator("#wb-outliers-step .wb-fold[aria-expanded=false]").first
    before = page.locator("#wb-outliers-step .wb-chip:not(.wb-fold)").count()
    assert fold.inner_text().startswith("and ") and fold.inner_text().endswith(" more")
    fold.press("Enter")
    assert page.evaluate("document.activeElement.innerText") == "fewer"
    assert page.locator("#wb-outliers-step .wb-chip:not(.wb-fold)").count() > before
    page.keyboard.press("Enter")
    assert page.locator("#wb-outliers-step .wb-chip:not(.wb-fold)").count() == before


@pytest.mark.full
def test_a_channel_says_how_it_is_rounded(visit: Visit):
    page = visit.page
    spec = outliers.first_spec("vim_nano")
    visit.open("Outliers")
    visit.until_label(MAP, "197 time steps by 96 channels")
    page.get_by_label("channel", exact=True).fill("10")
    page.locator(f"#{MAP}").press(".")
    drawer = page.locator("#wb-outliers-step-channel")
    drawer.get_by_text("Channel 11 in 4 bits").wait_for()
    drawer.get_by_role("button", name="previous channel").click()
    drawer.get_by_text("Channel 10 in 4 bits").wait_for()
    drawer.get_by_role("button", name="next channel").click()
    for bits in (4, 8):
        arrays = engine.outliers(**{**spec, "bits": bits}).arrays
        page.locator("#wb-outliers-bits").get_by_label(str(bits), exact=True).check()
        drawer.get_by_text(f"Channel 11 in {bits} bits").wait_for()
        words = drawer.inner_text()
        for prefix in ("", "static_"):
            assert f"{arrays[f'{prefix}sqnr'][11]:.1f} dB".replace("-", "−") in words
            assert f"{100 * arrays[f'{prefix}clipped'][:, 11].mean():.1f} %" in words
        assert f"{arrays['listed'][:, 11].sum()} of 197" in words
    visit.until_label("wb-outliers-step-static-codes", "256 codes")


@pytest.mark.full
def test_a_relit_picture_moves_the_outliers(visit: Visit):
    page = visit.page
    visit.open("Outliers")
    visit.until_label(MAP, "197 time steps by 96 channels")
    page.wait_for_selector("#wb-outliers-step .wb-relit", state="hidden")
    visit.number("wb-outliers-light", 0.6)
    visit.until_label("wb-outliers-step-relight", "Picture at 60 % brightness: overlap of the outliers of a step")
    visit.number("wb-outliers-light", 1)
    page.wait_for_selector("#wb-outliers-step .wb-relit", state="hidden")


@pytest.mark.full
def test_outliers_of_a_step_lead_to_what_if_they_had_more_bits(server: str, browser):
    # of a model that nobody scanned, so that the form says what is measured
    model = "vim_nano_digits"
    visit = Visit(browser, server, query=f"tab=sensitivity&model={model}&method=minmax&limit=20&calib=noise")
    page = visit.page
    method = "() => document.querySelector('#wb-sensitivity-method input')?.value.toLowerCase().includes('minmax')"
    page.wait_for_function(method, polling=100)
    result = engine.outliers(**outliers.first_spec(model))
    visit.open("Outliers")
    visit.until_label(MAP, "197 time steps by 96 channels")
    # nothing was said of a choice of the model before, which nobody made
    assert page.locator(".toast-body").all_inner_texts() == []
    raw = result.arrays["raw"]
    step = int(raw.sum(axis=1).argmax())
    to_step(visit, step)
    found = np.flatnonzero(raw[step])
    page.get_by_role("link", name=f"What if these {len(found)} outliers had 8 bits?").click()
    field = page.locator("#wb-whatif-channels textarea, #wb-whatif-channels input")
    field.wait_for()
    tensor, _, channels = field.input_value().rpartition(":")
    assert tensor == result.values["path"] and set(map(int, channels.split(","))) == set(found)
    # the largest one first
    magnitude = result.arrays["magnitude"][step]
    assert int(channels.split(",")[0]) == found[magnitude[found].argmax()]
    page.wait_for_function(
        "() => { const { top, bottom } = document.querySelector('#wb-whatif-go').getBoundingClientRect();"
        " return top >= 0 && bottom <= innerHeight; }"
    )
    page.locator("#wb-whatif-go").click()
    assert visit.ended("wb-whatif-job").startswith("done")
    page.locator("#wb-whatif-rows").get_by_text(f"{tensor}:{channels}").wait_for()
    # nothing is taken back while another one is tried, which would bring it back
    page.locator("#wb-whatif-bits").get_by_label("Float").check()
    page.locator("#wb-whatif-go").click()
    page.locator("#wb-whatif-undo[disabled]").wait_for()
    assert visit.ended("wb-whatif-job").startswith("done")
    page.wait_for_function("() => document.querySelectorAll('#wb-whatif-rows tbody tr').length === 2", polling=100)
    page.locator("#wb-whatif-undo:not([disabled])").click()
    page.wait_for_function("() => document.querySelectorAll('#wb-whatif-rows tbody tr').length === 1", polling=100)
    visit.open("Quantize")
    page.locator("#wb-quantize-grid").get_by_text(f"8 bits: channels {channels.replace(',', ', ')} of").wait_for()
    visit.open("Sensitivity")
    field.fill(f"{tensor}:999")
    page.locator("#wb-whatif-go").click()
    page.locator("#wb-whatif-job [data-state=failed]").get_by_text("channel 999 is to be kept").wait_for()
    page.close()
    assert not visit.wrong, "\n".join(visit.wrong)
