"""A model of any family is timed against itself with the loop over tokens, and only if both say the same."""

from __future__ import annotations

import re

import pytest
import torch

import ouro.jobs.bench.model as module
from ouro.jobs.bench.model import ModelBenchSpec, bench_model
from ouro.jobs.bench.timing import peak_mb
from ouro.taps import ScanModule
from ouro.types import ModelSource
from tests import zoo
from tests.ouro.jobs.running import finish


@pytest.fixture(autouse=True)
def small_models(monkeypatch):
    monkeypatch.setattr(module, "open_untrained", lambda source, seed: zoo.small(source.name))


@pytest.mark.parametrize("name", [name for name in zoo.DISTINCT if "nano" not in name])
def test_every_family_passes_the_gate_and_is_timed(name) -> None:
    updates, report = finish(bench_model(ModelBenchSpec(name, batch=2, repeats=2, peers=False)))
    gate, (reference, compiled) = report.values["gate"], report.values["rows"]
    assert gate["passed"] and 0 <= gate["max_error"] <= gate["tolerance"] == module.MODEL_TOLERANCE
    assert [row["backend"] for row in (reference, compiled)] == ["reference", "cpu"]
    assert reference["case"] == compiled["case"] == f"{name} b=2 float32"
    for row in (reference, compiled):
        assert 0 < row["p20_ms"] <= row["p50_ms"] <= row["p80_ms"] and row["peak_mb"] > 0
    assert compiled["ratio"] == pytest.approx(reference["p50_ms"] / compiled["p50_ms"], abs=0.01)
    assert [update.step for update in updates] == sorted(update.step for update in updates)


def test_the_gate_sees_a_scan_that_is_wrong(monkeypatch) -> None:
    from ouro.scan import reference

    right = reference.scan

    def wrong(*args, **kwargs):
        out = right(*args, **kwargs)
        return type(out)(y=out.y + 0.1, h=out.h, y_p=out.y_p)

    monkeypatch.setattr(reference, "scan", wrong)
    _, report = finish(bench_model(ModelBenchSpec("vim_tiny_patch16_224", batch=1, repeats=1, peers=False)))
    assert not report.values["gate"]["passed"]
    assert all(row["gate"] == "failed" and "p50_ms" not in row for row in report.values["rows"])


def test_the_loop_runs_once_for_the_gate_once_for_the_clock_and_once_for_the_memory(monkeypatch) -> None:
    calls = []

    def counted(source: ModelSource, seed: int) -> torch.nn.Module:
        model = zoo.small(source.name)
        scans = [m for m in model.modules() if isinstance(m, ScanModule)]
        scans[0].register_forward_pre_hook(lambda scan, _: calls.append(scan.backend))
        return model

    monkeypatch.setattr(module, "open_untrained", counted)
    finish(bench_model(ModelBenchSpec("vmamba_tiny", batch=1, repeats=2, peers=False)))
    assert calls.count("reference") == 3 and calls.count("cpu") == 1 + 1 + 2 + 1


def test_peak_memory_is_what_a_call_held_and_nothing_is_said_about_it(capfd) -> None:
    assert peak_mb(lambda: torch.ones(500, 1000).sum()) == pytest.approx(2.0, rel=0.02)
    assert capfd.readouterr() == ("", "")


def test_counts_below_one_are_refused() -> None:
    with pytest.raises(ValueError, match=f"^{re.escape('batch is 0, expected 1 or more')}$"):
        ModelBenchSpec("vim_nano", batch=0)
