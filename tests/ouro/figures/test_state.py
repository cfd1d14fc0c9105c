"""A bar per rule and width, at its error."""

import numpy as np
import pytest

from ouro.figures import state

VALUES = {
    "model": "vim_nano", "calib": "real:32", "n": 16,
    "means": [
        {"bits": bits, "rule": rule, "h_error": h, "y_error": h / 10, "layers_better_than_step": 0, "layers": 6}
        for bits, rule, h in ((8, "step", 0.2), (8, "step factors", 0.1), (6, "step", 0.6), (6, "step factors", 0.4))
    ],
}  # fmt: skip


def test_bars_stand_where_they_belong(tmp_path):
    eight, six = [bars for bars in state.screen(VALUES).data if bars.showlegend]
    assert (eight.name, six.name) == ("8 bits", "6 bits")
    assert list(eight.y) == ["per time step", "per time step, factors"]
    np.testing.assert_allclose(six.x, [0.6, 0.4])
    figure = state.paper(VALUES)
    np.testing.assert_allclose([patch.get_width() for patch in figure.axes[1].patches], [0.02, 0.01, 0.06, 0.04])
    figure.savefig(tmp_path / "state.png")


def test_words_and_rows():
    assert state.alt(VALUES) == (
        "Rounding the hidden state of vim_nano. At 8 bits the error of h goes from 0.100 (per time step, factors) to "
        "0.200 (per time step). At 6 bits the error of h goes from 0.400 (per time step, factors) to 0.600 (per time step)."
    )
    head, rows = state.table(VALUES)
    assert len(rows) == 4 and dict(zip(head, rows[1], strict=True))["rule"] == "step factors"


def test_nothing_to_draw():
    with pytest.raises(ValueError, match="nothing to draw"):
        state.paper(VALUES | {"means": []})
