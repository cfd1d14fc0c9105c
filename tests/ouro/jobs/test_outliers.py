"""The job's lists are those of the rule, on the tensor that was asked for."""

import re

import pytest
import torch
from PIL import Image

from ouro.jobs.outliers import TENSORS, OutlierSpec, find_tap, outliers
from ouro.models import create_model
from ouro.quant.outliers import outlier_list
from ouro.quant.rules import OutlierRule
from tests.ouro.jobs.running import finish

DIRECTIONS = ("forward", "backward")
CHANNELS = {"in_proj": 32, "dt_proj": 2, "B": 16, "C": 16, "A_bar": 64 * 16, "B_bar": 64 * 16}


@pytest.mark.parametrize("tensor", TENSORS)
def test_every_tensor_can_be_looked_at(tiny_zoo, tensor):
    for direction in DIRECTIONS:
        _, report = finish(outliers(OutlierSpec("vim_nano", layer=1, tensor=tensor, direction=direction, n=2)))
        channels = CHANNELS.get(tensor, 64)
        assert (report.values["steps"], report.values["channels"]) == (50, channels)
        shapes = {name: tuple(array.shape) for name, array in report.arrays.items()}
        assert shapes == {
            "magnitude": (50, channels), "raw": (50, channels), "dynamic": (50, channels), "static": (channels,),
            "threshold": (50,), "cells": (50,),
        }  # fmt: skip


def test_lists_follow_the_rule(tiny_zoo):
    _, report = finish(outliers(OutlierSpec("vim_nano", tensor="in_proj", n=3)))
    size, raw, dynamic = (report.arrays[name] for name in ("magnitude", "raw", "dynamic"))
    assert torch.equal(outlier_list(size[None], OutlierRule(4, 8))[0], dynamic.bool())
    assert torch.equal(raw.bool(), size > report.arrays["threshold"][:, None])
    assert (dynamic >= raw).all() and raw.any()
    values, static = report.values, report.arrays["static"].bool()
    assert values["share_dynamic"] == dynamic.float().mean().item()
    assert values["missed_by_static"] == pytest.approx(((raw.bool() & ~static).sum() / raw.sum()).item())
    assert 0 <= values["jaccard"] <= 1
    # the model was given two loud channels
    assert set(values["top_channels"][:2]) == {0, 1}


def test_directions_read_the_image_in_opposite_order(tiny_zoo):
    cells = [
        finish(outliers(OutlierSpec("vim_nano", tensor="u", direction=direction, n=1)))[1].arrays["cells"]
        for direction in DIRECTIONS
    ]
    assert torch.equal(cells[0], cells[1].flip(0))
    assert cells[0].tolist() == [*range(24), -1, *range(24, 49)]


def test_an_image_file_can_be_looked_at(tiny_zoo, tmp_path):
    path = tmp_path / "gradient.png"
    Image.linear_gradient("L").resize((40, 30)).save(path)
    _, report = finish(outliers(OutlierSpec("vim_nano", image=str(path), n=1)))
    assert report.values["source"] == str(path) and report.values["steps"] == 50
    (tmp_path / "broken.png").write_bytes(b"no image")
    with pytest.raises(ValueError, match=r"^cannot read image .*broken\.png: "):
        finish(outliers(OutlierSpec("vim_nano", image=str(tmp_path / "broken.png"))))


def test_find_tap(tiny_zoo):
    model = create_model("vim_nano")
    assert find_tap(model, 0, "in_proj", "backward")[0] == "layers.0.mixer.in_proj.tap_in"
    assert find_tap(model, 1, "delta", "backward")[0] == "layers.1.mixer.scans.1.tap_delta"


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"layer": 2}, "layer is 2, vim_nano has layers 0 to 1"),
        ({"tensor": "x"}, "unknown tensor 'x'; known: in_proj, x_proj, dt_proj, out_proj, u, "),
        ({"direction": "up"}, "unknown direction 'up'; layer 0 of vim_nano has forward, backward"),
        ({"n": 0}, "n is 0, expected 1 or more"),
        ({"refresh": 0}, "refresh is 0, expected 1 or more"),
        ({"kappa": -1.0}, "kappa is -1.0, expected 0 or more"),
        ({"sample": None}, "there is nothing to look at: give a sample or an image file"),
        ({"sample": 10**6}, "sample is 1000000, the test split of scenes has 0 to 9999"),
    ],
)
def test_wrong_use_is_refused(tiny_zoo, change, message):
    with pytest.raises(ValueError, match=f"^{re.escape(message)}"):
        finish(outliers(OutlierSpec("vim_nano", **change)))
