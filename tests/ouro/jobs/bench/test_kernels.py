"""The benchmark of kernels: the gate decides, floors and peers stand beside each time, and two results compare."""

from __future__ import annotations

import json
import re
import signal
import subprocess
import sys
from types import ModuleType, SimpleNamespace

import pytest
import torch
from torch.nn import functional as F
from typer.testing import CliRunner

import ouro.jobs.bench.kernels as module
from ouro.cli import app
from ouro.jobs.bench.diff import compare_benchmarks
from ouro.jobs.bench.kernels import GateSpec, KernelBenchSpec, bench_kernels, check_kernels
from ouro.jobs.bench.peers import PEERS, peers_of
from ouro.jobs.bench.timing import quantiles, rotated
from ouro.kernels import gate as kernel_gate
from ouro.kernels import kernel
from ouro.kernels.ceilings import least_ms
from ouro.kernels.gate import Verdict, inputs_of, outputs
from ouro.kernels.launch import Floor, KernelError, interpreted
from ouro.scan import reference as scan_reference
from ouro.types import ScanInputs
from tests.ouro.jobs.running import finish
from tests.testing import assert_close

CPU = torch.device("cpu")
runner = CliRunner()


@pytest.fixture
def no_gpu(monkeypatch):
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)


def case_of(name, case):
    return next(each for each in kernel(name).cases if each.name == case)


def test_without_a_gpu_the_gate_runs_and_nothing_is_timed(no_gpu, tmp_path):
    out = tmp_path / "result.json"
    result = runner.invoke(app, ["bench", "gemm", "--out", str(out), "--json"])
    assert result.exit_code == 0, result.output
    values = json.loads(result.stdout)
    assert values == json.loads(out.read_text())
    tested = [case.name for case in kernel("quantized_linear").cases if not case.bench]
    assert [row["case"] for row in values["gates"]] == tested
    assert values["gate"] == {"passed": True, "failed": [], "cases": len(tested)}
    assert all(row["passed"] and row["max_error"] is not None for row in values["gates"])
    assert values["rows"] == [] and values["ceilings"] is None
    assert values["not_measured"] == "not measured: no CUDA device"
    assert {"commit", "versions", "device", "seed"} <= set(values)


def test_a_failed_gate_is_reported_and_is_exit_code_1(no_gpu, monkeypatch):
    rows = [
        {"kernel": "norm_quantize", "case": "one", "passed": True, "max_error": 0.0, "complaint": None},
        {"kernel": "norm_quantize", "case": "two", "passed": False, "max_error": None, "complaint": "y: all differ"},
    ]
    monkeypatch.setattr(module, "_interpreted_gates", lambda names: (row for row in rows))
    result = runner.invoke(app, ["bench", "kernels", "norm_quantize"])
    assert result.exit_code == 1
    assert "norm_quantize, two, gate: y: all differ" in result.stdout
    assert "not measured: no CUDA device" in result.stdout


def test_a_gate_that_stops_is_a_failure(no_gpu, monkeypatch):
    monkeypatch.setattr(sys, "executable", "/bin/false")
    with pytest.raises(RuntimeError, match="the gate stopped with code 1"):
        finish(bench_kernels(KernelBenchSpec(("gemm",))))


def test_the_gate_alone_reports_its_rows_as_they_come(no_gpu):
    job, seen = check_kernels(GateSpec(("paired_linear",))), []
    while True:
        try:
            update = next(job)
        except StopIteration as end:
            values = end.value.values
            break
        assert update.total == 9 and len(update.data["gates"]) == update.step
        seen.append(update.step)
    assert seen == sorted(seen) and set(seen) >= set(range(1, 10))
    assert values["gate"] == {"passed": True, "failed": [], "cases": 9} and values["interpreted"]
    assert all(row["passed"] and len(row["counts"]) == 8 for row in values["gates"])
    with pytest.raises(ValueError, match="unknown kernel 'scan'; known: "):
        GateSpec(("scan",))


def test_a_closed_gate_takes_its_process_with_it(no_gpu, monkeypatch):
    started, make = [], subprocess.Popen
    monkeypatch.setattr(subprocess, "Popen", lambda *a, **k: started.append(make(*a, **k)) or started[-1])
    job = check_kernels(GateSpec(("bidirectional_scan",)))
    assert next(job).step == 0
    job.close()
    assert started[0].returncode == -signal.SIGKILL


