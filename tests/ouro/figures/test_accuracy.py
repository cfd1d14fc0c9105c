"""One bar per evaluated model, at its height and with its interval."""

import re

import numpy as np
import pytest

from ouro.figures import accuracy


def row(method, bits, top1, calib="real:128", **changes):
    return {
        "model": "vim_nano", "data": "scenes", "scope": "lin", "method": method, "bits": bits, "calib": calib, "n": 100,
        "top1": top1, "ci95": [top1 - 0.1, top1 + 0.05], "fp_top1": 0.9, **changes,
    }  # fmt: skip


ROWS = [row("minmax", "w4a8", 0.8), row("minmax", "w4a4", 0.5), row("ouro", "w4a4o8", 0.85)]


def test_bars_stand_where_they_belong():
    figure = accuracy.screen(ROWS)
    minmax, ouro = figure.data
    assert (minmax.name, ouro.name) == ("minmax", "ouro o8")
    # w4a4 and w4a4o8 are one group
    assert list(minmax.x) == list(ouro.x) == ["w4a8", "w4a4"]
    np.testing.assert_allclose(minmax.y, [80, 50])
    np.testing.assert_allclose(ouro.y, [np.nan, 85])
    np.testing.assert_allclose(minmax.error_y.arrayminus, [10, 10])
    np.testing.assert_allclose(minmax.error_y.array, [5, 5])
    assert figure.layout.shapes[0].y0 == pytest.approx(90)


def test_calibration_sets_are_named_where_they_differ():
    figure = accuracy.screen([*ROWS, row("ouro", "w4a4o8", 0.7, calib="noise:128")])
    names = [bars.name for bars in figure.data]
    assert names == ["minmax, real:128", "ouro o8, real:128", "ouro o8, noise:128"]


def test_paper_has_the_same_bars(tmp_path):
    figure = accuracy.paper(ROWS)
    heights = [patch.get_height() for patch in figure.axes[0].patches]
    np.testing.assert_allclose(heights, [80, 50, np.nan, 85])
    figure.savefig(tmp_path / "accuracy.png")
    assert (tmp_path / "accuracy.png").stat().st_size > 5_000


def test_words_and_rows():
    assert accuracy.alt(ROWS) == (
        "Top-1 of 3 quantized models: best ouro at w4a4o8 with 85.0 %, worst minmax at w4a4 with 50.0 %; float 90.0 %."
    )
    header, rows = accuracy.table(ROWS)
    assert len(rows) == 3 and dict(zip(header, rows[2], strict=True))["top1"] == 0.85


@pytest.mark.parametrize(
    ("rows", "message"),
    [
        ([], "there is nothing to draw: give at least one evaluated model"),
        ([ROWS[0], row("ouro", "w4a4", 0.5, data="digits")], "these rows differ in data (digits, scenes); draw a "),
    ],
    ids=["none", "two data sets"],
)
def test_what_cannot_be_drawn_is_refused(rows, message):
    for draw in (accuracy.screen, accuracy.paper):
        with pytest.raises(ValueError, match=f"^{re.escape(message)}"):
            draw(rows)
