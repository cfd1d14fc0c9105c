"""Tables with intervals: a pair is turned around where it stands the other way, what is missing is left out."""

from __future__ import annotations

import json

import pytest

from ouro.paper import ledger, markdown, real
from ouro.paper.verdict import MAIN, NOT_RESOLVED, NOT_SEEN, OPPOSITE, SEEN

GAP = {"difference": 0.02, "ci95": [0.01, 0.03], "seen": "yes", "won": 9, "lost": 5}
RUN = {"device": "a processor", "commit": "abc", "model": MAIN, "seeds": [0, 1, 2], "n": 2000}


@pytest.fixture
def results(tmp_path, monkeypatch):
    """An empty folder of stored results, and how to store one."""
    for module in (real, markdown, ledger):
        monkeypatch.setattr(module, "RESULTS", tmp_path)
    return lambda name, values: (tmp_path / name).write_text(json.dumps(RUN | values))


def side(method: str, calib: str) -> dict[str, str]:
    return {"method": method, "calib": calib}


def row(method: str, calib: str) -> dict:
    return {
        "method": method,
        "bits": "w4a4o8",
        "calib": calib,
        "top1": 0.8,
        "ci95": [0.78, 0.82],
        "effective_bits": {"activations": 4.3},
    }


def test_without_results_there_is_no_table(results) -> None:
    assert [make() for make in (real.quantization, real.ranges, real.equal, real.parts)] == [None] * 4


def test_sets_are_compared_either_way_around(results) -> None:
    pairs = [
        {"bits": "w4a4o8", "better": side("minmax", "noise"), "worse": side("minmax", "synthetic"), **GAP},
        {"bits": "w4a4o8", "better": side("minmax", "synthetic"), "worse": side("minmax", "real"), **GAP},
    ]
    rows = [row("minmax", calib) for calib in ("noise", "synthetic", "real")]
    results(
        f"quantization_{MAIN}.json",
        {
            "rows": rows,
            "pairs": pairs,
            "spec": {
                "model": {"name": MAIN},
                "methods": ["minmax"],
                "bits": ["w4a4o8"],
                "calibs": [["noise", "noise:64"]],
                "seeds": [0],
                "limit": 200,
            },
            "scope": "lin",
            "fp_top1": 0.82,
            "fp_ci95": [0.8, 0.84],
        },
    )
    text = real.quantization()
    assert text is not None and "| noise | MinMax | 80.0 (78.0 to 82.0) | 4.30 |" in text
    assert "| MinMax | synthetic over noise | -2.0 (-3.0 to -1.0) |" in text
    assert "| MinMax | synthetic over real | +2.0 (+1.0 to +3.0) |" in text and "noise over real" not in text
    # and the ledger says the same of them
    points = [
        point
        for point in ledger._sources(ledger.artefact("fig2").results())
        if point.word in (SEEN, OPPOSITE, NOT_RESOLVED)
    ]
    assert [(point.word, point.interval) for point in points] == [
        (OPPOSITE, pytest.approx((-2, -3, -1, 0))), (SEEN, pytest.approx((2, 1, 3, -1))),
    ]  # fmt: skip


def test_ranges_and_their_ledger(results) -> None:
    rows = [
        {"bits": "w4a4", "calib": calib, "factor": factor, "top1": 0.5, "ci95": [0.4, 0.6], "width": factor, "clipped": 0.01,
         "clipping": 0.002, "rounding": 0.03}
        for calib, factor in (("noise", 1.0), ("real", 1.0), ("real", 0.55))
    ]  # fmt: skip
    pairs = [
        {"bits": "w4a4", "better": {"calib": calib, "factor": factor}, **GAP}
        for calib, factor in (("noise", 1.0), ("real", 0.55))
    ]
    results("ranges_a.json", {"rows": rows, "pairs": pairs, "method": "minmax"})
    text = real.ranges()
    assert (
        text is not None
        and "| W4A4 | real × 0.55 | 0.55 | 50.0 (40.0 to 60.0) | +2.0 (+1.0 to +3.0) | 1.0 | 0.2 | 3.0 |" in text
    )
    claims = [(point.word, point.claim) for point in ledger._narrow(ledger.artefact("fig2").results())]
    assert [word for word, _ in claims] == [OPPOSITE, OPPOSITE] and "times 0.55" in claims[1][1]


@pytest.mark.parametrize(
    ("gap", "word"),
    [
        ((0.02, 0.01, 0.03), SEEN),
        ((0.008, 0.001, 0.015), NOT_SEEN),
        ((0.02, -0.01, 0.05), NOT_SEEN),
        ((-0.02, -0.03, -0.01), OPPOSITE),
    ],
)
def test_a_point_or_more_has_to_be_sure(results, gap, word) -> None:
    difference, low, high = gap
    place = {"scope": "ssm", "wide_A": True, "target": 3.25}
    rows = [place | {"method": name, "bits": 3.24, "top1": 0.8, "ci95": [0.78, 0.82]} for name in ("ouro_plus", "ouro")]
    pairs = [place | {"better": "ouro_plus", "worse": "ouro", "difference": difference, "ci95": [low, high]}]
    results("equal_a.json", {"rows": rows, "pairs": pairs, "calib": "real:64"})
    text = real.equal()
    assert text is not None and "| `ssm`, A at 8 bits | 3.25 | OuroMamba-Quant | 3.24 | 80.0 (78.0 to 82.0) |" in text
    (point,) = ledger._equal(ledger.artefact("ouro-plus").results())
    assert point.word == word and "A at 8 bits" in point.claim


def test_parts_name_what_they_are_compared_with(results) -> None:
    rows = [
        {
            "label": label,
            "top1": {"ouro w4a3o8": {"mean": 0.8, "spread": 0.01}},
            "activation_bits": {"ouro w4a3o8": 3.5},
        }
        for label in ("one static step", "a step per time step")
    ]
    claim = {"better": "a step per time step", "worse": "one static step", "measure": "ouro w4a3o8", **GAP}
    study = {
        "study": "parts",
        "title": "Parts of the quantizer",
        "model": MAIN,
        "n": 2000,
        "num": 64,
        "rows": rows,
        "claims": [claim],
    }
    results(f"ablations_parts_{MAIN}.json", {"studies": [study], "seeds": 3, "measures": ["ouro w4a3o8"]})
    text = real.parts()
    assert text is not None and "| one static step | 3.50 | 80.0 ± 1.0 |" in text
    assert "a step per time step over one static step: +2.0 (+1.0 to +3.0)" in text