def test_without_triton_the_gate_says_what_to_do(no_gpu, monkeypatch):
    monkeypatch.setattr("ouro.kernels.launch.find_spec", lambda name: None)
    with pytest.raises(KernelError, match="triton is not installed; on Linux, pip install triton"):
        finish(check_kernels(GateSpec(("paired_linear",))))


def test_wrong_use_is_one_line(no_gpu):
    with pytest.raises(ValueError, match=re.escape("unknown kernel 'gem'; known: scan, gemm, rows, ")):
        KernelBenchSpec(("gem",))
    with pytest.raises(ValueError, match="no measured case has 'Vim-X' in its name; known words: Vim-T"):
        KernelBenchSpec(("gemm",), ("Vim-X",))
    with pytest.raises(ValueError, match="repeats is 0, expected 1 or more"):
        KernelBenchSpec(repeats=0)
    result = runner.invoke(app, ["bench", "scan", "--backend", "cuda"])
    assert result.exit_code == 2 and "backend is 'cuda', allowed are cpu and triton" in result.output


def test_words_choose_cases():
    spec = KernelBenchSpec(("gemm", "norm_quantize"), ("Vim-B", "b=8"))
    names = [case.name for name in spec.names for case in spec.cases(name)]
    assert names and all("Vim-B" in name and name.split()[-2] == "b=8" for name in names)
    assert spec.names == ("norm_quantize", "quantized_linear")


def measured(monkeypatch, name, case, times, verdict=None, failed=False, peers=True):
    """Rows of one case, with times given in the order in which they are taken."""
    clock = iter(times)
    monkeypatch.setattr(module, "check", lambda *_: verdict or Verdict(1e-6, None))
    monkeypatch.setattr(torch.cuda, "get_device_properties", lambda _: SimpleNamespace(L2_cache_size=1000))

    def taken(calls, repeats):
        for call in calls:
            call()
        return {"p20_ms": 0.9, "p50_ms": next(clock), "p80_ms": 1.2}

    monkeypatch.setattr(module, "_times", taken)
    tested = kernel(name)
    small = SimpleNamespace(**{f: getattr(tested, f) for f in ("name", "reference", "tolerances", "widen")})
    small.op = lambda backend, **inputs: tested.reference(**inputs)
    small.floor = lambda _: Floor(bytes=100, int8_ops=4000)
    rates = {"bytes": 1e6, "exps": 1e6, "int8_ops": 1e7, "half_ops": 1e6}
    return list(module._measured(small, case_of(name, case), CPU, KernelBenchSpec(peers=peers), rates, failed))


def test_rows_have_a_floor_and_what_ours_gains(monkeypatch):
    rows = measured(monkeypatch, "quantized_linear", "no bias", [0.8, 1.6, 1.2])
    # nine outputs are none of _int_mm's
    ours, half, brain = rows
    assert (ours["backend"], ours["gate"], ours["bound"]) == ("ouro", "passed", "int8_ops")
    assert ours["floor_ms"] == 0.4 and ours["achieved"] == 0.5 and "speedup" not in ours
    assert [row["backend"] for row in (half, brain)] == ["torch fp16", "torch bf16"]
    assert half["speedup"] == 2.0 and brain["speedup"] == 1.5


def test_a_case_that_fails_its_gate_is_timed_as_unverified(monkeypatch):
    (row,) = measured(
        monkeypatch, "norm_quantize", "odd sizes", [1.0], Verdict(float("inf"), "codes: 1 of 9 differ"), peers=False
    )
    assert row["gate"] == "unverified" and row["complaint"] == "codes: 1 of 9 differ" and row["p50_ms"] == 1.0
    assert row["max_error"] is None and json.dumps(row, allow_nan=False)
    # another case of the kernel failed
    (row,) = measured(monkeypatch, "norm_quantize", "odd sizes", [1.0], failed=True, peers=False)
    assert row["gate"] == "unverified" and row["p50_ms"] == 1.0 and "complaint" not in row


def test_what_does_not_compile_is_a_row_and_the_others_go_on(monkeypatch):
    def broken(*_):
        raise TypeError("_semantic argument must be provided\noutside of JIT functions")

    kept = kernel_gate.check
    monkeypatch.setattr(module, "check", broken)
    (row,) = module._measured(
        kernel("norm_quantize"), case_of("norm_quantize", "odd sizes"), CPU, KernelBenchSpec(), {}, False
    )
    complaint = "TypeError: _semantic argument must be provided outside of JIT functions"
    assert row["gate"] == "failed" and row["complaint"] == complaint and "p50_ms" not in row
    name = kernel("paired_linear").cases[0].name
    monkeypatch.setattr(
        kernel_gate, "check", lambda k, case, *rest: broken() if case.name == name else kept(k, case, *rest)
    )
    rows = list(kernel_gate.rows(["paired_linear"], torch.device("cpu" if interpreted() else "cuda")))
    assert [row["passed"] for row in rows] == [False] + [True] * 8
    assert rows[0]["complaint"] == complaint and rows[0]["max_error"] is rows[0]["share"] is None
    assert json.dumps(rows, allow_nan=False)


