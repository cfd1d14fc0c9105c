"""Published weights: bytes as they come, a cancellation that leaves nothing, and one line where there is no network."""

from __future__ import annotations

import http.server
import threading
import time
from collections.abc import Iterator
from dataclasses import replace
from hashlib import sha256
from pathlib import Path

import pytest

from ouro.jobs.download import DownloadSpec, download, is_here
from ouro.models import zoo
from ouro.progress import drive, finish
from ouro.types import ModelSource

CONTENT = bytes(range(256)) * 4096


@pytest.fixture
def slow(tmp_path, monkeypatch) -> Iterator[tuple[str, Path]]:
    """(address of a server that sends 1 MB in sixteen parts, the folder where downloads are kept)."""
    monkeypatch.setenv("OURO_HOME", str(tmp_path))

    class Handler(http.server.BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            self.send_response(200)
            if "unmeasured" not in self.path:
                self.send_header("Content-Length", str(len(CONTENT)))
            self.end_headers()
            step = len(CONTENT) // 16
            try:
                for start in range(0, len(CONTENT), step):
                    self.wfile.write(CONTENT[start : start + step])
                    time.sleep(0.02)
            except (BrokenPipeError, ConnectionResetError):
                pass

        def log_message(self, *_: object) -> None:
            pass

    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), Handler) as web:
        thread = threading.Thread(target=web.serve_forever)
        thread.start()
        yield f"http://127.0.0.1:{web.server_port}", tmp_path
        web.shutdown()
        thread.join()


def kept(home: Path) -> list[str]:
    return [path.name for path in home.rglob("*") if path.is_file()]


def published_at(url: str, monkeypatch) -> None:
    """Makes vim_nano a model whose weights are published at this address."""
    monkeypatch.setattr(zoo, "vim_nano", replace(zoo.vim_nano, weights=url, embedded=False))


def test_bytes_are_reported_as_they_come(slow, monkeypatch) -> None:
    address, home = slow
    name = f"w-{sha256(CONTENT).hexdigest()[:8]}.pth"
    published_at(f"{address}/{name}", monkeypatch)
    assert not is_here("vim_nano")
    updates = []
    report = drive(download(DownloadSpec("vim_nano")), updates.append)
    assert len(updates) > 4 and {update.total for update in updates} == {len(CONTENT)}
    steps = [update.step for update in updates]
    assert steps == sorted(steps) and steps[-1] == len(CONTENT)
    assert updates[-1].message == "1.0 of 1.0 MB"
    values = report.values
    assert values["model"] == "vim_nano" and values["source"] == f"{address}/{name}" and values["bytes"] == len(CONTENT)
    assert values["revision"] == sha256(CONTENT).hexdigest()[:12]
    assert Path(values["path"]).read_bytes() == CONTENT and kept(home) == [name]
    assert is_here("vim_nano")
    # what is here is not fetched again
    assert drive(download(DownloadSpec("vim_nano")), lambda update: pytest.fail("downloaded twice")).values["bytes"]


def test_a_server_that_gives_no_length_is_shown_without_a_share(slow) -> None:
    address, _ = slow
    updates = []
    drive(download(DownloadSpec(ModelSource("vim_nano", f"{address}/unmeasured.pth"))), updates.append)
    assert {(update.step, update.total) for update in updates} == {(0, 0)} and updates[-1].message == "1.0 MB"


def test_cancelled_it_leaves_nothing(slow, monkeypatch) -> None:
    address, home = slow
    published_at(f"{address}/w.pth", monkeypatch)
    job = download(DownloadSpec("vim_nano"))
    while next(job).step < len(CONTENT) // 4:
        pass
    assert [name for name in kept(home) if name.endswith(".part")]
    job.close()
    assert kept(home) == [] and not is_here("vim_nano")


def test_another_content_than_the_name_says_is_refused(slow, monkeypatch) -> None:
    address, home = slow
    published_at(f"{address}/w-0123abcd.pth", monkeypatch)
    with pytest.raises(ValueError, match=r"its SHA-256 is \w{12}, its name says 0123abcd; download it by hand"):
        finish(download(DownloadSpec("vim_nano")))
    assert kept(home) == []


def test_offline_is_one_line(monkeypatch, tmp_path) -> None:
    monkeypatch.setenv("OURO_HOME", str(tmp_path))
    published_at("http://127.0.0.1:9/w.pth", monkeypatch)
    with pytest.raises(ValueError) as error:
        finish(download(DownloadSpec("vim_nano")))
    assert str(error.value).startswith("cannot download http://127.0.0.1:9/w.pth: ") and "\n" not in str(error.value)
    # of the hub, whose client the tests keep offline
    with pytest.raises(ValueError) as error:
        finish(download(DownloadSpec("vim_tiny_patch16_224")))
    assert "\n" not in str(error.value) and str(error.value).endswith("download it by hand and give its path")


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("vim_nano", "the weights of vim_nano come with this package; there is nothing to download"),
        ("localvim_small", "the weights of localvim_small were never published; there is nothing to download"),
        ("vim_nono", "unknown model 'vim_nono'"),
    ],
)
def test_what_cannot_be_downloaded_is_reported(name, message) -> None:
    with pytest.raises(ValueError, match=message):
        finish(download(DownloadSpec(name)))
