"""A model and pictures of one's own: what is read from them, how every tab knows them, and one line where they fail."""

from __future__ import annotations

import pickle
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from ouro.models import create_model
from ouro.progress import finish
from ouro.quant.apply import weights_digest
from ouro.types import ModelSource
from workbench import (
    attention,
    bring,
    calib,
    engine,
    grid,
    outliers,
    own,
    pictures,
    quantize,
    runner,
    sets,
    start,
    stored,
    tradeoff,
    workspace,
)

# models are first built on the meta device, which knows torch's own allocators only
pytestmark = pytest.mark.unpoisoned
SIZES = {"width": 32, "depth": 2, "num_classes": 7, "image": 48}


@pytest.fixture
def home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("OURO_HOME", str(tmp_path / "home"))
    return tmp_path


def model_file(path: Path, **changes: object) -> Path:
    """A Vim of one's own, as a training script saves it."""
    torch.manual_seed(0)
    state = create_model("vim_tiny_patch16_224", **(SIZES | changes)).state_dict()
    torch.save({"model": {f"module.{key}": value for key, value in state.items()}}, path)
    return path


def picture_folder(folder: Path, count: int = 14, classes: int = 7) -> Path:
    """JPEGs of 60 x 40, spread over class folders; all in one with no classes."""
    colors = np.random.default_rng(0).integers(0, 256, (count, 1, 1, 3), dtype=np.uint8)
    for number, color in enumerate(colors):
        place = folder / f"kind{number % classes}" if classes else folder
        place.mkdir(parents=True, exist_ok=True)
        Image.fromarray(np.broadcast_to(color, (40, 60, 3)).copy()).save(place / f"p{number:02d}.jpg")
    return folder


def test_a_model_is_read_kept_and_opened_by_its_alias(home: Path):
    path = model_file(home / "bees.pth")
    reading = own.model(str(path))
    entry = reading.entry
    assert entry is not None and reading.refusal == "" and entry.alias == "bees.pth (vim_tiny_patch16_224)"
    assert reading.facts["container"] == "model" and reading.facts["missing"] == reading.facts["unmatched"] == 0
    row = engine.model_row(entry.alias)
    assert (row["input_size"], row["classes"], row["layers"], row["data"]) == ([3, 48, 48], 7, 2, "folder")
    assert row["name"] == entry.alias and entry.alias in engine.models() and engine.own_data(entry.alias) == ""
    assert engine.source(entry.alias) == ModelSource("vim_tiny_patch16_224", str(path))
    assert engine.source("vim_nano") == "vim_nano"
    opened = create_model("vim_tiny_patch16_224", pretrained=str(path))
    assert entry.digest == weights_digest(opened)
    words = bring.model_card(entry)
    for part in (
        "bees.pth (vim_tiny_patch16_224)",
        "48×48",
        "<dd>7</dd>",
        "tensors matched",
        "under &#x27;model&#x27;",
    ):
        assert part in words
    # the file is named by its path, so it is reported when it goes
    path.unlink()
    assert entry.alias not in engine.models() and "no longer where it was" in bring.model_card(workspace.models()[0])
    with pytest.raises(ValueError, match="bees.pth is no longer where it was; add it again or remove it"):
        engine.source(entry.alias)


def test_an_upload_is_copied_and_a_name_and_classes_may_be_said(home: Path):
    path = model_file(home / "bees.pth")
    names = tuple("abcdefg")
    entry = own.model(str(path), "vim_small_patch16_224", names, uploaded=True).entry
    assert entry is not None and entry.kept and entry.name == "vim_small_patch16_224"
    path.unlink()
    assert not entry.fault and engine.pixels(entry.alias)[2] == names
    with pytest.raises(ValueError, match="unknown model 'vim_tini'"):
        own.model(entry.path, "vim_tini")
    refused = own.model(entry.path, "", ("a", "b"))
    assert refused.entry is None and "2" in refused.refusal and "7" in refused.refusal


