"""Real images by factor as a line, other sets as points at the width of their ranges."""

import pytest

from ouro.figures import ranges


def row(bits, calib, factor, width, top1):
    return {
        "bits": bits,
        "calib": calib,
        "factor": factor,
        "width": width,
        "top1": top1,
        "ci95": [top1 - 0.1, top1 + 0.1],
    }


VALUES = {
    "model": "vim_nano", "method": "minmax", "n": 40,
    "rows": [row("w4a4", "noise", 1.0, 0.5, 0.6), row("w4a4", "real", 1.0, 1.0, 0.4), row("w4a4", "real", 0.5, 0.5, 0.65),
             row("w4a8", "noise", 1.0, 0.5, 0.7), row("w4a8", "real", 1.0, 1.0, 0.8)],
}  # fmt: skip


def test_points_are_where_the_rows_are(tmp_path):
    figure = ranges.paper(VALUES)
    narrow, wide = figure.axes
    real, noise = (container.lines[0] for container in narrow.containers)
    assert list(real.get_xdata()) == [0.5, 1.0] and list(real.get_ydata()) == [65, 40]
    assert list(noise.get_xdata()) == [0.5] and wide.get_title() == "w4a8"
    figure.savefig(tmp_path / "ranges.png")


def test_words_have_the_best_of_each_width():
    assert ranges.alt(VALUES) == (
        "Top-1 of vim_nano under minmax by the width of its ranges: at w4a4 ranges of real times 0.5 are best with 65.0 %; "
        "at w4a8 ranges of real are best with 80.0 %."
    )


def test_nothing_is_refused():
    with pytest.raises(ValueError, match="nothing to draw"):
        ranges.paper(VALUES | {"rows": []})
