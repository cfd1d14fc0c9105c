"""A row per generator, a word per image."""

import pytest
import torch

from ouro.figures import samples


def test_rows_may_differ_in_length(tmp_path):
    image = torch.zeros(3, 8, 8, dtype=torch.uint8)
    rows = {"noise": [("cat", image)], "ouro": [("cat", image), ("dog", image)]}
    figure = samples.paper(rows)
    assert [len(axes.images) for axes in figure.axes] == [1, 0, 1, 1]
    assert samples.alt(rows) == "Images row by row: noise (cat); ouro (cat, dog)."
    figure.savefig(tmp_path / "samples.png")


def test_nothing_is_refused():
    with pytest.raises(ValueError, match="nothing to draw"):
        samples.paper({"noise": []})