class Hostile:
    def __reduce__(self):
        return print, ("run",)


@pytest.mark.parametrize(
    ("name", "content", "message"),
    [
        ("empty.pth", b"", "is empty"),
        ("text.pth", b"this is no checkpoint\n", "is no readable checkpoint"),
        ("text.safetensors", b"this is no checkpoint\n", "is no readable safetensors file"),
        ("hostile.pth", pickle.dumps({"model": Hostile()}), "holds more than tensors and was not opened"),
    ],
)
def test_a_file_that_cannot_be_read_is_refused_in_one_line(home: Path, name, content, message, capsys):
    (home / name).write_bytes(content)
    with pytest.raises(ValueError, match=message) as caught:
        own.model(str(home / name))
    assert "\n" not in str(caught.value) and workspace.models() == [] and "run" not in capsys.readouterr().out


def test_a_model_of_another_family_is_reported_with_what_was_read(home: Path):
    torch.save({"conv1.weight": torch.zeros(3, 3), "fc.bias": torch.zeros(2)}, home / "resnet.pth")
    reading = own.model(str(home / "resnet.pth"))
    assert reading.entry is None and "resnet.pth looks like none of Vim, VMamba" in reading.refusal
    # one that is nearly a Vim: what is missing is named
    path = model_file(home / "bees.pth")
    content = torch.load(path, weights_only=True)
    del content["model"]["module.layers.1.norm.weight"]
    torch.save(content, path)
    reading = own.model(str(path))
    assert reading.entry is None and reading.facts["missing"] == 1 and "layers.1.norm.weight" in reading.refusal
    assert "1 missing or of another shape: layers.1.norm.weight" in bring.reading(reading.facts)


def test_another_file_in_the_same_place_is_another_result(home: Path):
    path = model_file(home / "bees.pth")
    entry = own.model(str(path)).entry
    assert entry is not None
    before = engine._model(entry.alias)
    assert engine._model(entry.alias) is before
    state = {key: value + 1 for key, value in before.state_dict().items()}
    torch.save(state, path)
    with pytest.raises(ValueError, match="was changed since it was read; add it again"):
        engine.source(entry.alias)
    again = own.model(str(path)).entry
    assert again is not None and again.alias == entry.alias and engine._model(again.alias) is not before


def test_what_was_found_with_other_weights_is_not_shown_for_those_of_now(home: Path):
    path = model_file(home / "bees.pth")
    alias = own.model(str(path)).entry.alias
    job = runner.start("toy", lambda: (one for one in ()), model=alias)
    for _ in runner.follow(job):
        pass
    row = {"model": alias, "calib": "noise:4", "path": str(home / "run" / "tensors.safetensors"), "data": "", "n": 4}
    quantize.keep(row)
    assert job.found(alias) and not job.found("vim_nano") and alias in [row["model"] for row in quantize.known()]
    torch.save({key: value + 1 for key, value in torch.load(path)["model"].items()}, path)
    assert own.model(str(path)).entry.alias == alias
    assert not job.found(alias) and alias not in [row["model"] for row in quantize.known()]
    quantize.keep({**row, "path": str(home / "run2" / "tensors.safetensors")})
    assert alias in [row["model"] for row in quantize.known()]


def test_pictures_are_read_with_their_classes(home: Path):
    entry = own.pictures(str(picture_folder(home / "flowers")))
    assert (entry.name, entry.count, len(entry.classes)) == ("flowers", 14, 7)
    assert "14 pictures of 7 classes" in bring.about(entry) and "kind0, kind1, kind2, kind3 …" in bring.about(entry)
    assert len(own.thumbnails(entry)) == own.THUMBS and bring.pictures_card(entry).count("<img") == own.THUMBS
    plain = own.pictures(str(picture_folder(home / "plain", 3, 0)))
    assert plain.classes == () and "without labels" in bring.about(plain)
    # a set that went away is reported, and one that lost a file does not fail
    for path in (home / "plain").iterdir():
        path.write_bytes(b"")
    assert own.thumbnails(plain) == []
    with pytest.raises(ValueError, match="is empty"):
        own.pictures(str(home / "plain"))
    with pytest.raises(ValueError, match="image folder .*nowhere does not exist"):
        own.pictures(str(home / "nowhere"))


