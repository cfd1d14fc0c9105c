"""The attention figures draw what the report says, for the screen and for print."""

from __future__ import annotations

import io
import re

import numpy as np
import pytest
import torch

from ouro.figures.attention import (
    alt,
    attention_matplotlib,
    attention_plotly,
    scores_matplotlib,
    scores_plotly,
    table,
)
from ouro.types import Report, RunInfo


@pytest.fixture
def report() -> Report:
    g = torch.Generator().manual_seed(0)
    arrays = {"image": torch.randint(0, 255, (3, 12, 12), generator=g, dtype=torch.uint8)}
    arrays["mask"] = torch.zeros(12, 12, dtype=torch.uint8)
    arrays["mask"][3:9, 3:9] = 1
    rows = []
    for layer in (0, 1):
        for source, reductions in (("h", ("received", "class")), ("h_p", ("received",)), ("delta", ("mean",))):
            for reduction in reductions:
                arrays[f"map/{layer}/both/{source}/{reduction}"] = torch.rand(3, 3, generator=g)
                row = {"layer": layer, "direction": "both", "source": source, "reduction": reduction, "auroc": 0.7}
                rows.append(row | dict.fromkeys(("auroc_lo", "auroc_hi", "pointing_lo", "pointing_hi"), None))
                rows[-1] |= {"pointing": 1.0, "leakage": 0.25}
    arrays |= {f"matrix/{source}": torch.randn(9, 9, generator=g) for source in ("h", "h_p")}
    values = {
        "model": "tiny", "layer": 1, "grid": [3, 3], "window": 3, "weights": "delta", "n": 0, "scored": 1,
        "auroc": {"h": 0.7, "h_p": 0.7}, "table": rows,
    }  # fmt: skip
    return Report("attention", values, RunInfo("cpu", {}, "unknown", 0, 0.0), arrays)


@pytest.mark.parametrize("query", [None, 4], ids=["reduction", "query"])
def test_attention_figures_draw_four_panels(report, query):
    screen = attention_plotly(report, query=query)
    panels = [trace for trace in screen.data if trace.type == "heatmap"]
    h, h_p, gap = (trace.z for trace in panels)
    for values in (h, h_p):
        assert np.mean(values) == pytest.approx(1)
    np.testing.assert_allclose(gap, h_p - h)
    assert panels[0].zmax == panels[1].zmax
    assert panels[2].zmin == -panels[2].zmax
    # the outline of the object runs along its edge, in units of patches
    outline = next(trace for trace in screen.data if trace.type == "contour")
    assert (outline.x[0], outline.x[-1]) == pytest.approx((-0.375, 2.375))
    screen.to_json()
    paper = attention_matplotlib(report, query=query)
    note = ", AUROC 0.70" if query is None else ""
    assert [axes.get_title() for axes in paper.axes[:4]] == ["input", f"$h${note}", f"$h_p${note}", "$h_p$ − $h$"]
    paper.savefig(io.BytesIO(), format="png")


def drawn(report: Report) -> tuple[list[np.ndarray], list[np.ndarray]]:
    """The maps of h and h_p and their difference, on the screen and in print."""
    screen = [trace.z for trace in attention_plotly(report).data if trace.type == "heatmap"]
    paper = attention_matplotlib(report)
    paper.savefig(io.BytesIO(), format="svg")
    return screen, [np.asarray(axes.images[0].get_array()) for axes in paper.axes[1:4]]


def outlines(report: Report) -> tuple[int, int]:
    """How many panels have the object's outline, on the screen and in print."""
    screen = [trace for trace in attention_plotly(report).data if trace.type == "contour"]
    return len(screen), sum(bool(axes.collections) for axes in attention_matplotlib(report).axes[1:4])


def test_attention_figures_without_a_mask_show_the_same_maps_and_no_outline(report):
    before, outlined = drawn(report), outlines(report)
    del report.arrays["mask"]
    assert outlined == (3, 3) and outlines(report) == (0, 0)
    for maps, others in zip(before, drawn(report), strict=True):
        assert len(maps) == len(others) == 3
        np.testing.assert_array_equal(maps, others)


def test_attention_figures_draw_dead_maps_as_nothing(report):
    for name in [name for name in report.arrays if name.startswith("map/")]:
        report.arrays[name].zero_()
    for maps in drawn(report):
        assert len(maps) == 3 and not np.any(maps)
    # a range of no width has no colors
    *_, gap = (trace for trace in attention_plotly(report).data if trace.type == "heatmap")
    assert gap.zmin < 0 < gap.zmax


@pytest.mark.parametrize(
    ("choice", "message"),
    [
        ({"reduction": "class"}, "the report holds no map 'map/1/both/h_p/class'"),
        ({"layer": 7}, "the report holds no map 'map/7/both/h/received'"),
        ({"query": 9}, "the report holds no row of patch 9 in layer 1"),
        ({"query": 0, "layer": 0}, "the report holds no row of patch 0 in layer 0"),
    ],
)
def test_attention_figures_refuse(report, choice, message):
    for draw in (attention_plotly, attention_matplotlib):
        with pytest.raises(ValueError, match=re.escape(message)):
            draw(report, **choice)


def test_score_figures_put_h_and_h_p_side_by_side(report):
    h, h_p = scores_plotly(report).data
    assert (list(h.x), list(h_p.x), list(h.y)) == (["received", "class"], ["received"], [0, 1])
    assert np.all(h.z == 0.7)
    assert h.zmin + h.zmax == pytest.approx(1)
    figure = scores_matplotlib(report)
    figure.savefig(io.BytesIO(), format="png")
    assert [axes.get_title() for axes in figure.axes[:2]] == ["$h$", "$h_p$"]
    with pytest.raises(ValueError, match=re.escape("the report holds no scores of direction 'forward'")):
        scores_plotly(report, direction="forward")


def test_alt_and_table_say_the_same_in_words(report):
    assert "0.700 for h and 0.700 for h_p, over this image" in alt(report)
    header, rows = table(report)
    assert rows[0] == [0, "both", "h", "received", 0.7, None, None, 1.0, None, None, 0.25]
    assert len(header) == len(rows[0])
    report.values["auroc"].update(h=None, h_p=None)
    assert alt(report).endswith("no mask is known, so nothing is scored.")
