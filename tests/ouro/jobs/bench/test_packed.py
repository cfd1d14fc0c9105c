"""Packed models are timed behind a gate on every layer."""

from dataclasses import replace

import pytest

from ouro.jobs.bench import packed
from ouro.jobs.bench.packed import PackedBenchSpec, bench_packed
from ouro.models import zoo
from tests.ouro.jobs.running import finish


def test_bench_passes_its_gate_before_it_times(tiny_zoo):
    spec = PackedBenchSpec("vim_nano", ("w8a8", "w4a8"), (1, 3), repeats=2, images=2, calibration=4)
    updates, report = finish(bench_packed(spec))
    values = report.values
    assert values["gate"]["passed"] and values["gate"]["max_error"] < 1e-5 and updates[-1].step == updates[-1].total
    assert [row["backend"] for row in values["rows"]] == ["float32", "packed w8a8", "packed w4a8"] * 2
    keys = {"op", "case", "backend", "gate", "max_error", "agreement", "p20_ms", "p50_ms", "p80_ms", "ratio", "parts"}
    assert all(set(row) == keys for row in values["rows"]) and values["weights"] == "trained"
    parts = [row["parts"] for row in values["rows"]]
    assert all(set(part) == {"linear", "convolution", "scan", "norm", "rest"} for part in parts)
    assert min(min(part.values()) for part in parts) > 0


def test_bench_makes_up_weights_where_there_are_none(tiny_zoo, monkeypatch):
    monkeypatch.setattr(zoo, "vim_nano", replace(zoo.vim_nano, data="folder"))
    values = finish(bench_packed(PackedBenchSpec("vim_nano", ("w8a8",), (1,), repeats=1)))[1].values
    assert values["weights"] == "made up" and values["gate"]["passed"]
    assert [row["agreement"] for row in values["rows"]] == [None, None] and values["rows"][1]["ratio"] > 0


def test_bench_times_nothing_behind_a_failed_gate(tiny_zoo, monkeypatch):
    monkeypatch.setattr(packed, "LAYER_TOLERANCE", 0.0)
    spec = PackedBenchSpec("vim_nano", ("w8a8",), (1,), repeats=2, images=2, calibration=4)
    values = finish(bench_packed(spec))[1].values
    assert not values["gate"]["passed"] and not any("p50_ms" in row for row in values["rows"])


def test_bench_refuses_what_cannot_be_timed():
    with pytest.raises(ValueError, match="^repeats is 0, expected 1 or more$"):
        PackedBenchSpec("vim_nano", repeats=0)
    with pytest.raises(ValueError, match=r"^bits \(\) and batches \(1, 8\) give nothing to time; give one of each$"):
        PackedBenchSpec("vim_nano", ())
