"""The job's lists are those of the rule, on the tensor that was asked for."""

import re

import pytest
import torch
from PIL import Image

from ouro.data import normalize
from ouro.data.source import open_data
from ouro.jobs.calibration import calibration_set
from ouro.jobs.inputs import open_model
from ouro.jobs.outliers import DISCRETIZED, TENSORS, OutlierSpec, find_tap, outliers, relit
from ouro.models import create_model
from ouro.quant.bits import Bits
from ouro.quant.method import Seen
from ouro.quant.methods.ouro import OuroMambaQuant
from ouro.quant.methods.static import Clipped
from ouro.quant.outliers import outlier_list
from ouro.quant.rules import OutlierRule
from ouro.taps import record
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


@pytest.mark.parametrize("bits", [3, 8])
@pytest.mark.parametrize("tensor", [tensor for tensor in TENSORS if tensor not in DISCRETIZED])
def test_rounded_values_are_those_of_the_quantizers(tiny_zoo, tensor, bits):
    """Of the real ones, attached to the tap and called by the model itself."""
    _, report = finish(outliers(OutlierSpec("vim_nano", layer=1, tensor=tensor, n=3, kappa=2.0, bits=bits)))
    got, values = report.arrays, report.values
    model = open_model("vim_nano")
    path, tap = find_tap(model, 1, tensor, "forward")
    info = model.info
    image = normalize(open_data("", "test", info).images(0, 1)[0], info.mean, info.std)
    known = calibration_set("real:3", "vim_nano", model, 0).images
    x, seen = (traced(model, path, images) for images in (image, known))
    width = Bits(bits, bits, 8)
    for method, prefix in ((OuroMambaQuant(kappa=2.0, kappa_delta=2.0), ""), (Clipped(), "static_")):
        spec = method.spec(tap, width)
        quantizer = method.build(tap, spec, method.fit(Seen(path, tap, spec, [seen])))
        expected = quantizer.rows(quantizer(x).detach())[0]
        assert torch.equal(got[f"{prefix}rounded"], expected)
        assert torch.equal(got[f"{prefix}step_size"], quantizer.scale.detach())
        ratio = 10 ** (got[f"{prefix}sqnr"].double() / 10) * (expected - got["x"]).double().square().sum(0)
        torch.testing.assert_close(ratio, got["x"].double().square().sum(0), rtol=1e-5, atol=0, equal_nan=True)
    assert torch.equal(got["x"].abs(), got["magnitude"])
    # every value is a code of its grid times its step
    listed = got["listed"].bool()
    for chosen, name, step, zero in (
        (~listed, "inliers", got["step_size"], got["zero"]),
        (listed, "outliers", got["outlier_step_size"], got["outlier_zero"]),
    ):
        low, high = values["grids"][name]
        codes = (got["rounded"] / step[:, None] + zero[:, None])[chosen]
        torch.testing.assert_close(codes, codes.round(), rtol=1e-5, atol=1e-4)
        assert codes.numel() == 0 or low - 0.5 < codes.min() <= codes.max() < high + 0.5
    error = (got["rounded"] - got["x"]).abs()
    half = got["step_size"][:, None].expand_as(error) / 2 * (1 + 1e-4)
    assert (error <= half)[~listed & ~got["clipped"].bool()].all() and not (got["clipped"].bool() & listed).any()
    assert got["outlier_step_size"].isnan().equal(~listed.any(1))
    assert (values["bits"], values["outlier_bits"]) == (bits, 8)


def traced(model, path, images):
    with torch.no_grad(), record(model, path) as trace:
        model(images)
    return trace.tensors[path]


def test_a_picture_is_relit(tiny_zoo):
    reports = [finish(outliers(OutlierSpec("vim_nano", n=1, light=light)))[1] for light in (1.0, 0.5, 1.5)]
    assert [report.values["light"] for report in reports] == [1.0, 0.5, 1.5]
    sizes = [report.arrays["magnitude"] for report in reports]
    assert not torch.equal(sizes[0], sizes[1]) and not torch.equal(sizes[0], sizes[2])
    assert all(torch.equal(reports[0].arrays["static"], report.arrays["static"]) for report in reports)
    pixels = torch.tensor([[0, 1, 100, 200, 255]], dtype=torch.uint8)
    assert relit(pixels, 1.5).tolist() == [[0, 2, 150, 255, 255]] and relit(pixels, 1.0).equal(pixels)


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
        ({"light": -0.5}, "light is -0.5, expected 0 or more"),
        ({"bits": 9}, "bits are 9 for inliers and 8 for outliers, expected 2 to 8, and no more for inliers than for"),
        ({"bits": 4, "tensor": "A_bar"}, "A_bar is rounded inside the recurrence, not step by step; leave bits out"),
        ({"sample": None}, "there is nothing to look at: give a sample or an image file"),
        ({"sample": 10**6}, "sample is 1000000, the test split of scenes has 0 to 9999"),
    ],
)
def test_wrong_use_is_refused(tiny_zoo, change, message):
    with pytest.raises(ValueError, match=f"^{re.escape(message)}"):
        finish(outliers(OutlierSpec("vim_nano", **change)))
