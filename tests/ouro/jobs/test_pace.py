"""The pace of a model: seconds of one image, the median of passes of which the first does not count."""

from __future__ import annotations

import pytest

from ouro.jobs import pace as module
from ouro.jobs.inputs import open_model
from ouro.types import ModelSource


def test_the_first_pass_is_not_counted(monkeypatch: pytest.MonkeyPatch) -> None:
    clock = iter([0.0, 2.0, 10.0, 11.0, 20.0, 25.0])
    monkeypatch.setattr(module.time, "perf_counter", lambda: next(clock))
    calls: list[int] = []
    # passes of 2, 1 and 5 s after one that nobody timed
    assert module._seconds(lambda: calls.append(1)) == 2.0 and len(calls) == 4


def test_a_classifier_is_judged_by_one_forward(tiny_zoo, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "_seconds", lambda work: work() is not None and 0.8)
    assert module.pace(open_model(ModelSource("vim_nano"))) == {"forward": 0.1, "judged": 0.1}
