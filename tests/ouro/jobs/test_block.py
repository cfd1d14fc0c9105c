"""The overview is made of the model itself, and the flow of the quantizer that calibration put there."""

from __future__ import annotations

import pytest
import torch

from ouro.jobs.block import AFTER, BEFORE, BlockSpec, FlowSpec, block, mixed_precision
from ouro.jobs.inputs import open_model
from ouro.progress import finish
from ouro.quant.plan import SCOPES
from ouro.taps import taps


@pytest.mark.parametrize("name", ["vim_nano", "vmamba_nano", "localvmamba_nano", "mambavision_nano"])
def test_every_tap_of_the_mixer_is_a_box_in_flow_order(name):
    values = finish(block(BlockSpec(name, 1, scope="rec"))).values
    mixer = f"{values['mixer']}."
    known = {path.removeprefix(mixer): tap for path, tap in taps(open_model(name, "cpu")) if path.startswith(mixer)}
    assert {box["path"] for box in values["boxes"]} == set(known)
    for lane in range(len(values["lanes"])):
        columns = [box["column"] for box in values["boxes"] if box["lane"] in (None, lane) and box["site"] != "gate"]
        assert min(columns) == BEFORE and max(columns) == AFTER
    for box in values["boxes"]:
        assert len(box["shape"]) == len(known[box["path"]].axes)
        assert box["bits"] is None or box["site"] in SCOPES["rec"]
    names = [box["path"].rsplit("tap_", 1)[-1] for box in values["boxes"] if box["lane"] == 0]
    assert names.index("B_bar") < names.index("h")


def test_a_layer_that_is_not_there_is_named():
    with pytest.raises(ValueError, match="layer is 99, vim_nano has layers 0 to 5"):
        finish(block(BlockSpec("vim_nano", 99)))


def test_inliers_have_the_static_step_and_outliers_the_dynamic_one():
    report = finish(mixed_precision(FlowSpec("vim_nano", calib="real:2")))
    arrays, listed = report.arrays, report.arrays["listed"].bool()
    assert listed.any() and report.values["share"] == pytest.approx(listed.float().mean().item())
    assert torch.equal(listed.any(1), ~arrays["dynamic"].isnan())
    gap = (arrays["rounded"] - arrays["x"]).abs()
    steps = arrays["dynamic"][:, None].expand_as(gap)
    assert (gap[listed] <= steps[listed] / 2 + 1e-6).all()
    codes = arrays["rounded"] / arrays["static"][:, None]
    torch.testing.assert_close(codes[~listed], codes[~listed].round())
    assert codes[~listed].abs().max() < 7.5
    assert report.values["errors"]["outliers"] < report.values["errors"]["all_static"]


def test_a_tensor_without_outliers_is_refused():
    with pytest.raises(ValueError, match="no outliers at w4a4"):
        finish(mixed_precision(FlowSpec("vim_nano", bits="w4a4", calib="real:2")))
