"""What stands between the page and the library: remembered results, uploads, and errors in one line."""

from __future__ import annotations

import io
import time
from concurrent.futures import ThreadPoolExecutor

import gradio as gr
import numpy as np
import pytest
from PIL import Image

from workbench import engine
from workbench.errors import guarded


def test_results_are_remembered_by_content(tmp_path):
    calls = []

    def make() -> engine.Result:
        calls.append(1)
        return engine.Result({"n": len(calls)})

    path = tmp_path / "picture"
    path.write_bytes(b"one")
    first = engine.remembered("test", {"image": str(path), "layer": 1}, make)
    assert engine.remembered("test", {"layer": 1, "image": str(path)}, make) is first
    path.write_bytes(b"two")
    assert engine.remembered("test", {"image": str(path), "layer": 1}, make).values == {"n": 2}
    assert engine.remembered("test", {"image": str(path), "layer": 2}, make).values == {"n": 3}


def test_a_picture_that_is_written_anew_is_seen_anew(tmp_path):
    """Its folder stays as it was."""
    folder, data = tmp_path / "pictures", f"folder:{tmp_path / 'pictures'}"
    folder.mkdir()
    for name, grey in (("a", 10), ("b", 200)):
        Image.new("RGB", (56, 56), (grey,) * 3).save(folder / f"{name}.png")

    def seen(sample: int) -> tuple[int, float]:
        spec = {"model": "vim_nano", "beside": "", "data": data, "sample": sample, "seed": 0, "steps": 10}
        answer = engine.answered(**spec).values["answers"]["float"]
        return int(engine.picture("vim_nano", sample, None, data)[0, 0, 0]), answer["confidence"]

    before, other = seen(0), seen(1)
    Image.new("RGB", (56, 56), (90, 160, 30)).save(folder / "a.png")
    assert seen(0)[0] == 90 and seen(0)[1] != before[1] and seen(1) == other


def test_a_picture_below_a_class_is_seen_when_it_comes(tmp_path):
    """A folder is told from what it was however deep in it a picture comes, and by a link where a class is one."""
    root, elsewhere = tmp_path / "pictures", tmp_path / "elsewhere"
    deep = root / "cat" / "2024" / "may"
    for folder in (deep, root / "dog", elsewhere / "june"):
        folder.mkdir(parents=True)
    (root / "bird").symlink_to(elsewhere)
    stamps = [engine.version(f"folder:{root}")]
    for folder in (deep, root / "dog", elsewhere / "june"):
        Image.new("RGB", (56, 56)).save(folder / "new.png")
        stamps.append(engine.version(f"folder:{root}"))
    assert len(set(stamps)) == 4


def png(size: int = 16) -> bytes:
    buffer = io.BytesIO()
    Image.fromarray(np.full((size, size, 3), 90, np.uint8)).save(buffer, "PNG")
    return buffer.getvalue()


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"", r"upload is empty \(0 bytes\)"),
        (b"no picture at all", "upload is no picture that can be opened"),
        (png()[:40], "upload is no picture that can be opened"),
    ],
)
def test_bad_uploads_are_refused(tmp_path, content, message):
    path = tmp_path / "upload"
    path.write_bytes(content)
    with pytest.raises(ValueError, match=message):
        engine.check_picture(str(path))


def test_good_upload_is_taken(tmp_path):
    path = tmp_path / "upload.png"
    path.write_bytes(png())
    assert engine.check_picture(str(path)) == str(path)


def test_guarded_turns_exceptions_into_one_line():
    @guarded
    def handler(words: str) -> None:
        raise ValueError(words)

    @guarded
    def generator():
        yield 1
        raise KeyError("lost")

    with pytest.raises(gr.Error) as caught:
        handler("unknown model 'x'; known: y\nTraceback")
    assert caught.value.message == "Unknown model 'x'; known: y"
    steps = generator()
    assert next(steps) == 1
    with pytest.raises(gr.Error) as caught:
        next(steps)
    assert caught.value.message == "KeyError: 'lost'"


def test_unknown_model_names_the_known_ones(monkeypatch):
    monkeypatch.setattr(
        engine, "catalog", lambda: ({"name": "vim_nano", "weights": "embedded", "input_size": [3, 56, 56]},)
    )
    with pytest.raises(ValueError, match="unknown model 'vim_nono'; choose one of vim_nano"):
        engine.model_row("vim_nono")


def test_the_machine_is_examined_once(monkeypatch):
    """By the page and by what warms it up, at the same time."""
    calls = []

    def slow() -> dict:
        calls.append(1)
        time.sleep(0.1)
        return {"ok": True, "checks": []}

    monkeypatch.setattr("ouro.jobs.doctor.doctor", slow)
    engine._health.cache_clear()
    with ThreadPoolExecutor(3) as pool:
        answers = list(pool.map(lambda _: engine.health(), range(3)))
    engine._health.cache_clear()
    assert len(calls) == 1 and answers[0] is answers[2]


def test_the_list_of_models_is_that_of_the_catalog():
    rows = {row["name"]: row for row in engine.catalog()}
    listed = [name for name in engine.models() if name in rows]
    expected = [name for name, row in rows.items() if row["input_size"][0] == 3 and row["weights"] == "embedded"]
    assert set(expected) <= set(listed)
    assert all(rows[name]["input_size"][0] == 3 and rows[name]["weights"] != "none" for name in listed)
