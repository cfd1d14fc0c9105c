"""Bars at the medians, and none beside a gate that did not pass."""

import numpy as np
import pytest

from ouro.figures import times


def row(backend, p50, **changes):
    return {
        "op": "scan",
        "case": "b=1",
        "backend": backend,
        "p20_ms": p50 - 1,
        "p50_ms": p50,
        "p80_ms": p50 + 2,
        **changes,
    }


VALUES = {
    "op": "scan",
    "device": "some CPU",
    "gate": {"passed": True},
    "rows": [row("reference", 20.0), row("cpu", 5.0)],
}


def test_bars_reach_to_the_medians(tmp_path):
    (bars,) = times.screen(VALUES).data
    np.testing.assert_allclose(bars.x, [20, 5])
    np.testing.assert_allclose(bars.error_x.arrayminus, [1, 1])
    figure = times.paper(VALUES)
    np.testing.assert_allclose([patch.get_width() for patch in figure.axes[0].patches], [20, 5])
    figure.savefig(tmp_path / "times.png")


def test_words_and_rows():
    assert times.alt(VALUES) == "Median times on some CPU. scan, b=1: reference 20 ms, cpu 5 ms."
    assert times.table(VALUES)[1][1][:4] == ["scan", "b=1", "cpu", 4.0]


@pytest.mark.parametrize(
    "changes", [{"gate": {"passed": False}}, {"rows": [row("cpu", 5.0, gate="failed")]}], ids=["whole", "row"]
)
def test_no_times_beside_a_failed_gate(changes):
    with pytest.raises(ValueError, match="the gate did not pass"):
        times.paper(VALUES | changes)


def test_nothing_to_draw():
    with pytest.raises(ValueError, match="nothing to draw"):
        times.alt(VALUES | {"rows": []})
