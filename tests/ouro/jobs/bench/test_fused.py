"""The benchmark of fused models: the gate decides, the unfused model stands beside each time, nothing is made up."""

from __future__ import annotations

import json
import os
import shlex
import subprocess
import sys
from itertools import pairwise
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch
from typer.testing import CliRunner

import ouro.jobs.bench.fused as module
from ouro.cli import app
from ouro.fused import KernelError, fuse
from ouro.fused.gate import FORMATS, tiny
from ouro.jobs.bench.devices import DeviceSpec
from ouro.jobs.bench.fused import FusedBenchSpec, bench_fused
from ouro.jobs.bench.kernels import KernelBenchSpec
from tests import zoo
from tests.ouro.jobs.running import finish

PASSED = {"format": "fp16", "images": 8, "error": 1e-3, "agreement": 1.0, "off": 1e-3, "top1": 1.0, "yardstick": 1e-3,
          "yardstick_top1": 1.0, "lost": 0, "won": 0, "chance": 1.0, "exact": 1e-6, "passed": True, "complaint": None}  # fmt: skip
runner = CliRunner()


@pytest.fixture
def no_gpu(monkeypatch):
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)


@pytest.fixture
def no_clock(monkeypatch):
    """Calls run, but as the reference of every kernel, and take 1, 2 and 3 ms."""

    def timed(call, repeats):
        call()
        return [1.0, 2.0, 3.0]

    monkeypatch.setattr(module, "timed", timed)
    monkeypatch.setattr(module, "graphed", lambda model, images: SimpleNamespace(replay=lambda: model(images)))
    monkeypatch.setattr(
        module, "fused_of", lambda model, format, backend: fuse(model, format.dtype, backend="reference")
    )


def test_without_a_gpu_the_gate_runs_and_nothing_is_timed(no_gpu, monkeypatch, tmp_path):
    monkeypatch.setattr(module, "_interpreted_gates", lambda spec: iter([PASSED, PASSED | {"format": "w8a8"}]))
    out = tmp_path / "result.json"
    command = ["bench", "model", "vim_nano", "--backend", "triton", "--formats", "fp16,w8a8", "--b", "1,8"]
    result = runner.invoke(app, [*command, "--out", str(out), "--json"])
    assert result.exit_code == 0, result.output
    values = json.loads(result.stdout)
    assert values == json.loads(out.read_text())
    assert values["gate"] == {"passed": True, "failed": [], "formats": 2} and values["rows"] == []
    assert values["not_measured"] == "not measured: no CUDA device"
    assert {"commit", "versions", "device", "seed", "missing"} <= set(values)
    shown = runner.invoke(app, command)
    assert "a tiny variant" in shown.stdout and "not measured: no CUDA device" in shown.stdout
    columns = next(line for line in shown.stdout.splitlines() if "images" in line and "passed" in line)
    assert columns.split("┃")[1:-1][0].strip() == "what" and all(cell.strip() for cell in columns.split("┃")[1:-1])


def test_a_failed_gate_is_exit_code_1(no_gpu, monkeypatch):
    failed = PASSED | {"passed": False, "complaint": "logits are far away"}
    monkeypatch.setattr(module, "_interpreted_gates", lambda spec: iter([failed]))
    result = runner.invoke(app, ["bench", "model", "vim_nano", "--backend", "triton", "--formats", "fp16"])
    assert result.exit_code == 1 and "fp16: logits are far away" in result.stdout


def test_a_gate_that_stops_is_a_failure(no_gpu, monkeypatch):
    monkeypatch.setattr(sys, "executable", "/bin/false")
    with pytest.raises(RuntimeError, match="the gate stopped with code 1"):
        finish(bench_fused(FusedBenchSpec("vim_nano")))


def test_rows_come_behind_their_gate(no_clock, monkeypatch):
    model, spec = tiny("vim_nano"), FusedBenchSpec("vim_nano", ("fp32",), (1, 2), images=4)
    trained, own, *rows = module._fused(spec, model)
    assert [(gate["model"], gate["passed"], gate["images"]) for gate in (trained, own)] == [
        ("vim_micro_cifar10", True, 4),
        ("vim_nano", True, 4),
    ]
    assert {row["gate"] for row in rows} == {"passed"}
    assert [(row["case"], row["backend"], row["p50_ms"]) for row in rows] == [
        ("vim_nano b=1 fp32", "fused", 2.0),
        ("vim_nano b=2 fp32", "fused", 2.0),
    ]
    assert [row["images_per_second"] for row in rows] == [500.0, 1000.0]
    monkeypatch.setattr(module, "check", lambda *_: SimpleNamespace(**PASSED))
    monkeypatch.setattr(module, "asdict", lambda verdict: vars(verdict) | {"passed": False})
    rows = list(module._fused(spec, model))[2:]
    # times of what failed are there to be looked at, and say so
    assert [(row["gate"], row["p50_ms"]) for row in rows] == [("unverified", 2.0), ("unverified", 2.0)]


