"""The row of pictures above a tab: uploads, pasted ones and noise, and what is said of each."""

from __future__ import annotations

import base64
from pathlib import Path

import gradio as gr
import numpy as np
import pytest
from PIL import ExifTags, Image

from tests.browsing import Visit
from workbench import engine, outliers, pictures


def picture(path: Path, width: int, height: int, mode: str = "RGB", **options) -> str:
    pixels = np.random.default_rng(0).integers(0, 256, (height, width, 4), dtype=np.uint8)
    Image.fromarray(pixels, "RGBA").convert(mode).save(path, **options)
    return str(path)


def upload(path: str) -> dict:
    return {**pictures.start("vim_nano"), "path": path}


def test_a_picture_that_is_too_small_is_refused_with_its_size(tmp_path: Path):
    assert engine.check_picture(picture(tmp_path / "least.png", 8, 8))
    for width, height in ((7, 90), (90, 7), (1, 1)):
        with pytest.raises(
            ValueError, match=rf"^small.png is {width}×{height} pixels; the least is 8×8, take a larger"
        ):
            engine.check_picture(picture(tmp_path / "small.png", width, height))


def test_what_the_opener_refuses_is_refused_at_once(tmp_path: Path):
    Image.fromarray(np.arange(400).reshape(20, 20).astype(np.uint16)).save(tmp_path / "deep.png")
    with pytest.raises(
        ValueError, match=r"^deep.png is no picture that can be opened \(pixels of mode I;16 are deeper"
    ):
        engine.check_picture(str(tmp_path / "deep.png"))


def test_the_hint_says_what_was_made_of_a_picture(tmp_path: Path):
    exif = Image.Exif()
    exif[ExifTags.Base.Orientation] = 6
    for options, words in (
        ((picture(tmp_path / "same.png", 56, 56)), "56×56 pixels."),
        ((picture(tmp_path / "turned.jpg", 90, 70, exif=exif)), "70×90 pixels, seen at 56×56."),
        ((picture(tmp_path / "luma.tif", 90, 70, "YCbCr")), "90×70 pixels, seen at 56×56."),
        ((picture(tmp_path / "small.png", 27, 90)), "27×90 pixels, enlarged to 56×56: too small for details."),
        ((picture(tmp_path / "half.png", 28, 28)), "28×28 pixels, seen at 56×56."),
        ((picture(tmp_path / "glass.png", 56, 56, "RGBA")), "56×56 pixels, transparent parts on white."),
    ):
        assert engine.check_picture(options) and pictures.scaled("vim_nano", upload(options)) == words


def test_a_picture_of_the_model_before_changes_nothing():
    with gr.Blocks() as page:
        chosen, words = gr.State({}), gr.HTML()
        row = pictures.Picker(chosen, gr.HTML(), gr.Dropdown())
        row.shows(lambda model, picture: {words: model}, [gr.State(""), chosen], [words], dim=[words], on=[])
    look = list(page.fns.values())[-1].fn
    assert look([], "vim_nano", pictures.start("vim_nano")) == {words: "vim_nano"}
    assert look([], "vmamba_nano_seg", pictures.start("vim_nano")) == {words: gr.skip()}


def test_noise_is_a_source_of_pictures():
    assert pictures.choices("vim_nano")[-1] == ("Noise", "noise")
    chosen = {**pictures.start("vim_nano", "noise"), "sample": 3}
    assert pictures.scaled("vim_nano", chosen) == "Gaussian noise of seed 3, 56×56 pixels."
    assert pictures.name_of("vim_nano", chosen) == "seed 3 (no. 3)"
    assert not np.array_equal(engine.picture("vim_nano", 3, data="noise"), engine.picture("vim_nano", 4, data="noise"))
    result = engine.outliers(**outliers.spec_of("vim_nano", chosen, 5, "in_proj", "forward", 3.0, 10))
    assert result.values["source"] == "noise 3" and outliers.player_value(result, "vim_nano", chosen)


def paste(visit: Visit, path: Path, kind: str) -> None:
    """What a browser does with Ctrl+V where the clipboard holds a picture."""
    visit.page.evaluate(
        """([text, type]) => {
          const given = new DataTransfer();
          given.items.add(new File([Uint8Array.from(atob(text), (c) => c.charCodeAt(0))], "image.png", { type }));
          document.body.dispatchEvent(new ClipboardEvent("paste", { clipboardData: given, bubbles: true, cancelable: true }));
        }""",
        [base64.b64encode(path.read_bytes()).decode(), kind],
    )


@pytest.mark.full
def test_a_pasted_picture_a_bad_upload_and_noise_are_shown_in_outliers(visit: Visit, tmp_path: Path):
    page = visit.page
    visit.open("Outliers")
    visit.until_label("wb-outliers-step-map", "197 time steps by 96 channels")
    before = visit.label("wb-outliers-step-map")
    field = page.locator("#wb-outliers-images").locator("xpath=ancestor::*[contains(@class, 'wb-pickrow')]")
    broken, small = tmp_path / "broken.png", tmp_path / "small.png"
    broken.write_bytes(b"this is no picture")
    picture(small, 7, 30)
    for path, words in ((broken, "broken.png is no picture"), (small, "small.png is 7×30 pixels; the least is 8×8")):
        field.locator("input[type=file]").set_input_files(path)
        page.get_by_text(words).first.wait_for()
    # what was refused leaves the picture and its lists as they were
    assert visit.label("wb-outliers-step-map") == before
    given = tmp_path / "pasted.png"
    picture(given, 20, 20, "RGBA")
    paste(visit, given, "image/png")
    page.get_by_text("20×20 pixels, enlarged to 56×56: too small for details, transparent parts on white.").wait_for()
    page.wait_for_function(
        "before => document.getElementById('wb-outliers-step-map').getAttribute('aria-label') !== before", arg=before
    )
    page.locator("#wb-outliers-data input").click()
    page.get_by_role("option", name="Noise", exact=True).click()
    page.locator("#wb-outliers-images").get_by_role("radio", name="seed 2").click()
    page.get_by_text("Gaussian noise of seed 2, 56×56 pixels.").wait_for()
