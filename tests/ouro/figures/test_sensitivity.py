"""One cell per block and kind at its KL, and one point per row that was rounded."""

import re

import numpy as np
import pytest

from ouro.figures import sensitivity


def row(block, kind, kl, isolated=0.0, drop=0.0):
    return {
        "name": f"{block} {kind}", "block": block, "kind": kind, "sites": 2, "bits": [4, 8], "kl": kl, "top1_drop": drop,
        "sqnr_db": None, "isolated_kl": isolated,
    }  # fmt: skip


def report(rows, **changes):
    return {
        "model": "vim_nano", "data": "scenes", "bits": "w4a4", "method": "clipped", "scope": "full", "n": 100,
        "mode": "cumulative", "by": "group", "fp_top1": 0.9, "rows": rows,
        "whole": {"kl": 0.5, "top1_drop": 0.2, "sqnr_db": 3.0}, **changes,
    }  # fmt: skip


CUMULATIVE = report(
    [
        row("stem", "embed.in", 0.0),
        row("layers.10", "linear.in", 0.01, 0.01),
        row("head", "head.in", 0.1, 0.1),
        row("layers.2", "linear.in", 0.5, 0.4, 0.2),
    ]
)
LEFT_OUT = report([row("layers.2", "linear.in", 0.3, None)], mode="leave_one_float")


def test_cells_stand_where_they_belong():
    (cells,) = sensitivity.screen(CUMULATIVE).data
    assert list(cells.x) == ["stem", "layers.2", "layers.10", "head"]
    assert list(cells.y) == ["embed.in", "head.in", "linear.in"]
    expected = np.full((3, 4), np.nan)
    expected[2, 1], expected[2, 2], expected[1, 3] = 0.4, 0.01, 0.1
    np.testing.assert_allclose(10 ** np.array(cells.z), expected)
    np.testing.assert_allclose(cells.customdata, expected)


def test_paper_has_the_same_cells(tmp_path):
    figure = sensitivity.paper(CUMULATIVE)
    shown = figure.axes[0].images[0]
    np.testing.assert_allclose(
        np.ma.filled(shown.get_array(), np.nan), sensitivity.screen(CUMULATIVE).data[0].customdata
    )
    assert (shown.norm.vmin, shown.norm.vmax) == (0.01, 0.4)
    figure.savefig(tmp_path / "map.png")
    assert (tmp_path / "map.png").stat().st_size > 5_000


def test_a_map_without_any_damage_can_be_drawn(tmp_path):
    nothing = report([row("stem", "embed.in", 0.0)])
    assert np.isnan(sensitivity.screen(nothing).data[0].z).all()
    sensitivity.paper(nothing).savefig(tmp_path / "map.png")


def test_the_curve_has_a_point_per_row():
    kl, top1 = sensitivity.screen_curve(CUMULATIVE).data
    np.testing.assert_allclose(kl.y, [np.nan, 0.01, 0.1, 0.5])
    np.testing.assert_allclose(top1.y, [90, 90, 90, 70])
    assert list(kl.x) == [1, 2, 3, 4] and kl.customdata[3] == "layers.2 linear.in"


def test_words_and_rows():
    assert sensitivity.alt(CUMULATIVE) == (
        "4 row(s) of vim_nano at w4a4 alone: KL from 0 (stem embed.in) to 0.4 (layers.2 linear.in). All rounded: KL 0.5, "
        "top-1 70.0 % of 90.0 %."
    )
    assert sensitivity.alt(LEFT_OUT).startswith(
        "1 row(s) of vim_nano at w4a4 left out: KL from 0.3 (layers.2 linear.in)"
    )
    header, rows = sensitivity.table(CUMULATIVE)
    assert dict(zip(header, rows[3], strict=True)) | {"bits": [4, 8]} == CUMULATIVE["rows"][3] and rows[3][4] == "4 8"


@pytest.mark.parametrize(
    ("draw", "values", "message"),
    [
        ("screen", report([]), "there is nothing to draw: give a report with at least one site"),
        ("screen", LEFT_OUT, "mode 'leave_one_float' does not measure sites alone; draw one that was isolated or "),
        ("screen_curve", LEFT_OUT, "mode 'leave_one_float' rounds no row after another; draw one that was cumulative"),
    ],
    ids=["none", "not alone", "no curve"],
)
def test_what_cannot_be_drawn_is_refused(draw, values, message):
    for name in (draw,) if draw == "screen_curve" else ("screen", "paper"):
        with pytest.raises(ValueError, match=f"^{re.escape(message)}"):
            getattr(sensitivity, name)(values)
