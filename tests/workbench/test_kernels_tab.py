"""Views of the gate over its real rows, of stored times over files as the benchmarks write them, and the job behind."""

from __future__ import annotations

import html
import json
import re
import signal
import subprocess
import time
import warnings
from pathlib import Path
from typing import Any

import pytest
import torch

from ouro.jobs.bench.fused import _ratios as fused_ratios
from ouro.jobs.bench.kernels import NOT_MEASURED
from ouro.kernels import NAMES, gate, kernel
from ouro.kernels.gate import Verdict
from ouro.kernels.launch import interpreted
from tests.ouro.jobs.bench.test_kernels import measured as measured_by_bench
from workbench import checks, engine, kernels, runner, stored, times

ROOT = Path(__file__).resolve().parents[2]


@pytest.fixture(scope="module")
def rows() -> list[dict[str, Any]]:
    where = torch.device("cpu" if interpreted() else "cuda")
    with warnings.catch_warnings():
        # what hardware does with infinities and NaN in silence, numpy mentions
        warnings.simplefilter("ignore", RuntimeWarning)
        return list(gate.rows(["outlier_quantizer", "paired_linear"], where))


def of(rows: list[dict[str, Any]], name: str) -> list[dict[str, Any]]:
    return [row for row in rows if row["kernel"] == name]


def failed(row: dict[str, Any]) -> dict[str, Any]:
    return row | {"passed": False, "max_error": None, "share": None, "complaint": "y: 1 < 2 differ"}


def text(markup: str) -> str:
    return html.unescape(re.sub(r"<[^>]+>", " ", markup))


# ---- the gate --------------------------------------------------------------------------------------------------


def test_page_knows_every_kernel_and_every_level():
    assert tuple(checks.COMPUTES) == NAMES
    named = [float(level.removesuffix("%")) / 100 for level in checks.LEVELS[1:-1]]
    assert named == pytest.approx(gate.SHARES) and len(checks.LEVELS) == len(gate.SHARES) + 2


def test_chart_spreads_all_values_over_what_is_allowed(rows):
    selected = of(rows, "paired_linear")
    drawn = json.loads(checks.chart(selected))
    (bars,) = drawn["data"]
    assert sum(bars["customdata"]) == sum(sum(row["counts"]) for row in selected)
    assert sum(bars["y"]) == pytest.approx(1) and bars["y"][-1] == 0 and bars["y"][0] < 1
    # the border lies between the last two levels, whose middles are whole numbers
    assert drawn["layout"]["shapes"][0]["x0"] == len(bars["x"]) - 1.5
    assert drawn["alt"].endswith(checks.verdict_text(selected))


def test_several_kernels_have_a_place_each(rows):
    drawn = json.loads(checks.chart(rows))
    assert [bars["yaxis"] for bars in drawn["data"]] == ["y", "y2"]
    first, second = (drawn["layout"][axis]["domain"] for axis in ("yaxis", "yaxis2"))
    assert first[0] > second[1]
    assert checks.summary(of(rows, "paired_linear")) == ""
    lines = checks.summary(rows).split("<tr>")[2:]
    assert ["outlier_quantizer" in lines[0], "paired_linear" in lines[1]] == [True, True]
    assert "31 of 31" in lines[0] and "9 of 9" in lines[1]


def test_verdict_is_a_sentence(rows):
    exact, near = of(rows, "outlier_quantizer"), of(rows, "paired_linear")
    words = checks.verdict_text(exact)
    assert re.fullmatch(r"All 31 cases passed: [\d,]+ values, all equal to their definition\.", words)
    worst = max(near, key=lambda row: row["share"])
    words = checks.verdict_text(near)
    assert f"(paired_linear, {worst['case']})" in words and "so far" not in words
    assert checks.verdict_text(near[:3], over=False).startswith("3 cases passed so far: ")
    assert "so far" in checks.verdict(near) and "so far" not in checks.verdict(near, "a GPU")


