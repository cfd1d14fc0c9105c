"""The command line: stable JSON, and one clear line with exit code 2 for everything a user can get wrong."""

from __future__ import annotations

import json
import os
import pickle
from pathlib import Path

import pytest
import torch
from typer.testing import CliRunner

from ouro.cli import app
from ouro.registry import MODELS
from ouro.store import read_tensors

runner = CliRunner()


def call(*arguments: object):
    return runner.invoke(app, [str(argument) for argument in arguments])


def json_of(*arguments: object) -> dict:
    result = call(*arguments, "--json")
    assert result.exit_code == 0, result.stderr
    return json.loads(result.stdout)


def refused(*arguments: object) -> str:
    """The one line of a refusal."""
    result = call(*arguments)
    assert result.exit_code == 2, (result.exit_code, result.stdout, result.stderr)
    lines = result.stderr.strip().splitlines()
    assert len(lines) == 1 and lines[0].startswith("error: "), result.stderr
    return lines[0].removeprefix("error: ")


@pytest.mark.unpoisoned  # the meta device knows the original torch.empty only
def test_models_lists_the_registry() -> None:
    rows = json_of("models")
    assert [row["name"] for row in rows] == list(MODELS)
    assert all({"family", "input_size", "parameters", "weights", "top1"} <= set(row) for row in rows)


def test_doctor_says_what_runs_here() -> None:
    report = json_of("doctor")
    assert {check["name"] for check in report["checks"]} >= {"python", "torch", "numba"}


def test_help_of_every_command_lists_its_json_keys() -> None:
    for command in ("models", "doctor", "attention", "generate", "quantize", "evaluate", "train"):
        result = call(command, "--help")
        assert result.exit_code == 0 and "JSON" in result.stdout, command


def test_generate_quantize_evaluate_round_trip(tmp_path: Path) -> None:
    images, packed = tmp_path / "set.safetensors", tmp_path / "model.safetensors"
    made = json_of("generate", "vim_nano", "--num", 4, "--steps", 2, "--out", images)
    assert {"model", "method", "num", "steps", "seconds", "recognized", "path", "seed"} <= set(made)
    assert set(made["recognized"]) == {"self", "other"} and read_tensors(images)[0]["images"].shape == (4, 3, 56, 56)
    quantized = json_of(
        "quantize", "vim_nano", "--method", "clipped", "--bits", "w8a8", "--calib", images, "--out", packed
    )
    assert {"path", "bytes", "seconds", "audit", "effective_bits"} <= set(quantized)
    assert quantized["audit"]["sealed"] and quantized["bytes"] == packed.stat().st_size
    scored = json_of("evaluate", packed, "--limit", 64)
    keys = {"model", "method", "bits", "scope", "data", "n", "top1", "ci95", "fp_top1", "effective_bits", "seconds"}
    assert keys | {"device", "seed"} <= set(scored) and scored["n"] == 64
    assert abs(scored["top1"] - scored["fp_top1"]) < 0.25


def test_attention_writes_its_picture(tmp_path: Path) -> None:
    out = tmp_path / "map.png"
    scores = json_of("attention", "vim_nano", "--sample", 3, "--layer", 5, "--out", out)
    assert {"model", "layer", "window", "n", "auroc", "pointing", "ci95"} <= set(scores)
    assert set(scores["auroc"]) == {"h", "h_p"} and out.read_bytes().startswith(b"\x89PNG")


def test_bench_scan_passes_its_gate_before_it_times() -> None:
    values = json_of("bench", "scan", "--b", 1, "--e", 64, "--l", 23, "--n", 4, "--repeats", 3, "--no-peers")
    assert values["gate"]["passed"] and values["exp_max_ulp"] < 2
    assert {(row["op"], row["backend"]) for row in values["rows"]} == {
        (f"scan {mode}", backend) for mode in ("forward", "forward+backward") for backend in ("reference", "cpu")
    }
    assert all({"case", "gate", "max_error", "p20_ms", "p50_ms", "p80_ms", "ratio", "peak_mb"} <= set(row)
               for row in values["rows"])  # fmt: skip


def test_bench_model_compares_a_model_with_itself() -> None:
    values = json_of("bench", "model", "vim_nano", "--b", 1, "--repeats", 1, "--no-peers")
    assert values["gate"]["passed"] and [row["backend"] for row in values["rows"]] == ["reference", "cpu"]
    reference, compiled = values["rows"]
    assert reference["ratio"] == 1 and compiled["ratio"] > 0 and min(row["peak_mb"] for row in values["rows"]) > 0


