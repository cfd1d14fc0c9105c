"""Uploads go with the session that holds them, and not before a job that may read them is over."""

from __future__ import annotations

import threading
import time
from pathlib import Path

import pytest
from gradio.utils import get_upload_folder
from PIL import Image

from ouro.types import Progress
from tests.browsing import Visit
from workbench import runner, uploads, who


@pytest.fixture
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("GRADIO_TEMP_DIR", str(tmp_path))
    assert Path(get_upload_folder()) == tmp_path
    return tmp_path


def uploaded(cache: Path, digest: str) -> str:
    path = cache / digest / "bee.png"
    path.parent.mkdir()
    path.write_bytes(b"picture")
    return str(path)


def gone(path: str) -> bool:
    for _ in range(100):
        if not Path(path).exists():
            return True
        time.sleep(0.02)
    return False


def test_an_upload_goes_with_the_last_session_that_holds_it(cache: Path):
    own, shared = uploaded(cache, "a"), uploaded(cache, "b")
    uploads.hold("one", own, shared)
    uploads.hold("two", shared, None)
    uploads.end("one")
    # the folder goes last
    assert gone(str(Path(own).parent)) and Path(shared).exists()
    uploads.forget("one", shared)
    assert Path(shared).exists(), "a session still holds it"
    uploads.end("two")
    assert gone(shared)


def test_nothing_but_uploads_is_deleted(cache: Path, tmp_path_factory: pytest.TempPathFactory):
    outside, held = tmp_path_factory.mktemp("elsewhere") / "weights.pth", uploaded(cache, "a")
    outside.write_bytes(b"mine")
    uploads.hold("one", str(outside), f"{cache}/../{outside.parent.name}/weights.pth", held)
    uploads.end("one")
    assert gone(held) and outside.read_bytes() == b"mine"


@pytest.mark.parametrize("cancelled", [False, True], ids=["to its end", "cancelled"])
def test_a_job_at_work_keeps_what_it_may_read(cache: Path, cancelled: bool):
    go, reads = threading.Event(), []
    mine, others = uploaded(cache, "a"), uploaded(cache, "b")

    def working():
        yield Progress(1, 2, "")
        go.wait(20)
        reads.append(Path(mine).read_bytes())
        yield Progress(2, 2, "")

    with who.being("bee"):
        job = runner.start("reading", working, computes=False)
        uploads.hold("one", mine)
        if cancelled:
            job.cancel()
        uploads.end("one")
    with who.being("wasp"):
        uploads.hold("two", others)
        uploads.end("two")
    assert gone(others), "somebody else's job keeps nothing of others"
    time.sleep(0.2)
    assert Path(mine).exists()
    go.set()
    assert gone(mine) and reads == [b"picture"]


@pytest.mark.full
def test_what_was_uploaded_to_look_at_is_gone_when_the_page_is_closed(server: str, browser, tmp_path: Path):
    Image.new("RGB", (61, 47), (200, 30, 30)).save(tmp_path / "only-here.png")
    visit = Visit(browser, server, query="tab=outliers&model=vim_nano")
    # what the address asks for is there: it would take the place of an upload that comes before it
    visit.until_label("wb-outliers-step-map", "time steps by")
    row = visit.page.locator("#wb-outliers-images").locator("xpath=ancestor::*[contains(@class, 'wb-pickrow')]")
    row.locator("input[type=file]").set_input_files(tmp_path / "only-here.png")
    visit.page.get_by_text("61×47 pixels").first.wait_for()
    (kept,) = Path(get_upload_folder()).glob("*/only-here.png")
    visit.page.close()
    for _ in range(300):
        if not kept.exists():
            break
        time.sleep(0.1)
    assert not kept.exists() and not visit.wrong
