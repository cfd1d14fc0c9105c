"""Inputs that once got past a check, found by `python -m tests.campaign`: each is refused in a line, or passed over.

What is damaged in weights and in pictures stands beside their own tests.
"""

from __future__ import annotations

import shutil
from collections.abc import Callable
from pathlib import Path

import pytest
from PIL import Image

from ouro.data.coco import Coco
from ouro.data.picture import read_image
from ouro.data.source import read_set
from ouro.jobs.bench import compare
from ouro.jobs.calibration import calibration_set
from ouro.jobs.synthesize import SynthesisSpec, synthesize
from ouro.models import create_model
from ouro.progress import finish
from ouro.store import Store
from workbench import api, runbook, workspace

OFFENDERS = Path(__file__).parent / "data" / "offenders"


def coco(path: Path, folder: Path) -> None:
    Image.new("RGB", (12, 10)).save(folder / "0.png")
    Coco(shutil.copy(path, folder), size=24)


def stored_cell(path: Path, folder: Path) -> None:
    key = {"job": "paired compare", "bits": "w4a4"}
    shutil.copy(path, Store(folder).open(key).path / "report.json")
    compare._once(Store(folder), key, "top1", lambda: pytest.fail("measured again"))


def stored_set(path: Path, folder: Path) -> None:
    read_set(str(path))
    calibration_set(str(path), "vim_nano", create_model("vim_nano"), 0)


def stored_chunk(path: Path, folder: Path) -> None:
    spec = SynthesisSpec("vim_nano", "noise", num=2, steps=0)
    finish(synthesize(spec, root=folder))
    (run,) = Store(folder).runs()
    shutil.copy(path, run.path / "chunk-0000.safetensors")
    finish(synthesize(spec, root=folder))


def chunk_at_work(path: Path, folder: Path) -> None:
    spec = SynthesisSpec("vim_nano", num=1, steps=1, batch=1)
    finish(synthesize(spec, root=folder))
    (run,) = Store(folder).runs()
    (run.path / "chunk-0000.safetensors").unlink()
    shutil.copy(path, run.path / "begun-0000.safetensors")
    finish(synthesize(spec, root=folder))


@pytest.mark.parametrize(
    ("name", "opened", "words"),
    [
        ("coco_id.json", coco, "the id of one of its images is no number; expected COCO's form"),
        ("coco_ids.json", coco, "the id of one of its categories is no number"),
        ("coco_twice.json", coco, "two of its categories have the id 3; give each one of its own"),
        ("coco_name.json", coco, "the file_name of one of its images is None, expected a text"),
        ("coco_nested.json", coco, "expected COCO's form"),
        ("cell_bits.json", stored_cell, "effective_bits is {'weights'.* expected numbers for weights, activations"),
        ("cell_score.json", stored_cell, "top1 is '0.5' and ci95 .* expected a score within its interval; remove it, and"),
        ("cell_interval.json", stored_cell, "top1 is 0.5 and ci95 .0.6, 0.9., expected a score within its interval"),
        ("cell_cost.json", stored_cell, "calibration_seconds and peak_mb are .0.1, None., expected numbers"),
        ("cell_costless.json", stored_cell, "calibration_seconds and peak_mb are .None, 1.0., expected numbers"),
        ("cell_outcomes.json", stored_cell, "right cannot be read"),
        ("cell_number.json", stored_cell, "n is True, expected a number of images"),
        ("cell_list.json", stored_cell, "report.json holds .., expected a JSON object"),
        ("cell_nan.json", stored_cell, "report.json is no readable JSON file .it.top1 is nan"),
        ("cell_nested.json", stored_cell, "report.json is no readable JSON file .*nested"),
        ("eps.png", lambda path, _: read_image(path), "cannot read image .*eps.png: cannot identify image file"),
        ("set_flat.safetensors", stored_set, "images are .., expected .s, 3, h, w."),
        ("set_labels.safetensors", stored_set, "labels are int64 .., expected int64 .2,., a class from 0 on"),
        ("set_maker.safetensors", stored_set, "was made by a b for itself, not for vim_nano"),
        ("set_spec.safetensors", stored_set, "spec in its header is .*, expected a JSON object; was it damaged?"),
        ("chunk_shape.safetensors", stored_chunk, "chunk-0000 in .* is damaged: 'images' is .2, 3, 4, 4. torch.float32, expected"),
        ("chunk_bare.safetensors", stored_chunk, "chunk-0000 in .* is damaged: .*; remove it, and it is made again"),
        ("chunk_bare.safetensors", chunk_at_work, "begun-0000 in .* is damaged: it has no seconds, or numbers that are NaN"),
    ],
)  # fmt: skip
def test_refused_in_a_line(name: str, opened: Callable[[Path, Path], None], words: str, tmp_path: Path) -> None:
    with pytest.raises(ValueError, match=words) as failure:
        opened(OFFENDERS / name, tmp_path)
    assert "\n" not in str(failure.value) and len(str(failure.value)) < 1000


@pytest.mark.parametrize(("name", "kept"), [("coco_class", 0), ("coco_box", 0), ("coco_width", 1)])
def test_annotations_that_cannot_be_are_left_out(name: str, kept: int, tmp_path: Path) -> None:
    Image.new("RGB", (12, 10)).save(tmp_path / "0.png")
    made = Coco(shutil.copy(OFFENDERS / f"{name}.json", tmp_path), size=24)
    assert len(made.objects[0]) == kept and made.images(0, 1)[1].isfinite().all()


def test_a_workspace_of_other_types_loses_only_what_cannot_be_read(tmp_path: Path, monkeypatch) -> None:
    monkeypatch.setenv("OURO_HOME", str(tmp_path))
    (tmp_path / "workspace").mkdir()
    shutil.copy(OFFENDERS / "workspace.json", tmp_path / "workspace")
    assert [entry.alias for entry in workspace.models()] == ["kept (vim_nano)"] and workspace.pictures() == []
    workspace.add_pictures(workspace.Pictures("new", str(tmp_path), 1))
    assert [entry.name for entry in workspace.pictures()] == ["new"]


def test_a_damaged_run_hides_no_other(tmp_path: Path, monkeypatch) -> None:
    monkeypatch.setenv("OURO_HOME", str(tmp_path))
    store = Store()
    good = store.open({"job": "agreement", "model": "vim_nano", "seed": 0})
    good.save_report({"agreement": 0.5})
    for number, path in enumerate(sorted(OFFENDERS.glob("cell_*.json"))):
        shutil.copy(path, store.open({"job": "accuracy", "model": "vim_nano", "seed": number}).path / "report.json")
    names = [entry.name for entry in runbook.entries()]
    assert good.path.name in names and len(names) < len(store.runs())


@pytest.mark.parametrize("value", [None, True, "0", [0], 0.5, float("nan"), 10**30])
def test_endpoints_name_the_argument_that_is_none(value: object) -> None:
    with pytest.raises(Exception, match="Sample is .*, expected a whole number|sample is .*, expected a whole number"):
        api.endpoint(api.answer)("vim_nano", value)