def test_a_failure_comes_first_and_is_not_praised(rows):
    selected = of(rows, "paired_linear")
    selected = [*selected[:-1], failed(selected[-1])]
    assert checks.verdict_text(selected).startswith("1 of 9 cases failed: paired_linear.")
    table = checks.cases(selected)
    assert table.count("✓") == 8 and "y: 1 &lt; 2 differ" in table.split("<tr>")[2] and "∞" in table.split("<tr>")[2]
    assert json.loads(checks.chart(selected))["alt"].count("failed") == 1
    assert "∞" in checks.summary([*selected, *of(rows, "outlier_quantizer")])


def test_every_case_is_in_the_table(rows):
    table = checks.cases(rows)
    for name in ("outlier_quantizer", "paired_linear"):
        for case in kernel(name).cases:
            assert (case.name in text(table)) or case.bench
    assert table.count("<tr>") == 1 + len(rows)


@pytest.mark.parametrize("name", NAMES)
def test_card_has_the_least_work_of_a_measured_case(name: str):
    work = engine.kernel_work(name)
    assert work["case"] in [case.name for case in kernel(name).cases if case.bench]
    words = text(checks.card(name, work))
    assert f"The least that {work['case']} has to do: " in words and "bytes to and from memory" in words
    assert ("exponentials" in words) == bool(work["exps"])
    (readme,) = re.findall(r"kernels/\w+/README\.md", words)
    assert (ROOT / readme).is_file()


def test_nothing_is_claimed_before_anything_ran():
    assert "Nothing has been checked" in json.loads(checks.chart([]))["empty"]
    assert (checks.verdict([]), checks.summary([]), checks.cases([])) == ("", "", "")
    assert kernels.gate_rows(None) == ([], "")


# ---- the job ---------------------------------------------------------------------------------------------------


def test_rows_come_one_by_one_and_stay():
    job, seen = runner.start(kernels.KIND, lambda: engine.gate_job(("paired_linear",))), set()
    for _ in runner.follow(job):
        seen.add(len(kernels.gate_rows(job)[0]))
    assert job.state == "done", job.error
    rows, place = kernels.gate_rows(runner.latest(kernels.KIND))
    assert len(rows) == 9 and 9 in seen and all(row["passed"] for row in rows)
    assert place.startswith(job.result.run.device) and ("interpreter" in place) == job.result.values["interpreted"]


@pytest.mark.skipif(torch.cuda.is_available(), reason="a CUDA device needs no process of its own")
def test_cancelling_ends_the_process(monkeypatch: pytest.MonkeyPatch):
    started, make = [], subprocess.Popen
    monkeypatch.setattr(subprocess, "Popen", lambda *a, **k: started.append(make(*a, **k)) or started[-1])
    job = runner.start(kernels.KIND, lambda: engine.gate_job(("implicit_attention", "bidirectional_scan")))
    for _ in runner.follow(job):
        if kernels.gate_rows(job)[0]:
            job.cancel()
    assert job.state == "cancelled" and kernels.gate_rows(job)[0] and kernels.gate_rows(job)[1] == ""
    began = time.monotonic()
    while started[0].poll() is None and time.monotonic() - began < 20:
        time.sleep(0.1)
    # the cases that were left take minutes
    assert started[0].returncode == -signal.SIGKILL


