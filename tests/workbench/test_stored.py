"""What was done before: sets of this machine, those that were stopped, and the numbers in results/."""

from __future__ import annotations

import csv
import io
import tempfile
from pathlib import Path

import pytest
import torch

from ouro.gen.synthesize import to_pixels
from ouro.jobs.synthesize import SynthesisSpec, synthesize
from ouro.metrics import metric_of
from ouro.models import create_model
from ouro.progress import finish
from ouro.store import Run
from workbench import app, own, runbook, runner, samples, sets, stored


@pytest.fixture
def home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("OURO_HOME", str(tmp_path))
    return tmp_path


def noise_job(num: int, batch: int):
    return synthesize(SynthesisSpec("vim_nano", "noise", num=num, batch=batch))


def test_stopped_set_is_listed_until_it_is_finished(home: Path):
    job = noise_job(6, 2)
    next(job), next(job)
    job.close()
    (entry,) = stored.unfinished()
    assert entry["finished"] == 4 and entry["spec"]["num"] == 6 and not stored.sets()
    report = finish(synthesize(SynthesisSpec(**entry["spec"])))
    assert report.values["path"].startswith(entry["path"]), "the stopped run goes on, no other is begun"
    assert not stored.unfinished() and [made["num"] for made in stored.sets()] == [6]
    with pytest.raises(ValueError, match="no such unfinished set"):
        stored.discard(entry["path"])


def test_discarded_set_is_gone(home: Path):
    job = noise_job(4, 2)
    next(job)
    job.close()
    (entry,) = stored.unfinished()
    stored.discard(entry["path"])
    assert not stored.unfinished() and not Path(entry["path"]).exists()


def test_pictures_of_a_set_have_the_names_of_their_classes(home: Path):
    report = finish(noise_job(12, 12))
    images, names = stored.pictures(stored.sets()[0], most=10)
    info = create_model("vim_nano").info
    assert torch.equal(torch.from_numpy(images), to_pixels(report.arrays["images"][:10], info))
    assert names == [info.class_names[label].replace("_", " ") for label in report.arrays["labels"][:10].tolist()]


def test_a_copy_of_published_weights_takes_no_runs_from_the_model_itself(home: Path, monkeypatch: pytest.MonkeyPatch):
    finish(noise_job(2, 2))
    file = home / "copy.pth"
    torch.save(create_model("vim_nano", pretrained=True).state_dict(), file)
    copy = own.model(str(file)).entry
    assert copy is not None
    # the weights are the same, so both have the set, each under its own name
    for model in ("vim_nano", copy.alias):
        ((words, path),) = sets.choices(model)
        assert words.startswith(model) and {entry["model"] for entry in stored.sets(model)} == {model}
        # "Use for calibration" leaves the model that the page is about as it is
        assert app._use(path, model)[-1] == model
        # and a job about either of them may be writing it
        work = runner.Job(samples.KIND, make=lambda: iter(()), model=model)
        monkeypatch.setattr(runner, "jobs", lambda work=work: [work])
        with pytest.raises(ValueError, match="is at work and may write this run"):
            runbook.delete(Path(path).parent.name)
    assert stored.sets()[0]["model"] == "vim_nano"
    spec = Run(Path(path).parent).spec()
    assert stored.called(spec, "vmamba_nano") == "vim_nano"
    # a name of its own classes is part of a run
    named = own.model(str(file), names=[f"class {k}" for k in range(12)]).entry
    assert named is not None
    assert stored.called({**spec, "class_names": list(named.class_names)}) == named.alias
    assert stored.called({**spec, "weights": "others"}, named.alias) == "vim_nano"


def test_results_are_separated_by_what_they_measure():
    assert all(metric_of(row) in row and "budget" not in row for row in stored.accuracies())
    assert {metric_of(row) for row in stored.accuracies()} == {"top1", "miou", "ap", "frechet"}
    assert {row["budget"] for row in stored.budgets()} > {4, 5}
    assert "vim_nano" in {report["model"] for report in stored.sensitivities()}


def test_a_file_that_is_no_json_is_passed_over(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog):
    (tmp_path / "a.json").write_text('{"rows": [{"top1"')
    (tmp_path / "b.json").write_text('{"model": "m", "rows": [{"top1": 0.5}, {"case": 1}]}')
    monkeypatch.setattr(stored, "RESULTS", tmp_path)
    assert stored.accuracies() == [{"model": "m", "top1": 0.5, "file": "b.json", "id": "b.json:0"}]
    assert "a.json is no readable JSON" in caplog.text


def test_rows_know_where_they_are_from_and_what_each_run_kept():
    rows = stored.accuracies()
    assert len({row["id"] for row in rows}) == len(rows)
    cells = [row for row in rows if row["file"] == "quantization_vim_micro_cifar10.json"]
    assert all(len(row["right"]) == row["seeds"] for row in cells) and {row["set"] for row in cells} > {"noise:64"}
    dense = [row for row in rows if row["file"] == "tasks_vmamba_nano_seg.json"]
    assert dense and all(len(row["resampled"]) == row["seeds"] for row in dense)
    assert {"steps_per_block": 10} in [row.get("options") for row in rows if row["method"] == "ptq4vm"]


def test_exported_set_has_a_descriptive_name(tmp_path):
    file = tmp_path / "tensors.safetensors"
    file.write_bytes(b"set")
    entry = {
        "model": "vim_nano",
        "method": "ouro",
        "num": 8,
        "steps": 10,
        "seed": 0,
        "set_digest": "ab",
        "path": str(file),
    }
    copy = Path(stored.exported(entry))
    assert copy.name == "vim_nano-ouro-8x10-seed0.safetensors" and copy.read_bytes() == b"set"
    assert copy.is_relative_to(tempfile.gettempdir())


def test_exported_tables_of_one_name_are_files_of_their_own_and_compute_nothing():
    first = Path(
        stored.exported_table("a", ["name", "drop"], [["=1+1", -0.5], ["-cmd|x", "+0.3 (-1 to 2)"], ["ü", "@at"]])
    )
    other = Path(stored.exported_table("a", ["name", "drop"], [["b", 1]]))
    assert first.name == other.name == "a.csv" and first != other
    rows = list(csv.reader(io.StringIO(first.read_text("utf-8"))))
    assert rows[1:] == [["'=1+1", "-0.5"], ["'-cmd|x", "+0.3 (-1 to 2)"], ["ü", "'@at"]]


@pytest.mark.parametrize("model", ['a/b#c?d%41 <b>"x".pth (vim_nano)', 250 * "ü" + " (vim_nano)"], ids=["odd", "long"])
def test_names_of_exports_are_names_of_files(model: str, tmp_path: Path):
    file = tmp_path / "tensors.safetensors"
    file.write_bytes(b"set")
    entry = {"model": model, "method": "ouro", "num": 8, "steps": 10, "seed": 0, "set_digest": "cd", "path": str(file)}
    for path in map(Path, (stored.exported(entry), stored.exported_table(f"sensitivity-{model}-lin", ["a"], []))):
        assert path.is_file() and not set(path.name) & {*'#?%<>"'} and "vim_nano)-" in path.name
