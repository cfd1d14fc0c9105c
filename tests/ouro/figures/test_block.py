"""The overview has a box for every tensor and a path through every scan; the flow has what the report holds."""

import pytest
import torch

from ouro.figures import block
from ouro.types import Report, RunInfo

RUN = RunInfo("cpu", {}, "unknown", 0, 0.0)


def box(path, column, lane=None, bits=4, outliers=None, granularity="step"):
    return {
        "path": path, "site": "scan.u", "column": column, "lane": lane, "shape": [1, 3, 5], "bits": bits,
        "outlier_bits": outliers, "granularity": granularity if bits else "", "signed": True,
    }  # fmt: skip


@pytest.fixture
def overview():
    boxes = [
        box("in_proj.tap_in", 0, outliers=8), box("in_proj.tap_w", 0, granularity="channel"),
        box("scans.0.tap_u", 2, 0), box("scans.0.tap_h", 3, 0, bits=8), box("scans.0.tap_y", 4, 0, bits=None),
        box("scans.1.tap_u", 2, 1), box("scans.1.tap_y", 4, 1, bits=None), box("out_proj.tap_in", 5),
    ]  # fmt: skip
    values = {
        "model": "vim_nano", "layer": 2, "mixer": "layers.2.mixer", "method": "ouro", "bits": "w4a4o8", "scope": "rec",
        "lanes": ["forward", "backward"], "boxes": boxes,
    }  # fmt: skip
    return Report("block", values, RUN)


@pytest.fixture
def rounded():
    generator = torch.Generator().manual_seed(0)
    x = torch.randn(13, 20, generator=generator)
    x[4:6, 7] = 50
    listed = torch.zeros(13, 20, dtype=torch.uint8)
    listed[4:6, 7] = 1
    dynamic = torch.full((13,), torch.nan)
    dynamic[4:6] = 50 / 127
    values = {
        "model": "vim_nano", "path": "layers.0.mixer.in_proj.tap_in", "layer": 0, "tensor": "in_proj", "sample": 0,
        "bits": 4, "outlier_bits": 8, "refresh": 3, "kappa": 3.0, "steps": 13, "channels": 20, "share": 2 / 260,
        "errors": {"inliers": 0.01, "outliers": 0.002, "all_static": 7.5},
    }  # fmt: skip
    arrays = {"x": x, "rounded": x, "listed": listed, "static": torch.full((13,), 0.4), "dynamic": dynamic}
    return Report("mixed precision", values, RUN, arrays)


def test_every_tensor_has_its_box_and_words(overview, tmp_path):
    figure = block.paper(overview)
    (axes,) = figure.axes
    words = [text.get_text() for text in axes.texts]
    assert len(axes.patches) == len(overview.values["boxes"])
    assert "in_proj.in  1×3×5\n4 bits per step, outliers 8" in words and "y  1×3×5\nfloat" in words
    assert {"scan 0: forward", "scan 1: backward"} <= set(words)
    figure.savefig(tmp_path / "block.png")


def test_arrows_go_through_every_lane(overview):
    stacks = {(one["column"], one["lane"]): [one] for one in overview.values["boxes"]}
    arrows = block._arrows(stacks)
    assert set(arrows) == {
        ((0, None), (2, 0)), ((2, 0), (3, 0)), ((3, 0), (4, 0)), ((4, 0), (5, None)),
        ((0, None), (2, 1)), ((2, 1), (4, 1)), ((4, 1), (5, None)),
    }  # fmt: skip


def test_alt_counts(overview):
    assert block.alt(overview) == (
        "Layer 2 of vim_nano from left to right: 8 tensors in 2 scan(s) and around them; ouro at w4a4o8, scope rec, rounds 6 of "
        "them, 1 in two precisions."
    )


def test_flow_draws_both_steps_and_where_the_list_is_cleared(rounded, tmp_path):
    figure = block.flow(rounded, first=2)
    upper, lower, _ = figure.axes
    static, dynamic, *cleared = lower.lines
    assert list(static.get_xdata()) == list(range(2, 8)) and len(cleared) == 2
    assert static.get_ydata()[0] == pytest.approx(0.4) and dynamic.get_ydata()[2] == pytest.approx(50 / 127)
    # the listed channel is the first row
    shown = upper.images[1].get_array()
    assert shown[0].compressed().tolist() == [1, 1] and shown[1:].count() == 0
    figure.savefig(tmp_path / "flow.png")


def test_flow_refuses_steps_that_are_not_there(rounded):
    with pytest.raises(ValueError, match="the tensor has 13"):
        block.flow(rounded, first=13)


def test_flow_alt_has_the_errors(rounded):
    assert "0.002 in 8 bits, and would be 7.5 with the static step" in block.flow_alt(rounded)
    rounded.values["errors"]["outliers"] = None
    assert block.flow_alt(rounded).endswith("cleared every 3 steps.")