@pytest.mark.full
def test_gates_side_by_side_come_in_the_order_of_their_kernels(no_gpu):
    names = ("quantized_linear", "paired_linear")
    values = finish(check_kernels(GateSpec(names, processes=2)))[1].values
    wanted = [(name, case.name) for name in names for case in kernel(name).cases if not case.bench]
    assert [(row["kernel"], row["case"]) for row in values["gates"]] == wanted
    assert values["gate"] == {"passed": True, "failed": [], "cases": len(wanted)}
    with pytest.raises(ValueError, match="processes is 0, expected 1 or more"):
        GateSpec(processes=0)


def test_gates_are_a_command(no_gpu, monkeypatch, tmp_path):
    row = {"kernel": "paired_linear", "case": "one", "passed": True, "max_error": 0.0, "complaint": None}
    monkeypatch.setattr(module, "_interpreted_gates", lambda names: (row for _ in names))
    result = runner.invoke(app, ["bench", "gates", "paired_linear", "--out", str(tmp_path / "gates.json")])
    assert result.exit_code == 0, result.output
    assert "gate against float64" in result.stdout and "paired_linear" in result.stdout
    values = json.loads((tmp_path / "gates.json").read_text())
    assert values["gate"]["cases"] == 1 and values["interpreted"] and values["rows"] == []


def test_a_peer_that_stumbles_is_a_row_too(monkeypatch):
    peer = module.Peer("broken", ("norm_quantize",), lambda sets: 1 / 0)
    monkeypatch.setattr(module, "peers_of", lambda name: [peer])
    _, row = measured(monkeypatch, "norm_quantize", "odd sizes", [1.0])
    assert row["failed"] == "ZeroDivisionError: division by zero" and "speedup" not in row


def test_installed_peers_do_the_same_work():
    inputs = inputs_of(case_of("quantized_linear", "four bits, even sizes"), CPU)
    inputs = {
        name: value[:8] if name in ("weight", "weight_scale", "bias") else value for name, value in inputs.items()
    }
    inputs["bias"] = None
    wanted = kernel("quantized_linear").reference(**inputs)
    tried = []
    for peer in peers_of("quantized_linear"):
        if peer.module is None:
            (call,) = peer.make([inputs])
            assert_close(call().float(), wanted, name=peer.name, rtol=2e-2, atol=2e-2)
            tried.append(peer.name)
    assert tried == ["torch fp16", "torch bf16", "torch._int_mm"]
    two = inputs_of(case_of("quantized_linear", "two products"), CPU) | {"bias": None}
    half = next(peer for peer in PEERS if peer.name == "torch fp16").make([two])[0]()
    assert_close(half.float(), kernel("quantized_linear").reference(**two), rtol=2e-2, atol=2e-2)
    assert next(peer for peer in PEERS if peer.name == "torch._int_mm").make([two]) is None


def test_official_kernels_get_their_operands_in_their_layout(monkeypatch):
    def scan(u, delta, A, B, C, D, z=None):
        y = scan_reference.scan(ScanInputs(u, delta, A, B, C, D)).y
        return y if z is None else y * F.silu(z)

    def convolve(x, weight, bias, activation):
        assert activation == "silu"
        padded = F.pad(x, (weight.shape[1] - 1, 0))
        return F.silu(F.conv1d(padded, weight[:, None], bias, groups=len(weight)))

    interface, conv = ModuleType("mamba_ssm.ops.selective_scan_interface"), ModuleType("causal_conv1d")
    interface.selective_scan_fn, conv.causal_conv1d_fn = scan, convolve
    for name in ("mamba_ssm", "mamba_ssm.ops"):
        monkeypatch.setitem(sys.modules, name, ModuleType(name))
    monkeypatch.setitem(sys.modules, interface.__name__, interface)
    monkeypatch.setitem(sys.modules, "causal_conv1d", conv)
    tried = set()
    for peer in PEERS:
        if peer.name in ("mamba-ssm", "causal-conv1d"):
            tested = kernel(peer.kernels[0])
            case = next(c for c in tested.cases if not c.bench and c.name not in ("all-ones", "l3-e5-n3"))
            inputs = inputs_of(case, CPU) | ({"reverse": False} if tested.name == "selective_scan" else {})
            (call,) = peer.make([inputs])
            actual, wanted = call(), outputs(tested.reference(**inputs))
            actual = actual if isinstance(actual, tuple) else (actual,)
            for ours, theirs in zip(wanted.values(), actual, strict=True):
                theirs = theirs if theirs.shape == ours.shape else theirs.transpose(1, 2)
                assert_close(theirs, ours, name=tested.name, rtol=1e-4, atol=1e-4)
            tried.add(tested.name)
    assert tried == {"selective_scan", "bidirectional_scan", "causal_conv"}


