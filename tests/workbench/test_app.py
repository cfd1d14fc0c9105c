"""The whole page: built in process, started by both commands, and walked through in a browser."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
import time
import urllib.request
from pathlib import Path

import pytest

from ouro.jobs.synthesize import SynthesisSpec, synthesize
from ouro.progress import finish
from tests.browsing import ROOT, Visit, started


def test_it_stays_on_this_machine():
    from workbench.app import LAUNCH

    assert LAUNCH["share"] is False and LAUNCH["server_name"] == "127.0.0.1"


def test_page_is_built_without_the_library():
    code = "import sys, workbench.app; print(*({'torch', 'timm', 'numba', 'matplotlib'} & set(sys.modules)))"
    result = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, check=True)
    assert result.stdout.strip() == ""


def test_first_view_belongs_to_the_weights():
    import json

    from workbench.first_view import MODEL, weights_digest

    stored = json.loads((ROOT / "workbench" / "first_view.json").read_text("utf-8"))
    assert stored["weights"] == weights_digest(MODEL), "run: python -m workbench.first_view"


@pytest.mark.parametrize("name", ["python", pytest.param("gradio", marks=pytest.mark.full)])
def test_both_commands_start_it(home: Path, name: str):
    command = shutil.which(name, path=f"{Path(sys.executable).parent}{os.pathsep}{os.environ.get('PATH', '')}")
    assert command is not None
    with started([command, "workbench/app.py"], home) as url, urllib.request.urlopen(f"{url}config") as answer:
        assert b"wb-attention-board" in answer.read()


@pytest.mark.full
def test_first_view_stands_before_anything_is_computed(visit: Visit):
    visit.page.locator("#wb-start-attention").click()
    visit.until_label("wb-attention-hp", "all directions")
    visit.open("Outliers")
    visit.until_label("wb-outliers-step-map", "197 time steps by 96 channels")
    visit.page.locator("#wb-outliers-step-map").press("End")
    visit.until_label("wb-outliers-step-map", "at step 196")
    visit.page.keyboard.press("PageUp")
    visit.until_label("wb-outliers-step-map", "at step 186")
    visit.page.keyboard.press(".")
    # plays, and stops again
    visit.page.keyboard.press("Space")
    visit.page.wait_for_function(
        "before => document.getElementById('wb-outliers-step-map').getAttribute('aria-label') !== before",
        arg=visit.label("wb-outliers-step-map"), polling=100,
    )  # fmt: skip
    visit.page.keyboard.press("Space")
    assert "at step 186" not in visit.label("wb-outliers-step-map")


def test_attention_follows_image_layer_and_patch(visit: Visit):
    visit.open("Attention")
    visit.until_label("wb-attention-h", "layer 3")
    visit.page.locator("#wb-attention-images button").nth(2).click()
    visit.until_label("wb-attention-input", "no. 2")
    visit.number("wb-attention-layer", 1)
    visit.until_label("wb-attention-h", "layer 1")
    visit.page.locator("#wb-attention-hp").click(position={"x": 5, "y": 5})
    visit.until_label("wb-attention-hp", "row 0, column 0")
    visit.page.locator(".wb-board .wb-row").fill("7")
    visit.page.locator(".wb-board .wb-col").fill("4")
    visit.until_label("wb-attention-h", "row 7, column 4")
    visit.number("wb-attention-n", 4)
    visit.page.locator("#wb-attention-score").click()
    assert visit.ended("wb-attention-job").startswith("done")
    visit.page.wait_for_selector("#wb-attention-scores .main-svg")


@pytest.mark.full
def test_bad_upload_is_reported_in_one_line(visit: Visit, tmp_path: Path):
    empty = tmp_path / "empty.png"
    empty.write_bytes(b"")
    broken = tmp_path / "broken.png"
    broken.write_bytes(b"this is no picture")
    visit.open("Attention")
    for path, words in ((broken, "is no picture that can be opened"), (empty, "empty")):
        visit.page.locator(".wb-sideways input[type=file]").first.set_input_files(path)
        visit.page.get_by_text(words).first.wait_for()


def test_a_set_is_made_kept_and_chosen(visit: Visit):
    page = visit.page
    visit.open("Samples")
    page.get_by_label("Gaussian noise").check()
    visit.number("wb-samples-num", 4)
    page.wait_for_selector("#wb-samples-go:not([disabled])")
    page.locator("#wb-samples-go").click()
    assert visit.ended("wb-samples-job").startswith("done")
    page.wait_for_selector("#wb-samples-gallery img")
    assert "noise · 4 images" in page.input_value("#wb-samples-sets input")
    page.wait_for_selector("#wb-samples-use:not([disabled])")


@pytest.mark.full
def test_outliers_follow_the_threshold(visit: Visit):
    visit.open("Outliers")
    before = visit.page.inner_text("#wb-outliers-facts")
    visit.number("wb-outliers-kappa", 5)
    visit.page.wait_for_function(
        "before => document.querySelector('#wb-outliers-facts').innerText !== before", arg=before
    )


@pytest.mark.full
def test_generated_set_calibrates_a_quantized_model(visit: Visit):
    visit.open("Samples")
    visit.number("wb-samples-num", 8)
    visit.number("wb-samples-steps", 500)
    visit.page.locator("#wb-samples-go").click()
    visit.page.wait_for_selector("#wb-samples-job [data-state=running]")
    began = time.monotonic()
    visit.page.locator("#wb-samples-cancel").click()
    visit.ended("wb-samples-job", "cancelled")
    # cancelled, not run to its end: 500 steps take minutes
    assert time.monotonic() - began < 30
    visit.page.get_by_label("Gaussian noise").check()
    visit.page.wait_for_selector("#wb-samples-go:not([disabled])")
    visit.page.locator("#wb-samples-go").click()
    assert visit.ended("wb-samples-job").startswith("done")
    visit.page.wait_for_selector("#wb-samples-gallery img")
    assert visit.page.locator("#wb-samples-gallery img").count() >= 8
    visit.page.locator("#wb-samples-use").click()
    visit.page.wait_for_selector("#wb-quantize-set input")
    visit.page.get_by_label("OuroMamba-Quant").uncheck()
    visit.page.get_by_role("button", name="Advanced").last.click()
    visit.number("wb-quantize-limit", 50)
    visit.page.locator("#wb-quantize-go").click()
    assert visit.ended("wb-quantize-job").startswith("done")
    row = visit.page.locator("#wb-quantize-grid tr.wb-own")
    row.wait_for()
    assert row.count() == 1 and "minmax" in row.inner_text() and "50" in row.inner_text()
    assert "noise · 8 images" in row.inner_text() and "synthetic" in row.inner_text()
    visit.page.wait_for_selector("#wb-quantize-chart .main-svg")


@pytest.mark.full
def test_generation_outlives_a_reload_a_pause_and_a_stop(server: str, browser, home: Path):
    finish(synthesize(SynthesisSpec("vim_nano", "noise", num=4, seed=9), root=home))
    visit = Visit(browser, server)
    page = visit.page
    visit.open("Samples")
    page.get_by_label("Class loss only").check()
    visit.number("wb-samples-num", 16)
    visit.number("wb-samples-steps", 30)
    page.wait_for_selector("#wb-samples-go:not([disabled])")
    page.locator("#wb-samples-go").click()
    page.wait_for_selector("#wb-samples-gallery img")
    page.locator("#wb-samples-pause").click()
    page.wait_for_selector("#wb-samples-job [data-state=paused]")
    visit.reload()
    visit.open("Samples")
    page.wait_for_selector("#wb-samples-job [data-state=paused]")
    assert "class · 16 images, 30 steps" in page.inner_text("#wb-samples-job")
    page.get_by_role("button", name="Continue", exact=True).click()
    page.locator("#wb-samples-job").get_by_text("images 9-16").wait_for()
    chosen = page.input_value("#wb-samples-sets input")
    page.locator("#wb-samples-cancel").click()
    visit.ended("wb-samples-job", "cancelled")
    page.wait_for_selector("#wb-samples-rest")
    assert chosen and page.input_value("#wb-samples-sets input") == chosen
    page.locator("#wb-samples-again").click()
    assert visit.ended("wb-samples-job").startswith("done")
    assert page.locator("#wb-samples-gallery img").count() >= 16
    page.wait_for_selector("#wb-samples-losses .main-svg")
    page.wait_for_selector("#wb-samples-rest", state="hidden")
    page.close()
    assert not visit.wrong, "\n".join(visit.wrong)


@pytest.mark.full
def test_sets_are_seen_side_by_side(visit: Visit, home: Path):
    for seed in (5, 6):
        finish(synthesize(SynthesisSpec("vim_nano", "noise", num=4, seed=seed), root=home))
    visit.reload()
    visit.open("Samples")
    several = visit.page.locator("#wb-samples-several input")
    for seed in (5, 6):
        several.click()
        visit.page.get_by_role("option", name=f"seed {seed} ").click()
    table = visit.page.locator("#wb-samples-beside table")
    table.get_by_text("Seed").wait_for()
    assert table.locator("img").count() == 8 and table.locator("img[alt='']").count() == 0
    assert "The same in all: model vim_nano" in visit.page.inner_text("#wb-samples-beside")
    visit.page.wait_for_selector("#wb-samples-shares .main-svg")


@pytest.mark.full
def test_only_the_settings_of_the_method_are_shown(visit: Visit):
    visit.open("Samples")
    visit.page.get_by_role("button", name="Advanced").first.click()
    for label, seen, hidden in (
        ("PSAQ", "#wb-samples-psaq-points", "#wb-samples-ouro-window"),
        ("CLAMP", "#wb-samples-clamp-window", "#wb-samples-psaq-points"),
    ):
        visit.page.get_by_label(label).check()
        visit.page.wait_for_selector(seen)
        visit.page.wait_for_selector(hidden, state="hidden")
    # the bar says what cannot be, and nothing of the form is lost
    visit.number("wb-samples-clamp-positives", 9)
    visit.page.locator("#wb-samples-go").click()
    assert "positives is 9, expected 1 to 8" in visit.ended("wb-samples-job", "failed")
    assert visit.page.input_value("#wb-samples-clamp-positives input") == "9"
    visit.page.get_by_label("Gaussian noise").check()
    visit.page.wait_for_selector("#wb-samples-steps", state="hidden")


@pytest.mark.full
def test_sensitivity_opens_with_a_stored_map_and_measures_another(visit: Visit):
    visit.open("Sensitivity")
    page = visit.page
    for part in ("map", "curve", "frontier"):
        page.wait_for_selector(f"#wb-sensitivity-{part} .main-svg")
    assert "200 held-out images" in page.inner_text("#wb-sensitivity-verdict")
    page.get_by_label("One after another").check()
    page.get_by_role("button", name="Advanced").last.click()
    visit.number("wb-sensitivity-limit", 20)
    visit.number("wb-sensitivity-count", 8)
    page.locator("#wb-sensitivity-go").click()
    assert visit.ended("wb-sensitivity-job").startswith("done")
    page.get_by_text("20 held-out images").wait_for()
    with page.expect_download() as download:
        page.locator("#wb-sensitivity-file").click()
    assert download.value.suggested_filename == "sensitivity-vim_nano-clipped-w4a4-lin-cumulative-group.csv"
    lines = Path(download.value.path()).read_text("utf-8").splitlines()
    assert lines[0].startswith("name,block,kind") and len(lines) == 13


@pytest.mark.full
def test_budget_is_refused_or_spent(visit: Visit):
    visit.open("Sensitivity")
    page = visit.page
    page.get_by_role("button", name="Advanced").last.click()
    visit.number("wb-sensitivity-limit", 20)
    visit.number("wb-sensitivity-count", 8)
    for width in ("3", "6"):
        page.locator("#wb-sensitivity-widths").get_by_label(width, exact=True).uncheck()
    visit.number("wb-sensitivity-budget", 3)
    page.locator("#wb-sensitivity-spend").click()
    assert "the smallest width to choose from is 4" in visit.ended("wb-sensitivity-paid", "failed")
    visit.number("wb-sensitivity-budget", 5)
    page.wait_for_selector("#wb-sensitivity-spend:not([disabled])")
    page.locator("#wb-sensitivity-spend").click()
    page.wait_for_selector("#wb-sensitivity-paid [data-state=running]")
    assert visit.ended("wb-sensitivity-paid").startswith("done")
    first = page.locator("#wb-sensitivity-budgets tbody tr").first
    first.get_by_text("4 8", exact=True).wait_for()
    assert first.locator("td").first.inner_text() == "5"


@pytest.mark.full
def test_kernel_is_checked_live_and_no_ratio_stands_without_its_gate(visit: Visit):
    from workbench import stored, times

    visit.open("Kernels")
    page = visit.page
    page.wait_for_selector("#wb-kernels-times .main-svg")
    # what the page says of kernels that nobody timed is what is stored
    assert ("not measured" in page.inner_text("#wb-kernels-unmeasured").lower()) == bool(
        times.unmeasured(stored.benchmarks())
    )
    for line in page.locator("#wb-kernels-rows tbody tr").all_inner_texts():
        assert "×" not in line or "passed" in line, line
    page.locator("#wb-kernels-which input").click()
    page.get_by_role("option", name="paired_linear", exact=True).click()
    page.get_by_text("x_proj of both directions").wait_for()
    page.locator("#wb-kernels-go").click()
    assert visit.ended("wb-kernels-job").startswith("done")
    page.get_by_text("All 9 cases passed").wait_for()
    rows = page.locator("#wb-kernels-cases tbody tr")
    assert rows.count() == 9 and all("passed" in line for line in rows.all_inner_texts())
    page.wait_for_selector("#wb-kernels-spread .main-svg")
    visit.reload()
    visit.open("Kernels")
    page.get_by_text("All 9 cases passed").wait_for()
    page.locator("#wb-kernels-which input").click()
    page.get_by_role("option", name="implicit_attention", exact=True).click()
    page.locator("#wb-kernels-go").click()
    page.wait_for_selector("#wb-kernels-job [data-state=running]")
    page.locator("#wb-kernels-cancel").click()
    visit.ended("wb-kernels-job", "cancelled")
