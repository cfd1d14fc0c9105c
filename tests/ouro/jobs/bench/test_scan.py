"""Peers of the CPU scan compute what it does, are timed behind the same gate, and what they stumble over is a row."""

from __future__ import annotations

import pytest
import torch

import ouro.jobs.bench.scan as module
from ouro import create_model
from ouro.jobs.bench.model import ModelBenchSpec, _compiled
from ouro.jobs.bench.scan import BOTH, FORWARD, ScanBenchSpec, bench_scan, strongest
from ouro.jobs.bench.scan_peers import PEERS, ScanPeer, served_by
from ouro.scan import reference, selective_scan
from tests.ouro.jobs.running import finish
from tests.testing import assert_close

SPEC = ScanBenchSpec(b=2, e=6, l=11, n=3, repeats=2, reference_repeats=1)


@pytest.fixture
def eager(monkeypatch):
    """The peers as they are written; torch.compile takes minutes and is torch's to test."""

    def as_it_is(function=None, **_):
        return (lambda inner: inner) if function is None else function

    monkeypatch.setattr(torch, "compile", as_it_is)


@pytest.mark.parametrize("peer", PEERS, ids=lambda peer: peer.name)
@pytest.mark.parametrize("groups", [None, 2])
def test_peers_are_the_scan(eager, peer, groups):
    inputs = module._inputs(SPEC)
    if groups:
        B, C = (torch.randn(2, groups, 3, 11, generator=torch.Generator().manual_seed(s)) for s in (1, 2))
        inputs = module.replace(inputs, B=B, C=C)
    assert_close(peer.make()(inputs), selective_scan(inputs, backend="reference").y, rtol=1e-5, atol=1e-6)


def test_rows_of_peers_stand_beside_ours(eager, monkeypatch):
    # seconds for each of nine rows
    monkeypatch.setattr(module, "peak_mb", lambda call: 1.0)
    _, report = finish(bench_scan(SPEC))
    rows = {(row["op"], row["backend"]): row for row in report.values["rows"]}
    assert len(rows) == 4 + sum(1 + peer.trains for peer in PEERS)
    assert all(row["gate"] == "passed" and row["p50_ms"] > 0 and row["ratio"] > 0 for row in rows.values())
    for mode in (FORWARD, BOTH):
        op = f"scan {mode}"
        best = report.values["strongest"][op]
        ours = rows[op, "cpu"]["p50_ms"]
        others = [row["p50_ms"] for (one, name), row in rows.items() if one == op and name not in ("cpu", "reference")]
        assert best["p50_ms"] == min(others) and best["ratio"] == round(min(others) / ours, 2)


def test_a_peer_that_stumbles_or_is_wrong_has_no_time(eager, monkeypatch):
    def stumbles():
        return lambda inputs: 1 / 0

    def wrong():
        return lambda inputs: selective_scan(inputs).y + 1e-3

    monkeypatch.setattr(module, "PEERS", (ScanPeer("broken", stumbles), ScanPeer("wrong", wrong, trains=False)))
    _, report = finish(bench_scan(SPEC))
    broken, both, far = report.values["rows"][-3:]
    assert broken["failed"] == both["failed"] == "ZeroDivisionError: division by zero" and broken["gate"] == "failed"
    assert far["gate"] == "failed" and far["max_error"] > 1e-5
    assert not any("p50_ms" in row or "ratio" in row for row in (broken, both, far))
    assert report.values["strongest"] == {}


def test_the_strongest_is_the_fastest_that_is_not_ours():
    rows = [
        {"op": "scan", "backend": name, "p50_ms": time}
        for name, time in (("reference", 9.0), ("cpu", 2.0), ("a", 8.0), ("b", 5.0))
    ]
    assert strongest([*rows, {"op": "scan", "backend": "c", "gate": "failed"}]) == {
        "scan": {"peer": "b", "p50_ms": 5.0, "ratio": 2.5}
    }


@pytest.mark.full
def test_a_model_is_compiled_block_by_block_and_left_as_it_was(eager, monkeypatch):
    monkeypatch.setattr(torch.nn.Module, "compile", lambda self, **_: None)
    model, definition = create_model("vim_nano", pretrained=True), reference.scan
    images = torch.randn(2, *model.info.input_size, generator=torch.Generator().manual_seed(0))
    rows = list(_compiled(ModelBenchSpec("vim_nano", batch=2, repeats=1), model, images))
    assert [row["backend"] for row in rows] == [f"torch.compile, {peer.name}" for peer in PEERS]
    assert all(row["gate"] == "passed" and row["p50_ms"] > 0 for row in rows), rows
    assert reference.scan is definition
    with pytest.raises(ZeroDivisionError), served_by(lambda inputs: 1 / 0):
        selective_scan(module._inputs(SPEC), backend="reference")
    assert reference.scan is definition