def test_operands_rotate_through_more_than_a_cache():
    inputs = {"x": torch.zeros(1000), "bits": 4}
    assert len(rotated(inputs, 0)) == 4 and len(rotated(inputs, 10**9)) == 256
    sets = rotated(inputs, 20_000)
    assert len(sets) == 10 and sets[0]["bits"] == sets[9]["bits"] == 4
    assert len({x["x"].data_ptr() for x in sets}) == 10


def test_floor_is_of_the_slowest_kind():
    rates = {"bytes": 1e9, "exps": 1e6, "int8_ops": 1e9, "half_ops": 1e9}
    assert least_ms(Floor(bytes=2_000_000, exps=1000), rates) == (2.0, "bytes")
    assert least_ms(Floor(bytes=1, exps=5000), rates) == (5.0, "exps")


def test_quantiles_are_of_all_times():
    assert quantiles([float(i) for i in range(11)]) == {"p20_ms": 2.0, "p50_ms": 5.0, "p80_ms": 8.0}


@pytest.mark.skipif(not interpreted(), reason="Triton runs on a GPU here, the operands are on the CPU")
def test_the_loop_that_counts_exponentials_takes_them():
    from ouro.kernels.exponentials import exponential_loop

    x, y = torch.rand(64), torch.empty(64)
    exponential_loop[(2,)](x, y, ROUNDS=3, BLOCK=32)
    for _ in range(3):
        x = torch.exp2(-x)
    assert_close(y, x)


def result_file(path, rows, device="GPU"):
    path.write_text(json.dumps({"device": device, "commit": "c", "rows": rows}))
    return path


def row_of(case, p20, p50, p80):
    return {"kernel": "k", "case": case, "backend": "ouro", "p20_ms": p20, "p50_ms": p50, "p80_ms": p80}


def test_results_compare_by_their_scatter(tmp_path):
    before = result_file(
        tmp_path / "a.json", [row_of("a", 1.0, 2.0, 3.0), row_of("b", 1.0, 1.1, 1.2), row_of("c", 5, 5, 5)]
    )
    after = result_file(
        tmp_path / "b.json", [row_of("a", 0.4, 0.5, 0.6), row_of("b", 1.2, 1.3, 1.4), row_of("d", 5, 5, 5)], "CPU"
    )
    comparison = compare_benchmarks(before, after)
    assert [(row["case"], row["verdict"], row["speedup"]) for row in comparison["rows"]] == [
        ("a", "faster", 4.0),
        ("b", "same", 0.846),
    ]
    assert compare_benchmarks(after, before)["rows"][0]["verdict"] == "slower"
    assert not comparison["same_device"] and comparison["device"] == ["GPU", "CPU"]
    assert comparison["only_before"] == [["k", "c", "ouro"]] and comparison["only_after"] == [["k", "d", "ouro"]]
    shown = runner.invoke(app, ["bench", "compare", str(before), str(after)])
    assert shown.exit_code == 0 and "different devices: GPU and CPU" in shown.stdout


@pytest.mark.parametrize(
    ("text", "message"),
    [("{", "is no result file"), ("[]", "has no rows of a benchmark"), ('{"rows": []}', "no timed row")],
)
def test_files_that_cannot_be_compared_are_refused(tmp_path, text, message):
    good, bad = result_file(tmp_path / "a.json", [row_of("a", 1, 1, 1)]), tmp_path / "b.json"
    bad.write_text(text)
    with pytest.raises(ValueError, match=message):
        compare_benchmarks(good, bad)
    with pytest.raises(ValueError, match=message):
        compare_benchmarks(bad, good)
    with pytest.raises(ValueError, match="is no result file"):
        compare_benchmarks(good, tmp_path / "missing.json")
