"""Ranges of calibration sets: what narrowing does to a grid, how an error is split, and that rows are what was measured."""

from __future__ import annotations

import shutil

import pytest
import torch

from ouro.jobs.bench import ranges as module
from ouro.jobs.bench.ranges import RangeSpec, narrowed, static_ranges
from ouro.jobs.inputs import open_model
from ouro.quant import quantize
from ouro.quant.modules import TensorQuantizer
from ouro.taps import Tap
from ouro.types import QuantSpec
from tests.ouro.jobs.running import finish

SPEC = RangeSpec(
    "vim_nano", bits=("w4a4",), calibs=(("noise", "noise:3"), ("real", "real:3")), factors=(0.5,), seeds=(0, 1),
    looked_at=9, limit=20,
)  # fmt: skip


@pytest.fixture(scope="module")
def computed(in_tiny_zoo):
    return in_tiny_zoo(lambda root, _: finish(static_ranges(SPEC, root=root)))


@pytest.fixture
def report(computed, tiny_zoo, tmp_path):
    result, root = computed
    shutil.copytree(root, tmp_path, dirs_exist_ok=True)
    return result


def test_rows_say_how_wide_and_what_is_lost(report) -> None:
    updates, result = report
    rows = {(row["calib"], row["factor"]): row for row in result.values["rows"]}
    assert set(rows) == {("noise", 1.0), ("real", 1.0), ("real", 0.5)} and updates[-1].total == 6
    assert rows["real", 1.0]["width"] == 1 and rows["real", 0.5]["width"] == pytest.approx(0.5)
    # half the range: steps are half as long, and more is clipped
    assert rows["real", 0.5]["rounding"] < rows["real", 1.0]["rounding"]
    assert rows["real", 0.5]["clipping"] > rows["real", 1.0]["clipping"]
    assert rows["real", 0.5]["clipped"] > rows["real", 1.0]["clipped"] >= 0
    assert [pair["better"] for pair in result.values["pairs"]] == [
        {"calib": "noise", "factor": 1.0}, {"calib": "real", "factor": 0.5},
    ]  # fmt: skip


def test_errors_are_split_by_the_ends_of_the_grid() -> None:
    # steps of 1 from -2 to 13
    state = {"scale": torch.tensor([1.0]), "zero": torch.tensor([2.0])}
    quantizer = TensorQuantizer(Tap("linear.in", "b l c"), QuantSpec(4, False, "tensor"), state)
    x = torch.tensor([[[-4.0, -2.4, 0.25, 13.4, 15.0]]])
    clipping, rounding, squares, outside = module._split(x, quantizer).tolist()
    assert (clipping, outside) == (4 + 4, 2)
    assert rounding == pytest.approx(0.16 + 0.0625 + 0.16, rel=1e-6) and squares == pytest.approx(
        float(x.square().sum())
    )


def test_narrowing_leaves_weights_and_zero_points_alone(tiny_zoo) -> None:
    model = open_model("vim_nano")
    calibration = quantize(model, torch.randn(2, *model.info.input_size), method="minmax", bits="w4a4")
    half = narrowed(calibration, 0.5)
    for path, state in calibration.state.items():
        same = state["scale"] * (0.5 if "zero" in state else 1.0)
        assert torch.equal(half.state[path]["scale"], same), path
        assert "zero" not in state or torch.equal(half.state[path]["zero"], state["zero"])
    assert {"zero" in state for state in calibration.state.values()} == {True, False}


def test_what_is_kept_is_not_measured_again(report, tmp_path, monkeypatch) -> None:
    monkeypatch.setattr(module, "_cell", lambda *_: pytest.fail("measured again"))
    assert finish(static_ranges(SPEC, root=tmp_path))[1].values["rows"] == report[1].values["rows"]


def test_a_method_without_static_ranges_is_refused(tiny_zoo, tmp_path) -> None:
    spec = RangeSpec("vim_nano", "dynamic", ("w4a4",), (("real", "real:2"),), (), (0,), 2, 8)
    with pytest.raises(ValueError, match=r"dynamic has no single static range at '.*tap_in'; take minmax or clipped"):
        finish(static_ranges(spec, root=tmp_path))


@pytest.mark.parametrize(
    ("bad", "words"),
    [
        ({"calibs": (("noise", "noise:3"),)}, "calibs are noise; one has to be named 'real'"),
        ({"factors": (1.5,)}, "a factor is 1.5, expected above 0 and below 1"),
        ({"method": "min"}, "unknown quantization method 'min'"),
    ],
)
def test_a_wrong_spec_is_refused(bad, words) -> None:
    with pytest.raises(ValueError, match=words):
        RangeSpec("vim_nano", **bad)
