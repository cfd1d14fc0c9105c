"""The cost of the patched attention is reported behind a gate, and not at all when the gate fails."""

from __future__ import annotations

import pytest

import ouro.jobs.bench.alpha as module
from ouro.jobs.bench.alpha import AlphaBenchSpec, bench_alpha
from tests.ouro.jobs.running import finish

SMALL = AlphaBenchSpec(e=5, n=3, side=4, loop_side=3, window=3, repeats=2)


def test_three_ways_agree_and_are_timed() -> None:
    values = finish(bench_alpha(SMALL))[1].values
    assert values["gate"]["passed"] and values["gate"]["max_error"] < 1e-5
    timed = [(row["op"], row["backend"]) for row in values["rows"]]
    assert timed.count(("alpha_p", "compiled")) == 2 and ("alpha_p", "loop") in timed
    assert ("alpha_p with gradient", "compiled") in timed
    assert all(row["p20_ms"] <= row["p50_ms"] <= row["p80_ms"] for row in values["rows"])
    assert [row["ratio"] for row in values["rows"] if row["backend"] == "closed form"] == [1.0] * 3


def test_a_wrong_result_is_not_timed(monkeypatch) -> None:
    exact = module._compiled
    monkeypatch.setattr(module, "_compiled", lambda record, spec: 1.01 * exact(record, spec))
    values = finish(bench_alpha(SMALL))[1].values
    assert not values["gate"]["passed"] and values["rows"] == []


def test_a_window_wider_than_the_smaller_grid_is_refused() -> None:
    with pytest.raises(ValueError, match="window is 5, the smaller grid has only 4 patches a side"):
        AlphaBenchSpec(loop_side=4)