def test_a_failed_gate_is_exit_code_1_with_json_too(monkeypatch) -> None:
    monkeypatch.setattr("ouro.jobs.bench.model.MODEL_TOLERANCE", -1.0)
    result = call("bench", "model", "vim_nano", "--b", 1, "--repeats", 1, "--no-peers", "--json")
    assert result.exit_code == 1
    assert not json.loads(result.stdout)["gate"]["passed"] and "ratio" not in json.loads(result.stdout)["rows"][1]


class _Hostile:
    def __init__(self, target: str) -> None:
        self.target = target

    def __reduce__(self):
        return os.mkdir, (self.target,)


def test_wrong_use_is_one_line_and_exit_code_2(tmp_path: Path) -> None:
    assert refused("attention", "vim_nan").startswith("unknown model 'vim_nan' (did you mean 'vim_nano'?); known: ")
    assert "window is 4" in refused("attention", "vim_nano", "--window", 4)
    assert "window is 99" in refused("attention", "vim_nano", "--window", 99)
    assert "layer is 40" in refused("attention", "vim_nano", "--layer", 40)
    assert refused("generate", "vim_nano", "--steps", -1) == "steps is -1, expected 0 or more"
    assert "unknown generation method 'gan'" in refused("generate", "vim_nano", "--method", "gan")
    assert "option 'window' is not of the form name=value" in refused("generate", "vim_nano", "--option", "window")
    assert "w4" in refused("quantize", "vim_nano", "--bits", "w4")
    assert "unknown quantization method 'gptq'" in refused("quantize", "vim_nano", "--method", "gptq")
    for command, what in (("generate", "the set"), ("quantize", "the quantized model")):
        said = refused(command, "vim_nano", "--out", tmp_path / "q.bin")
        assert said == f"{what} is written as .safetensors, got 'q.bin'" and not list(tmp_path.iterdir())
    assert "no recipe for 'vim_huge'" in refused("train", "vim_huge")
    whole = refused("train", "vim_micro_cifar10", "--data", f"cifar10:{tmp_path}", "--out", tmp_path / "out")
    assert whole.startswith(f"{tmp_path} holds no whole CIFAR-10: expected cifar-10-batches-py with data_batch_1 to ")
    assert "device is 'cuda'" in refused("evaluate", "vim_nano", "--device", "cuda")
    assert "neither a model" in refused("evaluate", "nowhere.safetensors")


def test_bad_files_are_one_line_and_leave_nothing(tmp_path: Path) -> None:
    empty = tmp_path / "empty.png"
    empty.touch()
    assert "empty.png" in refused("attention", "vim_nano", "--image", empty)
    assert "missing.png" in refused("attention", "vim_nano", "--image", tmp_path / "missing.png")
    broken = tmp_path / "broken.safetensors"
    broken.write_bytes(b"\x10\x00\x00\x00")
    assert "broken.safetensors" in refused("evaluate", broken)
    trap = tmp_path / "trap"
    hostile = tmp_path / "hostile.safetensors"
    hostile.write_bytes(pickle.dumps(_Hostile(str(trap)), protocol=2))
    assert "hostile.safetensors" in refused("evaluate", hostile)
    assert "hostile.safetensors" in refused("quantize", "vim_nano", "--calib", hostile)
    assert not trap.exists()
    before = sorted(path.name for path in tmp_path.iterdir())
    assert "cannot write" in refused("generate", "vim_nano", "--num", 1, "--steps", 1, "--out", empty / "x.safetensors")
    assert "cannot write a picture as 'x.bmp'" in refused("attention", "vim_nano", "--out", tmp_path / "x.bmp")
    assert sorted(path.name for path in tmp_path.iterdir()) == before


@pytest.mark.parametrize(
    "images, words",
    [
        (torch.full((2, 3, 56, 56), torch.nan), "NaN"),
        (torch.zeros(2, 1, 56, 56), r"(2, 1, 56, 56)"),
        (torch.zeros(2, 3, 32, 32), r"(2, 3, 32, 32)"),
    ],
    ids=["nan", "channels", "size"],
)
def test_a_set_that_does_not_fit_is_refused(images: torch.Tensor, words: str, tmp_path: Path) -> None:
    from ouro.store import write_tensors

    path = write_tensors(tmp_path / "set.safetensors", {"images": images})
    assert words in refused("quantize", "vim_nano", "--calib", path)
