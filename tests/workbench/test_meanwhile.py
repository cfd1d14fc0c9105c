"""What a job has found is drawn for what the page shows by then: its model may have been changed meanwhile."""

from __future__ import annotations

import pytest

from tests.browsing import Visit


def choose_model(visit: Visit, name: str) -> None:
    visit.page.locator("#wb-model input").click()
    visit.page.locator(f'li[role=option][aria-label="{name}"]').click()


def at_work(visit: Visit, bar: str) -> None:
    visit.page.locator(f"#{bar} .wb-job:is([data-state=running], [data-state=waiting])").wait_for()


def text(visit: Visit, elem_id: str) -> str:
    # what comes after the bar has a second to come
    visit.page.wait_for_timeout(1500)
    return visit.page.inner_text(f"#{elem_id}")


def test_a_model_that_was_changed_while_a_job_ran_keeps_its_own_answers(server, browser):
    visit = Visit(browser, server, query="tab=tasks&model=vim_nano&image=3")
    visit.page.locator("#wb-tasks-verdict b").first.wait_for()
    visit.page.locator("#wb-tasks-go").click()
    at_work(visit, "wb-tasks-job")
    choose_model(visit, "vmamba_nano_seg")
    assert visit.ended("wb-tasks-job").startswith("done")
    # a classifier takes an image for something, of a segmenter pixels are right
    visit.page.locator("#wb-tasks-verdict").get_by_text("Right are").wait_for()
    assert "takes it for" not in text(visit, "wb-tasks-verdict")
    assert visit.page.input_value("#wb-tasks-beside input").startswith("Nothing")
    # and what was made is there for the model that it was made of
    choose_model(visit, "vim_nano")
    visit.page.locator("#wb-tasks-verdict").get_by_text("minmax w4a4").wait_for()
    visit.page.close()


def test_a_score_is_drawn_for_its_own_model_alone(server, browser):
    visit = Visit(browser, server, query="tab=attention&model=vim_nano&layer=2")
    visit.until_label("wb-attention-h", "layer 2")
    visit.number("wb-attention-n", 30)
    visit.page.locator("#wb-attention-score").click()
    at_work(visit, "wb-attention-job")
    choose_model(visit, "mambavision_nano")
    assert visit.ended("wb-attention-job").startswith("done")
    assert "images, window" not in text(visit, "wb-attention-scores")
    choose_model(visit, "vim_nano")
    visit.page.locator("#wb-attention-scores").get_by_text("30 images, window").wait_for()
    visit.page.close()


@pytest.mark.full
def test_a_scan_is_drawn_for_its_own_model_alone(server, browser):
    visit = Visit(browser, server, query="tab=sensitivity&model=vim_nano&limit=20&kind=noise")
    visit.page.locator("#wb-sensitivity-go").click()
    at_work(visit, "wb-sensitivity-job")
    choose_model(visit, "vmamba_nano")
    assert visit.ended("wb-sensitivity-job").startswith("done")
    assert "vim_nano" not in text(visit, "wb-sensitivity-verdict")
    choose_model(visit, "vim_nano")
    visit.page.locator("#wb-sensitivity-verdict").get_by_text("vim_nano").wait_for()
    visit.page.close()
