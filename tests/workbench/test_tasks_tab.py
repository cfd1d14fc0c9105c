"""The Tasks tab: what is sent of an answer of every task, what can be compared with, and the tab in a browser."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from ouro.progress import finish
from tests.browsing import Visit
from workbench import answers, calib, engine, stored, tasks

BESIDE = {"method": "minmax", "bits": "w4a4", "scope": "lin", "calib": "real:16"}
# models are first built on the meta device, which knows torch's own allocators only
unpoisoned = pytest.mark.unpoisoned


def result(task: str, classes: list[str], said: dict[str, Any], **arrays: np.ndarray) -> engine.Result:
    values = {
        "model": "toy", "task": task, "beside": BESIDE if "rounded" in arrays else None, "data": "toys", "sample": 0,
        "image": None, "classes": classes, "agreement": 0.5, "divergence": 0.25, **said,
    }  # fmt: skip
    return engine.Result(values, {"image": np.zeros((3, 4, 4), np.uint8), **arrays})


def classified() -> engine.Result:
    rows = np.array([[1, 0.9], [0, 0.1]], np.float32)
    said = {
        "float": {"predicted": "half_disk", "confidence": 0.9},
        "quantized": {"predicted": "disk", "confidence": 0.6},
    }
    return result(
        "classification", ["disk", "half_disk"], {"truth": {"label": "half_disk"}, "answers": said}, exact=rows,
        rounded=rows[::-1], truth=np.array(1),
    )  # fmt: skip


def segmented() -> engine.Result:
    truth = np.zeros((4, 4), np.int64)
    truth[1:3, 1:3], truth[0, 0] = 1, 255
    exact = np.where(truth == 255, 0, truth)
    rounded = exact.copy()
    rounded[2, 2] = 2
    words = {"classes": {"background": 0.75, "disk": 0.25}}
    said = {"truth": words, "answers": {"float": words, "quantized": words}}
    return result("segmentation", ["background", "disk", "ring"], said, truth=truth, exact=exact, rounded=rounded)


def detected() -> engine.Result:
    truth = np.array([[0, 0, 2, 2, 1, 0], [2, 2, 4, 4, 0, 0]], np.float32)
    found = np.array([[0, 0, 2, 2, 1, 0.8]], np.float32)
    words = {"objects": [{"class": "b", "score": 0.8, "box": [0, 0, 2, 2]}]}
    said = {"truth": words, "answers": {"float": words, "quantized": {"objects": []}}}
    return result("detection", ["a", "b"], said, truth=truth, exact=found, rounded=np.zeros((0, 6), np.float32))


def made() -> engine.Result:
    strip = np.zeros((3, 3, 4, 4), np.uint8)
    said = {"truth": {"label": "6"}, "answers": {"float": {"recognized": 0.75}, "quantized": {"recognized": 0.5}}}
    return result(
        "diffusion", list("0123456789"), said, exact=strip, rounded=strip, exact_strip=strip, rounded_strip=strip,
        times=np.linspace(0, 1, 3), truth=np.array(6),
    )  # fmt: skip


@pytest.mark.parametrize(
    ("make", "panels", "key", "words"),
    [
        (classified, ["image", "float", "quantized"], "bars", "takes it for <b>half disk</b> (90\u00a0%), minmax w4a4 for <b>disk"),
        (segmented, ["image", "truth", "float", "quantized"], "classes", "changes the class of <b>6.2\u00a0%</b> of the pixels"),
        (detected, ["image", "truth", "float", "quantized"], "boxes", "float model finds <b>1</b> of 2 objects, with 1 box; minmax"),
        (made, ["image", "float", "quantized"], "strips", "recognizes <b>75\u00a0%</b> of those by float and <b>50\u00a0%</b>"),
    ],
    ids=["classification", "segmentation", "detection", "diffusion"],
)  # fmt: skip
def test_every_task_has_its_panels_and_its_sentence(make, panels, key, words):
    value = json.loads(answers.answers(make(), "toy (no. 0)"))
    assert [panel["key"] for panel in value["panels"]] == panels and value["none"] == ""
    assert value["panels"][-1]["title"] == "minmax w4a4" and value["panels"][0]["note"] == "toy (no. 0)"
    assert set(value[key]) >= {"float", "quantized"}
    assert words in answers.verdict(make())


def test_right_pixels_are_those_that_somebody_knows():
    # of 15 known pixels the float model has all, the quantized one misses one
    assert "<b>100.0\u00a0%</b> for the float model, <b>93.3\u00a0%</b> for the quantized model" in answers.verdict(
        segmented()
    )


def test_names_are_escaped():
    rows = np.array([[0, 1.0]], np.float32)
    said = {"truth": None, "answers": {"float": {"predicted": "<b>", "confidence": 1.0}, "quantized": None}}
    one = result("classification", ["<b>"], said, exact=rows)
    assert "&lt;b&gt;" in answers.verdict(one) and json.loads(answers.answers(one, ""))["none"] == answers.NONE


def test_attention_says_what_any_model_sees():
    assert (
        answers.takes({"predicted": 3, "confidence": 0.5})
        == "The model takes the image for <b>class 3</b> (50\u00a0%)."
    )
    assert answers.takes({"objects": []}) == "The model sees: no object."
    assert "diffusion time 0.5" in answers.takes({"speed": 0.45})


@unpoisoned
def test_what_was_quantized_is_offered_newest_first(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setenv("OURO_HOME", str(tmp_path))
    assert tasks.choices("vim_nano") == [(tasks.ALONE, "")]
    for bits in ("w8a8", "w4a4"):
        finish(engine.quantize_job(model="vim_nano", method="minmax", bits=bits, calib=calib.real("vim_nano", 4)))
    (_, none), (newest, path), (older, _) = tasks.choices("vim_nano")
    assert (none, newest, older) == ("", "minmax w4a4 · 4 real images", "minmax w8a8 · 4 real images")
    assert [entry["bits"] for entry in stored.quantized("vim_nano")] == ["w4a4", "w8a8"]
    assert not stored.quantized("vmamba_nano"), "files of another model are not offered"
    monkeypatch.setattr(engine, "digest", lambda model: "other")
    assert not stored.quantized("vim_nano"), "nor those of other weights"
    monkeypatch.undo()
    answered = engine.answered(model="vim_nano", beside=path, sample=1, data="scenes")
    assert answered.values["beside"]["bits"] == "w4a4" and answered.values["model"] == "vim_nano"


@unpoisoned
def test_pictures_of_many_objects_are_named():
    _, names = engine.images("vmamba_nano_seg", "scenes_seg", 0, 4)
    assert all(names) and any(", " in name for name in names) and not any("background" in name for name in names)
    assert engine.misfit("vmamba_nano_seg", "scenes").startswith("scenes has one class per image")


@pytest.mark.full
def test_a_model_is_quantized_and_compared_in_place(visit: Visit):
    page = visit.page
    visit.open("Tasks")
    page.wait_for_selector("#wb-tasks-answers .wb-panels")
    assert "Nothing is compared with" in page.inner_text("#wb-tasks-answers")
    page.locator("#wb-tasks-go").click()
    assert visit.ended("wb-tasks-job").startswith("done")
    page.wait_for_selector("#wb-tasks-answers-quantized")
    assert "minmax w4a4 · 16 real images" in page.input_value("#wb-tasks-beside input")
    page.locator("#wb-tasks-images button").nth(2).click()
    visit.until_label("wb-tasks-answers-image", "(no. 2)")
    assert "minmax w4a4" in page.inner_text("#wb-tasks-verdict")


def look_at(visit: Visit, model: str) -> None:
    """Opens a model on Start, which leads to Attention, and then Tasks."""
    visit.open("Start")
    # the first list of models takes its time on busy cores
    visit.page.locator(f"#wb-start-models [data-act=open][data-name={model}]").click(timeout=180_000)
    visit.page.locator("#wb-attention-images").wait_for()
    visit.open("Tasks")


@pytest.mark.full
def test_a_segmenter_is_read_by_keyboard(visit: Visit):
    page = visit.page
    look_at(visit, "vmamba_nano_seg")
    page.wait_for_selector("#wb-tasks-answers-truth")
    page.locator("#wb-tasks-answers-float").focus()
    page.keyboard.press("ArrowRight")
    page.get_by_text("row 48, column 49: truth ").wait_for()
    page.locator("#wb-tasks-answers [role=radio][aria-checked=true]").focus()
    page.keyboard.press("ArrowRight")
    assert page.get_by_role("radio", name="Wrong", exact=True).get_attribute("aria-checked") == "true"


@pytest.mark.full
def test_boxes_are_shown_beside_those_of_the_truth(visit: Visit):
    look_at(visit, "vmamba_nano_det")
    visit.page.get_by_text("Boxes from score").wait_for()
    assert "Truth: " in visit.label("wb-tasks-answers-truth")


@pytest.mark.full
def test_a_denoiser_is_followed_from_noise_to_a_picture(visit: Visit):
    page = visit.page
    look_at(visit, "zigma_nano")
    page.get_by_text("step 10 of 10").wait_for()
    page.locator("#wb-tasks-answers .wb-play").focus()
    page.keyboard.press("Home")
    page.get_by_text("Diffusion time 0.00").wait_for()
    page.locator("#wb-tasks-answers .wb-film button").nth(5).click()
    page.get_by_text("step 5 of 10").wait_for()
    assert page.locator("#wb-tasks-answers .wb-film button[aria-current=true]").count() == 1
    visit.number("wb-tasks-seed", 1)
    page.get_by_text("step 5 of 10").wait_for()


@pytest.mark.full
def test_the_tab_fits_a_phone(server: str, browser):
    visit = Visit(browser, server, width=390, height=844, theme="dark")
    visit.open("Tasks")
    visit.page.wait_for_selector("#wb-tasks-answers .wb-panels")
    visit.page.wait_for_timeout(500)
    assert visit.page.evaluate("document.documentElement.scrollWidth") <= 390
    visit.page.close()
    assert not visit.wrong, "\n".join(visit.wrong)
