"""The commands take models of the other tasks as they take classifiers: from a checkpoint to a score, on drawn scenes."""

from __future__ import annotations

import json

import pytest
import torch
from typer.testing import CliRunner

from ouro.cli import app
from ouro.jobs.bench.compare import CompareSpec, as_csv, compare
from ouro.progress import finish
from ouro.store import read_tensors

runner = CliRunner()
METRICS = {"vmamba_nano_seg": "miou", "vmamba_nano_det": "ap"}


@pytest.fixture(autouse=True)
def home(tmp_path, monkeypatch):
    monkeypatch.setenv("OURO_HOME", str(tmp_path / "home"))


def json_of(*arguments: object) -> dict:
    result = runner.invoke(app, [*map(str, arguments), "--json"])
    assert result.exit_code == 0, result.stderr
    return json.loads(result.stdout)


@pytest.mark.parametrize("name", ["vmamba_nano_seg", pytest.param("vmamba_nano_det", marks=pytest.mark.full)])
def test_from_a_model_to_a_score(name, tmp_path) -> None:
    metric = METRICS[name]
    exact = json_of("evaluate", name, "--limit", 6)
    assert exact["metric"] == metric and exact["n"] == 6 and 0.3 < exact[metric] <= 1
    assert len(exact["per_class"]) == len(exact["classes"])
    # the same images, the same score, whatever they are looked at together with
    assert json_of("evaluate", name, "--limit", 6, "--batch", 4)[metric] == pytest.approx(exact[metric], abs=1e-6)
    out = tmp_path / "q.safetensors"
    made = json_of(
        "quantize", name, "--method", "minmax", "--bits", "w8a8", "--scope", "full", "--calib", "real:2", "--out", out
    )
    assert made["audit"]["sealed"]
    rounded = json_of("evaluate", out, "--limit", 6)
    assert rounded[f"fp_{metric}"] == exact[metric] and abs(rounded[metric] - exact[metric]) < 0.2
    # scope full rounds the head too
    assert any(".tap_in." in path and not path.startswith("backbone.") for path in _sites(out))
    ranked = json_of(
        "sensitivity", name, "--bits", "w4a4", "--method", "minmax", "--by", "group", "--calib", "real:2", "--limit", 4
    )
    assert all({f"{metric}_drop", "kl"} <= set(row) for row in ranked["rows"]) and ranked[f"fp_{metric}"] > 0


@pytest.mark.parametrize("name", ["vmamba_nano_seg", pytest.param("vmamba_nano_det", marks=pytest.mark.full)])
def test_sets_are_made_for_targets_of_the_task(name, tmp_path) -> None:
    out = tmp_path / "set.safetensors"
    made = json_of("generate", name, "--num", 2, "--steps", 2, "--out", out)
    assert 0 <= made["recognized"]["self"] <= 1
    tensors, _ = read_tensors(out)
    shape = {"vmamba_nano_seg": (2, 96, 96), "vmamba_nano_det": (2, 4, 6)}[name]
    assert tensors["images"].shape == (2, 3, 96, 96) and tensors["labels"].shape == shape
    quantized = json_of(
        "quantize", name, "--method", "minmax", "--bits", "w8a8", "--calib", out, "--out", tmp_path / "q.safetensors"
    )
    assert quantized["audit"]["sealed"]


@pytest.mark.full
def test_a_table_has_the_score_of_the_task() -> None:
    spec = CompareSpec("vmamba_nano_det", ("dynamic", "minmax"), ("w8a8",), (("real", "real:2"),), (0, 1), limit=10)
    values = finish(compare(spec)).values
    assert values["metric"] == "ap" and 0 < values["fp_ap"] <= 1
    (pair,) = values["pairs"]
    rows = {row["method"]: row for row in values["rows"]}
    assert pair["difference"] == pytest.approx(rows["dynamic"]["ap"] - rows["minmax"]["ap"])
    assert pair["ci95"][0] <= pair["difference"] <= pair["ci95"][1]
    for cell in values["cells"]:
        assert len(cell["resampled"]) == 500 and "right" not in cell
        scores = torch.tensor(cell["resampled"])
        assert scores.mean().item() == pytest.approx(cell["ap"], abs=0.1)
    assert as_csv(values).splitlines()[0].startswith("model,ap,param_count")


def test_other_data_is_one_line(tmp_path) -> None:
    refused = runner.invoke(app, ["evaluate", "vmamba_nano_det", "--data", "scenes", "--limit", "2"])
    assert refused.exit_code == 2 and refused.stderr.strip().count("\n") == 0
    assert (
        "scenes has one class per image, vmamba_nano_det is for detection and needs boxes of objects" in refused.stderr
    )
    for command in (["bench", "equal"], ["bench", "ranges"]):
        refused = runner.invoke(app, [*command, "vmamba_nano_det", "--limit", "2"])
        assert refused.exit_code == 2
        assert (
            "pairs right answers image by image, vmamba_nano_det is for detection; take a classifier" in refused.stderr
        )
    exported = json_of("export", "scenes_det", "--num", 3, "--out", tmp_path / "coco")
    own = json_of("evaluate", "vmamba_nano_det", "--data", exported["read_as"])
    assert own["n"] == 3 and own["ap"] == pytest.approx(json_of("evaluate", "vmamba_nano_det", "--limit", 3)["ap"])


def _sites(path) -> list[str]:
    tensors, _ = read_tensors(path)
    return list(tensors)
