"""A person with a model and pictures of their own, in a browser: from Start through every tab, without editing a file."""

from __future__ import annotations

import pickle
from pathlib import Path

import pytest
import torch
from PIL import Image

from ouro.data import load
from ouro.models import create_model
from tests.browsing import Visit

pytestmark = pytest.mark.unpoisoned
ALIAS = "bees.pth (vim_tiny_patch16_224)"


@pytest.fixture(scope="module")
def brought(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """bees.pth, a Vim of a size of its own as a training script saves it, and 40 JPEGs in seven folders."""
    folder = tmp_path_factory.mktemp("brought")
    torch.manual_seed(0)
    model = create_model("vim_tiny_patch16_224", width=80, depth=5, num_classes=7, image=48)
    torch.save({"model": {f"module.{key}": value for key, value in model.state_dict().items()}}, folder / "bees.pth")
    scenes = load("scenes", split="test", size=96).images(0, 40)[0]
    for number, scene in enumerate(scenes):
        place = folder / "garden" / f"kind{number % 7}"
        place.mkdir(parents=True, exist_ok=True)
        Image.fromarray(scene.permute(1, 2, 0).numpy()).resize((160, 120)).save(place / f"p{number:02d}.jpg")
    return folder


@pytest.fixture
def page(visit: Visit):
    visit.page.wait_for_selector("#wb-start-health li", timeout=180_000)
    # comes with the list of what was brought before, which is drawn by the next frame
    visit.page.wait_for_selector("#wb-start-folder-add")
    visit.page.wait_for_timeout(300)
    return visit.page


def dropdown(page, elem_id: str) -> str:
    """What a dropdown shows."""
    return page.locator(f"#{elem_id} input").input_value()


def choose(page, elem_id: str, words: str) -> None:
    page.locator(f"#{elem_id} input").click()
    page.get_by_role("option", name=words, exact=True).click()


class Hostile:
    def __reduce__(self):
        return print, ("run",)


def test_a_broken_file_of_each_kind_gives_one_line(page, tmp_path: Path):
    (tmp_path / "empty.pth").write_bytes(b"")
    (tmp_path / "text.pth").write_text("this is no checkpoint")
    (tmp_path / "hostile.pth").write_bytes(pickle.dumps({"model": Hostile()}))
    torch.save({"conv1.weight": torch.zeros(3, 3), "fc.weight": torch.zeros(2, 2)}, tmp_path / "resnet.pth")
    said = page.locator("#wb-start-model-said [role=alert]")
    for name, words in (
        ("empty", "empty.pth is empty"),
        ("text", "text.pth is no readable checkpoint (torch.save did not write it)"),
        ("hostile", "hostile.pth holds more than tensors and was not opened"),
        ("resnet", "resnet.pth looks like none of Vim, VMamba"),
    ):
        page.fill("#wb-start-model-path textarea, #wb-start-model-path input", str(tmp_path / f"{name}.pth"))
        page.locator("#wb-start-model-read").click()
        said.get_by_text(words).wait_for()
        assert said.count() == 1 and "\n" not in said.inner_text() and "Traceback" not in page.inner_text("body")
    assert page.locator("#wb-start-own article").count() == 0
    page.fill("#wb-start-folder textarea, #wb-start-folder input", str(tmp_path / "nowhere"))
    page.locator("#wb-start-folder-add").click()
    page.get_by_text("nowhere does not exist").first.wait_for()


@pytest.mark.full
def test_a_model_and_pictures_go_through_every_tab(visit: Visit, page, brought: Path):
    # ---- start: an upload, and a folder of this machine
    page.locator("#wb-start-model-file input[type=file]").set_input_files(brought / "bees.pth")
    card = page.locator("#wb-start-own article")
    card.get_by_text(ALIAS, exact=True).wait_for()
    for words in ("48×48", "vim_tiny_patch16_224", "359 k", "All 92 tensors matched. Found under 'model'."):
        assert words in card.inner_text(), words
    page.fill("#wb-start-folder textarea, #wb-start-folder input", str(brought / "garden"))
    page.locator("#wb-start-folder-add").click()
    pictures = page.locator("#wb-start-pictures article")
    pictures.get_by_text("40 pictures of 7 classes").wait_for()
    assert pictures.locator("img").count() == 8

    # ---- attention
    card.get_by_role("button", name=f"Open {ALIAS}").click()
    visit.until_label("wb-attention-input", "kind0 (no. 0)")
    assert dropdown(page, "wb-model") == ALIAS and dropdown(page, "wb-attention-data") == "garden"
    page.locator("#wb-attention-verdict").get_by_text("class ").wait_for()
    page.locator("#wb-attention-hint").get_by_text("160×120 pixels, seen at 48×48").wait_for()
    page.locator("#wb-attention-images button").nth(7).click()
    visit.until_label("wb-attention-input", "kind1 (no. 7)")
    page.locator("#wb-attention-more").click()
    visit.until_label("wb-attention-input", "(no. 12)")
    visit.number("wb-attention-layer", 4)
    visit.until_label("wb-attention-h", "layer 4")

    # ---- samples
    visit.open("Samples")
    page.get_by_label("Class loss only").check()
    visit.number("wb-samples-num", 4)
    visit.number("wb-samples-steps", 10)
    page.wait_for_selector("#wb-samples-go:not([disabled])")
    page.locator("#wb-samples-go").click()
    assert visit.ended("wb-samples-job").startswith("done")
    assert ALIAS in dropdown(page, "wb-samples-sets")
    page.wait_for_selector("#wb-samples-gallery img")

    # ---- quantize, on the set that was made and on the pictures
    page.locator("#wb-samples-use").click()
    page.wait_for_selector("#wb-quantize-set input")
    assert ALIAS in dropdown(page, "wb-quantize-set") and dropdown(page, "wb-quantize-measured") == "garden: accuracy"
    page.get_by_label("OuroMamba-Quant").uncheck()
    page.locator("#wb-quantize-go").click()
    assert visit.ended("wb-quantize-job").startswith("done")
    page.locator("#wb-quantize-calib").get_by_label("garden").check()
    visit.number("wb-quantize-count", 16)
    page.wait_for_selector("#wb-quantize-go:not([disabled])")
    page.locator("#wb-quantize-go").click()
    page.locator("#wb-quantize-grid").get_by_text("16 garden").wait_for()
    rows = page.locator("#wb-quantize-grid tr.wb-own").all_inner_texts()
    assert len(rows) == 2 and all("40" in row and "%" in row for row in rows), rows
    assert page.locator("#wb-quantize-grid select[data-key=model]").input_value() == ALIAS
    page.wait_for_selector("#wb-quantize-chart .main-svg")

    # ---- outliers
    visit.open("Outliers")
    visit.until_label("wb-outliers-step-map", "10 time steps by 80 channels")
    assert "from 16 images" in page.inner_text("#wb-outliers-facts")
    page.locator("#wb-outliers-images button").nth(3).click()
    page.locator("#wb-outliers-upload").wait_for()

    # ---- sensitivity
    visit.open("Sensitivity")
    visit.number("wb-sensitivity-count", 8)
    page.locator("#wb-sensitivity-go").click()
    assert visit.ended("wb-sensitivity-job").startswith("done")
    page.locator("#wb-sensitivity-verdict").get_by_text(ALIAS).wait_for()

    # ---- both survive a reload, and so does what was being looked at
    visit.reload()
    # on Start, which is not the tab that was open
    page.locator("#wb-start-own article").get_by_text(ALIAS, exact=True).wait_for(state="attached")
    page.locator("#wb-start-pictures article").get_by_text("40 pictures of 7 classes").wait_for(state="attached")
    page.wait_for_function("alias => document.querySelector('#wb-model input').value === alias", arg=ALIAS)
    visit.open("Attention")
    visit.until_label("wb-attention-input", "kind0 (no. 0)")

    # ---- the same pictures before an embedded model
    choose(page, "wb-model", "vim_nano")
    visit.until_label("wb-attention-input", "heart (no. 0)")
    choose(page, "wb-attention-data", "garden")
    visit.until_label("wb-attention-input", "kind0 (no. 0)")
    page.locator("#wb-attention-hint").get_by_text("vim_nano was trained on scenes").wait_for()
    choose(page, "wb-attention-data", "Held-out images")
    visit.until_label("wb-attention-input", "heart (no. 0)")
    page.wait_for_function("() => !document.querySelector('#wb-attention-hint').innerText.trim()")


@pytest.mark.full
def test_pictures_can_be_uploaded_and_what_was_brought_removed(visit: Visit, page, brought: Path, tmp_path: Path):
    files = sorted((brought / "garden" / "kind0").iterdir())[:3]
    page.locator("#wb-start-files input[type=file]").set_input_files(files)
    card = page.locator("#wb-start-pictures article", has_text="Uploaded pictures")
    card.get_by_text("3 pictures, without labels").wait_for()
    visit.open("Attention")
    choose(page, "wb-attention-data", "Uploaded pictures")
    visit.until_label("wb-attention-input", "p00 (no. 0)")
    visit.open("Start")
    card.get_by_role("button", name="Remove Uploaded pictures").press("Enter")
    card.wait_for(state="detached")
    # the picture that was looked at is gone, and the model's own are there
    visit.open("Attention")
    visit.until_label("wb-attention-input", "heart (no. 0)")
    visit.open("Start")
    for card in page.locator("#wb-start-own article").all():
        card.get_by_role("button", name="Remove").click()
    page.locator("#wb-start-own article").first.wait_for(state="detached")


@pytest.mark.full
def test_without_any_picture_it_is_said_what_to_do(visit: Visit, page, brought: Path):
    for article in page.locator("#wb-start-pictures article").all():
        article.get_by_role("button", name="Remove").click()
        article.wait_for(state="detached")
    page.fill("#wb-start-model-path textarea, #wb-start-model-path input", str(brought / "bees.pth"))
    page.locator("#wb-start-model-read").click()
    page.locator("#wb-start-own article").get_by_role("button", name="Open").click()
    words = "do not come along: add pictures of yours on Start, or upload one here"
    page.locator("#wb-attention-verdict").get_by_text(words).wait_for()
    assert not page.locator("#wb-attention-board canvas").first.is_visible()
    # a single picture is enough to look at
    one = next((brought / "garden" / "kind3").iterdir())
    visit.open("Outliers")
    page.locator("#wb-outliers-facts").get_by_text(words).wait_for()
    page.locator(".wb-sideways input[type=file]").last.set_input_files(one)
    visit.until_label("wb-outliers-step-map", "10 time steps by 80 channels")
    assert "from this image alone" in page.inner_text("#wb-outliers-facts")
    visit.open("Start")
    page.locator("#wb-start-own article").get_by_role("button", name="Remove").click()
    page.wait_for_function("() => document.querySelector('#wb-model input').value === 'vim_nano'")


def test_an_official_model_offline_is_one_line(page):
    page.get_by_role("button", name="Official models").click()
    row = page.locator("#wb-start-official tr", has_text="vim_tiny_patch16_224")
    row.get_by_role("button", name="Download vim_tiny_patch16_224").press("Enter")
    bar = page.locator("#wb-start-job [data-state=failed]")
    bar.wait_for()
    assert "download it by hand and give its path" in bar.inner_text() and "Traceback" not in bar.inner_text()
    assert page.locator("#wb-start-official button[data-act=cancel]").count() == 0