def test_uploaded_pictures_are_collected_without_the_bad_ones(home: Path):
    files = sorted(map(str, picture_folder(home / "given", 3, 0).iterdir()))
    assert own.uploaded(files[:1])[0].count == 1
    bad = home / "bad.jpg"
    bad.write_bytes(b"no picture")
    with pytest.raises(ValueError, match="bad.jpg is no picture that can be opened"):
        own.uploaded([str(bad)])
    with pytest.raises(ValueError, match="there is no picture to add yet"):
        own.uploaded([])
    entry, refusals = own.uploaded([str(bad), *files[1:]])
    assert len(refusals) == 1 and refusals[0].startswith("bad.jpg is no picture that can be opened")
    assert entry.count == 3 and [one.name for one in workspace.pictures()] == [workspace.UPLOADED]


def test_every_choice_follows_what_is_there(home: Path):
    entry = own.model(str(model_file(home / "bees.pth"))).entry
    assert entry is not None
    alias = entry.alias
    assert pictures.choices(alias) == [("Noise", "noise")] and pictures.start(alias)["sample"] is None
    assert calib.measures(alias) == [] and "only calibrated" in calib.verdict(alias, "")
    assert [kind for _, kind in calib.choices(alias)] == ["noise", "set"]
    with pytest.raises(ValueError, match="there are no real images for bees.pth"):
        calib.real(alias, 32)
    with pytest.raises(ValueError, match="there is no picture to look at; add some on Start"):
        pictures.source_of(pictures.start(alias))
    labelled, plain = (
        own.pictures(str(picture_folder(home / "flowers"))),
        own.pictures(str(picture_folder(home / "plain", 3, 0))),
    )
    assert pictures.start(alias)["data"] == labelled.data
    assert [data for _, data in pictures.choices("vim_nano")] == ["scenes", labelled.data, plain.data, "noise"]
    assert calib.measured(alias, labelled.data) == calib.ACCURACY
    assert calib.measured(alias, plain.data) == calib.AGREEMENT == calib.measured("vim_nano", labelled.data)
    assert "one folder for each of its 12 classes" in calib.verdict("vim_nano", labelled.data)
    assert calib.spelled(labelled.data, 32, None) == f"{labelled.data}:14" == calib.real(alias, 128)
    assert calib.short_name(f"{labelled.data}:14") == "14 flowers"
    # seven class folders, but not the model's seven classes
    named = own.model(str(home / "bees.pth"), "", tuple("abcdefg")).entry
    assert named is not None and calib.measured(alias, labelled.data) == calib.AGREEMENT
    assert "no accuracy, because" in calib.verdict(alias, labelled.data)


