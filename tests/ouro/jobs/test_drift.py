"""The drift of the state is that of both models' own states, and nothing where nothing is rounded."""

import pytest
import torch

from ouro.data import normalize
from ouro.jobs.drift import DriftSpec, drift
from ouro.jobs.evaluate import opened_beside
from ouro.jobs.inputs import one_image, source_of
from ouro.jobs.quantize import QuantizeSpec, quantize
from ouro.scan import selective_scan
from ouro.taps import record
from tests.ouro.jobs.running import finish


def made(tmp_path, bits: str, **more) -> str:
    _, report = finish(quantize(QuantizeSpec("vim_nano", "minmax", bits, calib="noise:4", **more), root=tmp_path))
    return report.values["path"]


def test_the_error_is_that_of_the_states_that_the_scans_compute(tiny_zoo, tmp_path):
    path = made(tmp_path, "w4a4")
    _, report = finish(drift(DriftSpec("vim_nano", path, layer=1)))
    assert report.values["directions"] == ["forward", "backward"] and report.values["layers"] == 2
    _, exact, rounded, _ = opened_beside(source_of("vim_nano"), path, "cpu")
    x = normalize(one_image(exact.info, 0, None, "")[0], exact.info.mean, exact.info.std)
    states = []
    for model in (exact, rounded):
        with torch.no_grad(), record(model, "layers.1.mixer.scans.*") as trace:
            model(x)
        states.append([selective_scan(scan.inputs, keep_states=True).h for scan in trace.scans])
    for name, h, h_q in zip(report.values["directions"], *states, strict=True):
        error = (h_q - h).flatten(0, 1).movedim(1, 0).flatten(1).norm(dim=1) / h.flatten(0, 1).movedim(1, 0).flatten(
            1
        ).norm(dim=1)
        torch.testing.assert_close(report.arrays[f"error/{name}"], error, rtol=1e-3, atol=1e-5)
        assert report.values["worst"][name] == int(report.arrays[f"error/{name}"].argmax())
        assert len(report.arrays[f"cells/{name}"]) == len(error)
    assert 0.001 < report.values["mean"]["forward"] < 10


def test_more_bits_drift_less(tiny_zoo, tmp_path):
    errors = [
        finish(drift(DriftSpec("vim_nano", made(tmp_path, bits), layer=1)))[1].values["mean"]["forward"]
        for bits in ("w4a4", "w8a8")
    ]
    assert errors[1] < 0.3 * errors[0]


def test_what_is_not_there_is_refused(tiny_zoo, tmp_path):
    with pytest.raises(ValueError, match="nothing to compare with"):
        DriftSpec("vim_nano", "")
    with pytest.raises(ValueError, match="layer is 2, vim_nano has layers 0 to 1"):
        finish(drift(DriftSpec("vim_nano", made(tmp_path, "w4a4"), layer=2)))