def test_without_triton_the_remedy_is_shown(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    monkeypatch.setattr("ouro.kernels.launch.find_spec", lambda name: None)
    job = runner.start(kernels.KIND, lambda: engine.gate_job(("paired_linear",)))
    for _ in runner.follow(job):
        pass
    assert job.state == "failed"
    assert "failed: kernels cannot be checked here: triton is not installed; on Linux, pip install triton" in (
        text(runner.bar(job))
    )


# ---- stored times ----------------------------------------------------------------------------------------------


def kernel_file(rows: list[dict[str, Any]], **more: Any) -> dict[str, Any]:
    """A file as `ouro bench kernels --out` writes it."""
    gates = {"passed": True, "failed": [], "cases": 1}
    return {
        "op": "kernels", "device": "A GPU", "commit": "c", "versions": {"torch": "2"}, "gate": gates, "rows": rows,
        "missing": [{"peer": "torchao int8", "why": "torchao is not installed"}], "file": "kernels.json",
    } | more  # fmt: skip


@pytest.fixture
def timed(monkeypatch: pytest.MonkeyPatch) -> list[dict[str, Any]]:
    """Rows of one case by the code of the benchmark: ours and two peers."""
    return measured_by_bench(monkeypatch, "quantized_linear", "no bias", [0.8, 1.6, 1.2])


TOPIC = "quantized_linear, no bias"


def test_times_of_a_kernel_have_floor_gate_peers_and_ratios(timed):
    files = [kernel_file(timed)]
    assert times.devices(files) == ["A GPU"] and times.topics(files, "A GPU") == [TOPIC]
    shown = times.listed(files, "A GPU", TOPIC)
    ours, *others = shown.split("<tr>")[2:]
    assert "✓ passed" in ours and "2.00× torch fp16<br>1.50× torch bf16" in ours
    assert "0.400 (int8 products)" in ours and "50\u00a0%" in ours
    assert len(others) == 2 and not any("×" in line for line in others)
    drawn = json.loads(times.chart(files, "A GPU", TOPIC))
    assert [trace.get("name") for trace in drawn["data"]] == ["ours", "others", None, "floor"]
    assert drawn["data"][0]["x"] == [0.8] and drawn["data"][1]["x"] == [1.6, 1.2] and drawn["data"][3]["x"] == [0.4]
    assert drawn["data"][1]["error_x"]["array"] == pytest.approx([1.2 - 1.6, 0.0])
    words = text(times.source(files, "A GPU", TOPIC))
    assert "A GPU · quantized_linear, no bias · results/kernels.json · commit c" in words
    assert "Missing peers: torchao int8 (torchao is not installed)" in words


def test_no_ratio_stands_beside_a_failed_gate(timed, monkeypatch):
    broken = {"passed": False, "failed": ["quantized_linear"], "cases": 1}
    shown = times.listed([kernel_file(timed, gate=broken)], "A GPU", TOPIC)
    assert "×" not in shown and "✗ failed" in shown
    verdict = Verdict(9.0, "codes: 1 of 9 differ")
    wrong = measured_by_bench(monkeypatch, "norm_quantize", "odd sizes", [1.5], verdict, peers=False)
    shown = times.listed([kernel_file(wrong)], "A GPU", "norm_quantize, odd sizes")
    assert "×" not in shown and "✗ codes: 1 of 9 differ" in shown and "ours, unverified" in shown
    # its time is there to be looked at, drawn apart from those that a gate vouches for
    drawn = json.loads(times.chart([kernel_file(wrong)], "A GPU", "norm_quantize, odd sizes"))
    assert [trace.get("name") for trace in drawn["data"][:1]] == ["ours, unverified"]
    assert drawn["data"][0]["marker"]["symbol"] == "circle-open" and drawn["data"][0]["x"] == [1.5]
    assert "ours, unverified, 1.50 ms" in json.dumps(drawn, ensure_ascii=False)


def test_what_no_gate_let_be_timed_says_why():
    gate = {"passed": False, "failed": ["causal_conv"], "cases": 2}
    gates = [
        {"kernel": "causal_conv", "case": "odd sizes", "passed": False, "complaint": "u_f: 2 of 9 differ"},
        {"kernel": "causal_conv", "case": "even sizes", "passed": True, "complaint": None},
    ]
    files = [kernel_file([], gate=gate, gates=gates)]
    assert times.topics(files, "A GPU") == ["causal_conv"]
    shown = times.listed(files, "A GPU", "causal_conv")
    assert shown.count("<tr>") == 2 and "odd sizes" in shown and "✗ u_f: 2 of 9 differ" in shown and "×" not in shown
    model = {"format": "w8a8", "passed": False, "complaint": "logits are far away"}
    files = [kernel_file([], op="model", model="vim", gate={"passed": False, "failed": ["w8a8"]}, gates=[model])]
    assert "✗ logits are far away" in times.listed(files, "A GPU", "Whole model vim")


def test_no_time_without_the_name_of_a_device(timed):
    files = [kernel_file(timed, device="")]
    assert times.devices(files) == [] and "×" not in times.listed(files, "", TOPIC)


def test_a_case_is_taken_from_one_file(timed):
    slower = [row | {"p50_ms": 9.0} for row in timed]
    files = [kernel_file(timed), kernel_file(slower, file="later.json")]
    assert [row["p50_ms"] for row in times.measured(files)] == [0.8, 1.6, 1.2]
    assert "later.json" not in times.source(files, "A GPU", TOPIC)


def test_fused_models_are_compared_with_the_model_unfused():
    span = {"p20_ms": 1.0, "p80_ms": 9.0, "op": "model", "b": 8}
    others = [
        {**span, "case": "vim b=8 fp16", "format": "fp16", "backend": f"unfused, scan triton, {way}", "p50_ms": p50}
        for way, p50 in (("eager", 6.0), ("graph", 3.0))
    ]
    ours = {**span, "case": "vim b=8 w8a8", "format": "w8a8", "backend": "fused", "p50_ms": 2.0, "gate": "passed"}
    rows = [*others, ours | fused_ratios(ours, others)]
    for bad in ([], ["w8a8"]):
        file = kernel_file(rows, op="model", model="vim", gate={"passed": not bad, "failed": bad, "formats": 1})
        assert times.topics([file], "A GPU") == ["Whole model vim"]
        shown = times.listed([file], "A GPU", "Whole model vim")
        said = "3.00× unfused, scan triton, eager<br>1.50× unfused, scan triton, graph"
        assert (said in shown) == (not bad) and shown.count("×") == 2 * (not bad)


def test_stored_files_of_this_repository_are_shown():
    files = stored.benchmarks()
    assert {"scan", "model", "alpha_p", "packed"} <= {file["op"] for file in files}
    shown = 0
    for device in times.devices(files):
        for topic in times.topics(files, device):
            rows = [row for row in times.measured(files) if (row["device"], row["topic"]) == (device, topic)]
            assert json.loads(times.chart(files, device, topic)).get("data") or not any(row["p50_ms"] for row in rows)
            assert times.listed(files, device, topic).count("<tr>") == 1 + len(rows)
            assert device in times.source(files, device, topic)
            shown += len(rows)
    assert shown >= 21


def test_ratios_are_those_of_the_times_beside_them():
    files = stored.benchmarks()
    rows, seen = times.measured(files), 0
    for row in rows:
        for ratio, over in row["ratios"] if row["topic"] in ("Selective scan", "Patched attention") else []:
            (peer,) = [r for r in rows if (r["topic"], r["case"], r["backend"]) == (row["topic"], row["case"], over)]
            assert ratio == pytest.approx(peer["p50_ms"] / row["p50_ms"], rel=1e-2) and row["gate"]
            seen += 1
    assert seen == 5


def test_what_was_not_measured_is_said_with_what_measures_it(timed):
    files = [file for file in stored.benchmarks() if file["op"] == "scan" and "kernel" not in file["rows"][0]]
    assert times.NOT_MEASURED == NOT_MEASURED and NOT_MEASURED in times.unmeasured(files)
    assert (ROOT / times.SCRIPT.removeprefix("sh ")).is_file()
    left = times.unmeasured([*files, kernel_file(timed)])
    assert "Not measured yet" in left and "quantized_linear" not in left and "selective_scan" in left
    every = [kernel_file([row | {"kernel": name} for row in timed], file=name) for name in NAMES]
    assert times.unmeasured(every) == ""
    assert "No benchmark lies in results/" in json.loads(times.chart([], None, None))["empty"]
