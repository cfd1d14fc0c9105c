"""Both figures draw what the report holds."""

import numpy as np
import pytest
import torch

from ouro.figures import outliers
from ouro.types import Report, RunInfo


@pytest.fixture
def report():
    generator = torch.Generator().manual_seed(0)
    size = torch.rand(13, 20, generator=generator)
    size[4, 7] = 50
    dynamic = (size > 0.9).to(torch.uint8)
    values = {
        "model": "vim_nano", "path": "layers.0.mixer.in_proj.tap_in", "steps": 13, "channels": 20,
        "share_dynamic": dynamic.float().mean().item(), "missed_by_static": 0.25, "top_channels": [7, 3, 1],
    }  # fmt: skip
    static = torch.zeros(20, dtype=torch.uint8)
    static[7] = 1
    arrays = {"magnitude": size, "raw": dynamic, "dynamic": dynamic, "static": static, "threshold": torch.ones(13)}
    return Report("outliers", values, RunInfo("cpu", {}, "unknown", 0, 0.0), arrays)


def test_screen_holds_the_data(report):
    figure = outliers.screen(report)
    heat, mask, static, share, top = figure.data
    assert np.asarray(heat.customdata).shape == (20, 13)
    np.testing.assert_allclose(np.asarray(heat.z)[7, 4], np.log10(50), rtol=1e-6)
    np.testing.assert_array_equal(np.isfinite(np.asarray(mask.z, float)), report.arrays["dynamic"].T.bool().numpy())
    assert list(static.y) == [7]
    np.testing.assert_allclose(share.y, 100 * report.arrays["dynamic"].float().mean(1).numpy(), rtol=1e-6)
    assert list(top.y) == ["7", "3", "1"] and top.x[0] == 50


def test_paper_draws_without_a_display(report, tmp_path):
    outliers.paper(report).savefig(tmp_path / "outliers.png")
    assert (tmp_path / "outliers.png").stat().st_size > 10_000


def test_an_all_zero_tensor_can_be_drawn(report, tmp_path):
    report.arrays["magnitude"].zero_()
    assert outliers.screen(report).data
    outliers.paper(report).savefig(tmp_path / "outliers.svg")


def test_words_and_rows(report):
    share = 100 * report.values["share_dynamic"]
    assert outliers.alt(report) == (
        f"13 time steps by 20 channels of layers.0.mixer.in_proj.tap_in: {share:.1f} % are on the dynamic outlier list; "
        "a static list misses 25 % of the outliers."
    )
    header, rows = outliers.table(report)
    assert header == ["step", "max_abs", "threshold", "outliers", "listed"]
    assert len(rows) == 13 and rows[4][:2] == [4, 50.0]