def test_what_a_peer_stumbles_over_is_its_result(no_clock, monkeypatch):
    def refuse(model, images):
        raise KernelError("no graph")

    monkeypatch.setattr(module, "graphed", refuse)
    monkeypatch.setattr(module, "_half", lambda model, scan: lambda images: images)
    eager, graph = module._unfused(FusedBenchSpec("vim_nano", batches=(1,)), tiny("vim_nano"), ["triton"])
    assert eager["backend"] == "unfused, scan triton, eager" and eager["p50_ms"] == 2.0
    assert graph["failed"] == "KernelError: no graph" and "p50_ms" not in graph


def test_ratios_are_to_the_first_peer_that_was_timed():
    def peer(scan, replay, b=8, **times):
        return {"b": b, "replay": replay, "backend": f"unfused, scan {scan}, {replay}"} | times

    peers = [peer("mamba_ssm", "eager", p50_ms=8.0), peer("mamba_ssm", "graph", failed="no graph"),
             peer("triton", "eager", p50_ms=2.0), peer("triton", "graph", p50_ms=6.0)]  # fmt: skip
    ours = {"b": 8, "p50_ms": 2.0}
    # two ratios to two peers would be read as two to one
    assert module._ratios(ours, peers) == {"speedup": 4.0, "speedup_over": "unfused, scan mamba_ssm"}
    assert module._ratios(ours, peers[2:]) == {
        "speedup": 1.0,
        "speedup_over": "unfused, scan triton",
        "speedup_over_graph": 3.0,
    }
    assert module._ratios({"b": 1, "p50_ms": 2.0}, peers) == {}


def test_wrong_use_is_one_line(no_gpu):
    with pytest.raises(ValueError, match="unknown format 'w2a2'; known: fp32, fp16, bf16, w8a8"):
        FusedBenchSpec("vim_nano", ("w2a2",))
    with pytest.raises(ValueError, match="unknown model 'vim'"):
        FusedBenchSpec("vim")
    with pytest.raises(ValueError, match="b is 0, expected 1 or more"):
        FusedBenchSpec("vim_nano", batches=(0,))
    with pytest.raises(ValueError, match="vmamba_nano cannot be fused, it is no Vim"):
        finish(bench_fused(FusedBenchSpec("vmamba_nano")))
    for arguments, message in (
        (["--b", "1,x"], "b '1,x' cannot be read; write whole numbers with commas"),
        (["--backend", "gpu"], "backend is 'gpu'"),
        (["--b", "1,8"], "backend cpu takes one batch size"),
    ):
        result = runner.invoke(app, ["bench", "model", "vim_nano", *arguments])
        assert result.exit_code == 2 and message in " ".join(result.output.split())


def test_every_run_of_the_gpu_script_is_one_that_there_is(no_gpu, tmp_path):
    script = Path(__file__).parents[4] / "results" / "gpu.sh"
    runs = [shlex.split(line)[2:] for line in script.read_text("utf-8").splitlines() if line.startswith("measure ")]
    assert {run[0] for run in runs} == {"model", "kernels", "gemm", "devices"} and len(runs) > 5
    for name, *rest in runs:
        names = [word for word in rest if not word.startswith("--")]
        options = {option: [b for a, b in pairwise(rest) if a == option] for option in set(rest)}
        words = options.get("--case", [])
        if name == "model":
            FusedBenchSpec(names[0])
        elif name == "devices":
            assert DeviceSpec(names[0]).model.name == names[0] and options["--device"] == ["cuda"]
        else:
            kernels = ["gemm"] if name == "gemm" else [word for word in names if word not in words]
            assert KernelBenchSpec(tuple(kernels), tuple(words)).names
    done = subprocess.run(["sh", str(script), str(tmp_path)], env=os.environ | {"PYTHON": sys.executable,
                          "CUDA_VISIBLE_DEVICES": ""}, capture_output=True, text=True, check=False)  # fmt: skip
    assert done.returncode == 2 and done.stderr == "not measured: no CUDA device\n" and not list(tmp_path.iterdir())


def test_only_what_the_scan_reads_stays_in_float32():
    half = module._half(zoo.small("vim_nano"), "triton")
    wide = {name.rpartition(".")[2] for name, p in half.named_parameters() if p.dtype == torch.float32}
    assert wide == {"A_log", "D"} and len(FORMATS) == 6
