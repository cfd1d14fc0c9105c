"""The CPU gives what the CPU gives; a device that does not is named, part by part."""

from __future__ import annotations

import torch

from ouro.evaluate import devices
from ouro.jobs.bench.devices import DeviceSpec, compare_devices
from tests.ouro.jobs.running import finish


def test_the_cpu_agrees_with_itself_to_the_last_bit(tiny_zoo, monkeypatch) -> None:
    plain = tuple(devices.parts())[:4]
    monkeypatch.setattr(devices, "parts", lambda: iter(plain))
    monkeypatch.setattr("ouro.jobs.bench.devices.parts", lambda: iter(plain))
    rows, report = finish(compare_devices(DeviceSpec("vim_nano", "cpu")))
    values = report.values
    assert values["gate"] == {"passed": True, "failed": []} and rows[-1].step == rows[-1].total == len(values["rows"])
    assert [row["part"] for row in values["rows"]] == ["forward", "states", "alpha", "alpha_p"]
    assert {row["max_error"] for row in values["rows"]} == {0.0}


def test_a_part_that_differs_or_stops_is_a_failure(tiny_zoo, monkeypatch) -> None:
    def stops(model, case):
        raise RuntimeError("no kernel for this\nand more")

    wrong = iter((torch.ones(2), torch.zeros(2)))
    parts = (
        devices._Part("differs", 0.1, lambda model, case: [next(wrong)], devices._largest),
        devices._Part("stops", 0.1, stops, devices._largest),
    )
    monkeypatch.setattr(devices, "parts", lambda: iter(parts))
    monkeypatch.setattr("ouro.jobs.bench.devices.parts", lambda: iter(parts))
    values = finish(compare_devices(DeviceSpec("vim_nano", "cpu")))[1].values
    assert values["gate"] == {"passed": False, "failed": ["differs", "stops"]}
    assert values["rows"][0]["max_error"] == 1 and values["rows"][1]["note"] == "RuntimeError: no kernel for this"
