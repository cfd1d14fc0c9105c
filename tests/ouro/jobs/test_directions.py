"""A direction's state at a patch knows of what it has read before, and of nothing else."""

from __future__ import annotations

import pytest
import torch

from ouro.jobs.directions import DirectionSpec, directions
from ouro.jobs.inputs import open_model
from ouro.progress import finish
from ouro.scan.order import to_raster
from ouro.taps import record


def test_maps_are_norms_of_h_where_each_step_reads():
    report = finish(directions(DirectionSpec("vim_nano", 2)))
    model = open_model("vim_nano", "cpu")
    pixels = report.arrays["image"][None].float() / 255
    mean, std = (torch.tensor(x).view(3, 1, 1) for x in (model.info.mean, model.info.std))
    with torch.no_grad(), record(model, "layers.2.mixer.scans.1.tap_h") as trace:
        model((pixels - mean) / std)
    (h,) = trace.tensors.values()
    order = list(model.mixers().values())[2][1]
    expected = to_raster(h[0].norm(dim=(0, 2)), order).view(14, 14)
    torch.testing.assert_close(report.arrays["norm/backward"], expected, rtol=1e-4, atol=1e-5)
    assert report.values["scans"] == ["forward", "backward"]


@pytest.mark.parametrize("name, scans", [("vmamba_nano", 4), ("localvmamba_nano", 4)])
def test_other_families_have_a_map_per_path(name, scans):
    report = finish(directions(DirectionSpec(name)))
    assert len([key for key in report.arrays if key.startswith("norm/")]) == scans


def test_a_layer_that_is_not_there_is_named():
    with pytest.raises(ValueError, match="layer is 6, vim_nano has layers 0 to 5"):
        finish(directions(DirectionSpec("vim_nano", 6)))