def test_every_tab_serves_a_model_of_ones_own(home: Path):
    entry = own.model(str(model_file(home / "bees.pth"))).entry
    assert entry is not None
    alias, folder = entry.alias, own.pictures(str(picture_folder(home / "flowers")))
    first = pictures.start(alias)
    assert attention.fitting(alias, 5) == 3 and attention.windows(alias) == [3]
    seen = engine.explained(**attention.spec_of(alias, first, 1, 5, "delta"))
    assert (
        seen.values["model"] == alias
        and seen.values["window"] == 3
        and "class " in attention.verdict(seen, 1, "both", "received")
    )
    assert pictures.name_of(alias, first) == "kind0 (no. 0)"
    assert pictures.scaled(alias, first) == "60×40 pixels, seen at 48×48."
    assert "seen at 48×48" in list(pictures.hints(alias, first))[-1]
    assert list(pictures.hints("vim_nano", pictures.start("vim_nano"))) == [""]
    result = engine.outliers(**outliers.spec_of(alias, first, 0, "in_proj", "forward", 3.0, 10))
    assert result.values["n"] == 14 and result.arrays["raw"].shape == (10, 32)
    upload = {**first, "data": "", "path": str(home / "flowers" / "kind0" / "p00.jpg"), "sample": None}
    alone = engine.outliers(**outliers.spec_of(alias, upload, 0, "in_proj", "forward", 3.0, 10))
    assert alone.values["n"] == 2 and outliers.player_value(alone, alias, upload)
    made = finish(engine.synthesis_job(model=alias, method="noise", num=4)).values
    (kept,) = stored.sets()
    assert kept["model"] == alias and kept["registered"] == "vim_tiny_patch16_224" and made["model"] == alias
    assert [path for _, path in sets.choices(alias)] == [made["path"]] and sets.choices("vim_tiny_patch16_224") == []
    assert stored.pictures(kept)[0].shape == (4, 3, 48, 48)
    spec = {"model": alias, "method": "minmax", "bits": "w8a8", "scope": "lin", "seed": 0}
    calibs = (f"{folder.data}:8", made["path"])
    rows = finish(quantize.compare([{**spec, "calib": one} for one in calibs], 10, folder.data))
    assert [row["model"] for row in rows] == [alias, alias] and all(0 <= row["top1"] <= 1 for row in rows)
    assert [row["n"] for row in rows] == [10, 10] and "8 flowers" in [grid.calibrated_on(row) for row in rows]
    plain = own.pictures(str(picture_folder(home / "plain", 3, 0)))
    (row,) = finish(quantize.compare([{**spec, "calib": "noise:8"}], 10, plain.data))
    assert "metric" not in row and 0 <= row["agreement"] <= 1
    assert "Same answer as the float model of 1 quantized" in tradeoff.chart([{**row, "id": "run 1"}], alias)
    (row,) = finish(quantize.compare([{**spec, "calib": "noise:8"}], 10, ""))
    assert "metric" not in row and row["agreement"] is None
    assert "nothing to measure on" in tradeoff.chart([{**row, "id": "run 1"}], alias)
    values = finish(
        engine.sensitivity_job(**spec, by="group", limit=3, mode="isolated", calib="noise:8", data=plain.data,
                               labels=False)
    ).values  # fmt: skip
    assert values["model"] == alias and values["fp_top1"] is None and values["whole"]["kl"] >= 0


@pytest.mark.full
def test_an_official_model_is_offered_once_it_is_here(monkeypatch: pytest.MonkeyPatch):
    here = {"vim_tiny_patch16_224"}
    monkeypatch.setattr("ouro.jobs.download.is_here", lambda name: name in here)
    rows = {row["name"]: row for row in engine.catalog()}
    assert "vim_tiny_patch16_224" in engine.models() and "vmamba_tiny" not in engine.models()
    table = start.model_table([rows["vim_tiny_patch16_224"], rows["vmamba_tiny"], rows["localvim_small"]])
    assert 'data-act="open" data-name="vim_tiny_patch16_224"' in table
    assert 'data-act="download" data-name="vmamba_tiny"' in table and "never published" in table
    assert "zigma_zigzag8" not in engine.models()


def test_what_people_call_things_is_no_markup(home: Path):
    entry = own.model(str(model_file(home / "<b>bees.pth"))).entry
    assert entry is not None
    folder = picture_folder(home / "<i>flowers", 2, 2)
    words = bring.model_card(entry) + bring.pictures_card(own.pictures(str(folder)))
    assert "<b>bees" not in words.replace("<b>&lt;b&gt;bees", "") and "<i>" not in words
    assert replace(entry, alias='"onload=x').alias and '="onload=x' not in bring.model_card(
        replace(entry, alias='"onload=x')
    )
