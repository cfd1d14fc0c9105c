"""Each scan has its map, on the same scale."""

import torch

from ouro.figures import directions
from ouro.types import Report, RunInfo


def test_maps_share_a_scale_and_words_name_their_peaks(tmp_path):
    maps = {"norm/forward": torch.arange(6.0).view(2, 3), "norm/backward": torch.arange(6.0).flip(0).view(2, 3) + 2}
    values = {
        "model": "vim_nano",
        "layer": 1,
        "source": "scenes 0",
        "scans": ["forward", "backward"],
        "grid": [2, 3],
        "steps": 6,
    }
    report = Report("directions", values, RunInfo("cpu", {}, "unknown", 0, 0.0),
                    {"image": torch.zeros(3, 8, 8, dtype=torch.uint8), **maps})  # fmt: skip
    figure = directions.paper(report)
    shown = [panel.images[0] for panel in figure.axes[1:3]]
    assert [image.get_clim() for image in shown] == [(0, 7), (0, 7)]
    assert "forward: from 0 to 5, largest at row 1, column 2" in directions.alt(report)
    figure.savefig(tmp_path / "directions.png")
