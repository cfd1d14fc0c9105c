"""Downloads: whole or not there, kept per address, checked against the hash in their name, and clear when they fail."""

from __future__ import annotations

import http.server
import threading
import time
from dataclasses import replace
from hashlib import sha256
from pathlib import Path

import huggingface_hub
import pytest
import timm
import torch
from huggingface_hub.errors import LocalEntryNotFoundError

from ouro.models import create_model, load_checkpoint, zoo
from ouro.models.download import at_hand, cached, content_digest, locate, locating

CONFIG = {"depth": 1, "image": 16, "patch": 4, "stride": 4, "width": 16, "num_classes": 5}


@pytest.fixture
def server(tmp_path, monkeypatch):
    """(address, its folder, the paths that were asked for); downloads are kept in a folder of the test."""
    folder, asked = tmp_path / "served", []
    folder.mkdir()
    monkeypatch.setenv("OURO_HOME", str(tmp_path / "home"))

    class Handler(http.server.BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            asked.append(self.path)
            file = folder / self.path.lstrip("/")
            if not file.is_file():
                return self.send_error(404)
            content = file.read_bytes()
            self.send_response(200)
            self.send_header("Content-Length", str(len(content)))
            self.end_headers()
            self.wfile.write(content[: len(content) // 2] if "cut" in self.path else content)

        def log_message(self, *_: object) -> None:
            pass

    with http.server.HTTPServer(("127.0.0.1", 0), Handler) as web:
        thread = threading.Thread(target=web.serve_forever)
        thread.start()
        yield f"http://127.0.0.1:{web.server_port}", folder, asked
        web.shutdown()
        thread.join()


@pytest.fixture
def other():
    return create_model("vim_nano", **CONFIG)


def kept(home: Path) -> list[str]:
    return [path.name for path in home.rglob("*") if path.is_file()]


def test_a_url_is_downloaded_once(server, other, tmp_path) -> None:
    address, folder, asked = server
    torch.save({"model": other.state_dict()}, folder / "x.pth")
    url = f"{address}/x.pth"
    for _ in range(2):
        model = load_checkpoint(create_model("vim_nano", **CONFIG), url)
        assert torch.equal(model.head.weight, other.head.weight)
    assert asked == ["/x.pth"] and kept(tmp_path / "home") == ["x.pth"]
    assert model.loaded_from.source == url and model.loaded_from.container == "model"
    assert model.loaded_from.revision == sha256((folder / "x.pth").read_bytes()).hexdigest()[:12]


def test_a_model_whose_weights_are_a_url_is_built_by_timm(server, other, monkeypatch) -> None:
    address, folder, _ = server
    torch.save(other.state_dict(), folder / "x.pth")
    entry = replace(zoo.vim_nano, config=other.config, weights=f"{address}/x.pth", embedded=False)
    monkeypatch.setattr(zoo, "vim_nano", entry)
    model = timm.create_model("vim_nano", pretrained=True)
    assert torch.equal(model.head.weight, other.head.weight) and model.loaded_from.source == entry.weights


def test_the_same_name_at_another_address_is_another_file() -> None:
    first, second = cached("https://a.org/v1/model.pth"), cached("https://a.org/v2/model.pth")
    assert first != second and first.name == second.name == "model.pth"


def test_the_cache_is_in_our_home_or_torchs(monkeypatch, tmp_path) -> None:
    monkeypatch.setenv("OURO_HOME", str(tmp_path))
    monkeypatch.setenv("TORCH_HOME", str(tmp_path / "torch"))
    assert cached("https://a.org/%23v2/x%20y.pth").parents[1] == tmp_path / "checkpoints"
    monkeypatch.delenv("OURO_HOME")
    assert cached("https://a.org/%23v2/x%20y.pth").parents[1] == tmp_path / "torch" / "hub" / "checkpoints"
    assert cached("https://a.org/%23v2/x%20y.pth").name == "x y.pth"


@pytest.mark.parametrize(
    ("file", "reason"),
    [
        ("missing.pth", "HTTP Error 404: Not Found"),
        ("cut.pth", "the connection ended after 50 of 100 bytes"),
        ("x-0123abcd.pth", "its SHA-256 is cd00e292c597, its name says 0123abcd"),
    ],
    ids=["missing", "cut", "hash"],
)
def test_a_failed_download_is_one_line_and_leaves_nothing(server, file, reason, tmp_path) -> None:
    address, folder, _ = server
    if file != "missing.pth":
        (folder / file).write_bytes(bytes(100))
    with pytest.raises(ValueError) as error:
        locate(f"{address}/{file}")
    assert str(error.value) == f"cannot download {address}/{file}: {reason}; download it by hand and give its path"
    assert kept(tmp_path / "home") == []


def test_the_hash_in_a_name_is_accepted_where_it_is_right(server) -> None:
    address, folder, _ = server
    (folder / "x-cd00e292.pth").write_bytes(bytes(100))
    assert content_digest(locate(f"{address}/x-cd00e292.pth")[0]) == "cd00e292c597"


def test_without_a_network_the_way_out_is_named(monkeypatch, tmp_path) -> None:
    monkeypatch.setenv("OURO_HOME", str(tmp_path))
    # nothing listens there
    with pytest.raises(ValueError) as error:
        locate("http://127.0.0.1:9/x.pth")
    assert str(error.value) == (
        "cannot download http://127.0.0.1:9/x.pth: [Errno 111] Connection refused; download it by hand and give its path"
    )


def test_a_hub_file_has_the_commit_it_was_taken_from(monkeypatch, tmp_path, other) -> None:
    commit, calls = "0123456789abcdef0123456789abcdef01234567", []
    path = tmp_path / "models--org--name" / "snapshots" / commit / "sub" / "x.pth"
    path.parent.mkdir(parents=True)
    torch.save(other.state_dict(), path)

    def download(repository: str, file: str, revision: str | None = None, **_: object) -> str:
        calls.append((repository, file, revision))
        return str(path)

    monkeypatch.setattr(huggingface_hub, "hf_hub_download", download)
    for at, revision in (("", None), ("@v1.0", "v1.0")):
        model = load_checkpoint(create_model("vim_nano", **CONFIG), f"org/name:sub/x.pth{at}")
        assert model.loaded_from.revision == commit and model.loaded_from.source == f"org/name:sub/x.pth{at}"
        assert calls[-1] == ("org/name", "sub/x.pth", revision)


def test_a_hub_file_that_cannot_be_had_is_one_line(monkeypatch) -> None:
    def offline(*_: object, **__: object) -> str:
        raise LocalEntryNotFoundError("no such file in the cache\nand no network")

    monkeypatch.setattr(huggingface_hub, "hf_hub_download", offline)
    with pytest.raises(ValueError) as error:
        locate("org/name:x.pth@abc")
    assert str(error.value) == (
        "cannot download 'x.pth' of 'org/name' at 'abc': no such file in the cache; download it by hand and give its path"
    )


def hub_client(monkeypatch, path: Path, blocks: int = 50) -> list[str]:
    """A hub client that takes its time and shows it on a bar, as huggingface_hub's does; returns how it ended."""
    ends: list[str] = []

    def download(repository: str, file: str, revision: str | None = None, *, tqdm_class: type) -> str:
        try:
            with tqdm_class(total=10 * blocks, desc=file, unit="B") as bar:
                for _ in range(blocks):
                    time.sleep(0.01)
                    bar.update(10)
        except BaseException as error:
            ends.append(type(error).__name__)
            raise
        ends.append("whole")
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(b"weights")
        return str(path)

    monkeypatch.setattr(huggingface_hub, "hf_hub_download", download)
    return ends


def test_a_machine_without_a_network_says_so_at_once(monkeypatch, tmp_path) -> None:
    monkeypatch.setattr(huggingface_hub.constants, "HF_HUB_OFFLINE", False)
    # a host that no name server ever has, see RFC 6761
    monkeypatch.setattr(huggingface_hub.constants, "ENDPOINT", "https://hub.invalid")
    monkeypatch.setattr("ouro.models.download.getproxies", dict)

    def never(*_: object, **__: object) -> str:
        raise AssertionError("asked five times")

    monkeypatch.setattr(huggingface_hub, "hf_hub_download", never)
    words = "^cannot download 'x.pth' of 'org/name': no address is known for hub.invalid: this machine may be offline; download"
    with pytest.raises(ValueError, match=words):
        locate("org/name:x.pth")
    # what was downloaded before is there
    monkeypatch.setattr(huggingface_hub, "try_to_load_from_cache", lambda *_, **__: str(tmp_path / "abc" / "x.pth"))
    assert locate("org/name:x.pth") == (tmp_path / "abc" / "x.pth", "abc")
    # a proxy may know more
    monkeypatch.setattr("ouro.models.download.getproxies", lambda: {"https": "http://proxy"})
    with pytest.raises(ValueError, match="asked five times"):
        locate("org/name:x.pth")


def test_a_hub_file_reports_its_bytes(monkeypatch, tmp_path) -> None:
    path = tmp_path / "snapshots" / "0123abcd" / "x.pth"
    ends = hub_client(monkeypatch, path)
    sizes, job = [], locating("org/name:x.pth")
    with pytest.raises(StopIteration) as end:
        while True:
            progress = next(job)
            sizes.append(progress.step)
            assert progress.total in (0, 500)
    assert end.value.value == (path, "0123abcd") and ends == ["whole"]
    assert sizes == sorted(sizes) and sizes[-1] == 500 and len(set(sizes)) > 5
    assert progress.message == "0.0 of 0.0 MB"


def test_a_hub_file_is_given_up_at_its_next_block(monkeypatch, tmp_path) -> None:
    path = tmp_path / "snapshots" / "0123abcd" / "x.pth"
    ends = hub_client(monkeypatch, path, blocks=1000)
    job = locating("org/name:x.pth")
    while next(job).step < 30:
        pass
    job.close()
    for _ in range(100):
        if ends:
            break
        time.sleep(0.02)
    assert ends == ["_Stopped"] and not path.exists()


def test_what_is_at_hand_needs_no_network(server, monkeypatch, tmp_path) -> None:
    address, folder, asked = server
    (folder / "x.pth").write_bytes(bytes(100))
    assert not at_hand(f"{address}/x.pth") and asked == []
    locate(f"{address}/x.pth")
    assert at_hand(f"{address}/x.pth") and at_hand(str(folder / "x.pth"))
    monkeypatch.setattr(huggingface_hub, "try_to_load_from_cache", lambda *_, **__: None)
    assert not at_hand("org/name:x.pth")
    with pytest.raises(ValueError, match="no checkpoint at 'x.pth'; give a .safetensors or .pth file, a URL"):
        at_hand("x.pth")
