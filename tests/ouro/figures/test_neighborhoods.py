"""What a table says of a model's maps."""

from __future__ import annotations

from ouro.figures import neighborhoods


def row(source, auroc, seen=None):
    return {"source": source, "auroc": {"mean": auroc, "ci95": [auroc, auroc]}, "gain": seen and {"seen": seen}}


def test_gains_of_h_p_are_counted_and_the_best_map_is_named():
    rows = [row("h", 0.9), row("h_p 3 delta", 0.8, "worse"), row("h_p 5 delta", 0.95, "better"), row("h_p 5 delta", 0.7, "worse"),
            row("delta", 0.5, "worse")]  # fmt: skip
    model = {"model": "vim_nano", "rows": rows, "best": {"h": rows[0], "h_p 3 delta": rows[1], "h_p 5 delta": rows[2]}}
    found = neighborhoods.counted(model)
    assert (found["better"], found["worse"], found["by"]) == (1, 2, "h_p 5 delta")
    assert found["h"]["mean"] == 0.9 and found["h_p"]["mean"] == 0.95
