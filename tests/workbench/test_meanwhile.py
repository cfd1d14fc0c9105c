"""What a job has found is drawn for what the page shows by then: its model may have been changed meanwhile."""

from __future__ import annotations

from pathlib import Path
from shutil import copyfile

import numpy as np
import pytest
from safetensors import safe_open
from safetensors.numpy import save_file

from ouro.models.zoo import embedded_path
from tests.browsing import Visit


def choose_model(visit: Visit, name: str) -> None:
    visit.page.locator("#wb-model input").click()
    visit.page.locator(f'li[role=option][aria-label="{name}"]').click()


def change_meanwhile(visit: Visit, go: str, bar: str, model: str) -> None:
    """Starts a job, chooses another model while it is at work, and waits for its end."""
    visit.page.locator(f"#{go}").click()
    visit.page.locator(f"#{bar} .wb-job:is([data-state=running], [data-state=waiting])").wait_for()
    choose_model(visit, model)
    assert visit.ended(bar).startswith("done")


def text(visit: Visit, elem_id: str) -> str:
    # what comes after the bar has a second to come
    visit.page.wait_for_timeout(1500)
    return visit.page.inner_text(f"#{elem_id}")


@pytest.mark.full
def test_a_model_that_was_changed_while_a_job_ran_keeps_its_own_answers(server, browser):
    visit = Visit(browser, server, query="tab=tasks&model=vim_nano&image=3")
    visit.page.locator("#wb-tasks-verdict b").first.wait_for()
    change_meanwhile(visit, "wb-tasks-go", "wb-tasks-job", "vmamba_nano_seg")
    # a classifier takes an image for something, of a segmenter pixels are right
    visit.page.locator("#wb-tasks-verdict").get_by_text("Right are").wait_for()
    assert "takes it for" not in text(visit, "wb-tasks-verdict")
    assert visit.page.input_value("#wb-tasks-beside input").startswith("Nothing")
    # and what was made is there for the model that it was made of
    choose_model(visit, "vim_nano")
    visit.page.locator("#wb-tasks-verdict").get_by_text("minmax w4a4").wait_for()
    visit.page.close()


@pytest.mark.full
def test_a_score_is_drawn_for_its_own_model_alone(server, browser):
    visit = Visit(browser, server, query="tab=attention&model=vim_nano&layer=2")
    visit.until_label("wb-attention-h", "layer 2")
    visit.number("wb-attention-n", 30)
    change_meanwhile(visit, "wb-attention-score", "wb-attention-job", "mambavision_nano")
    assert "images, window" not in text(visit, "wb-attention-scores")
    choose_model(visit, "vim_nano")
    visit.page.locator("#wb-attention-scores").get_by_text("30 images, window").wait_for()
    visit.page.close()


@pytest.mark.full
def test_a_file_that_is_read_once_more_is_looked_at_once_more(server, browser, tmp_path: Path):
    path = tmp_path / "mine.safetensors"
    copyfile(embedded_path("vim_nano.safetensors"), path)
    visit = Visit(browser, server)
    page, alias = visit.page, "mine.safetensors (vim_nano)"

    def read() -> None:
        page.fill("#wb-start-model-path textarea, #wb-start-model-path input", str(path))
        page.locator("#wb-start-model-read").click()

    read()
    page.locator("#wb-start-own article").get_by_role("button", name=f"Open {alias}").click()
    visit.until_label("wb-attention-input", "(no. 0)")
    visit.number("wb-attention-n", 4)
    page.locator("#wb-attention-score").click()
    page.locator("#wb-attention-scores").get_by_text("4 images, window").wait_for()
    before = page.inner_text("#wb-attention-verdict")
    with safe_open(embedded_path("vim_nano.safetensors"), "np") as file:
        other = {name: file.get_tensor(name) * np.float32(1.1) for name in file.keys()}  # noqa: SIM118
        save_file(other, path, file.metadata())
    visit.open("Start")
    read()
    visit.open("Attention")
    page.wait_for_function("before => document.getElementById('wb-attention-verdict').innerText !== before", arg=before)
    page.locator("#wb-attention-scores").get_by_text("One image proves little").wait_for()
    assert page.input_value("#wb-model input") == alias
    page.close()


@pytest.mark.full
def test_a_scan_is_drawn_for_its_own_model_alone(server, browser):
    visit = Visit(browser, server, query="tab=sensitivity&model=vim_nano&limit=20&kind=noise")
    change_meanwhile(visit, "wb-sensitivity-go", "wb-sensitivity-job", "vmamba_nano")
    assert "vim_nano" not in text(visit, "wb-sensitivity-verdict")
    choose_model(visit, "vim_nano")
    visit.page.locator("#wb-sensitivity-verdict").get_by_text("vim_nano").wait_for()
    visit.page.close()
