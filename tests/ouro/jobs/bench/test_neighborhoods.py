"""h against h_p over windows: where both are the same there is no gain, and rows say what single maps say."""

from __future__ import annotations

import pytest
import torch

import ouro.jobs.bench.neighborhoods as module
from ouro.attention.maps import attention_map, by_mixer
from ouro.attention.scores import auroc, mask_to_grid
from ouro.attention.survey import neighborhoods
from ouro.data import normalize
from ouro.data.source import open_data
from ouro.figures import neighborhoods as figures
from ouro.jobs.bench.neighborhoods import NeighborhoodSpec, survey_neighborhoods
from ouro.models import create_model
from ouro.taps import record
from tests.ouro.jobs.bench.test_table import in_process  # noqa: F401
from tests.ouro.jobs.running import finish

SPEC = NeighborhoodSpec(("vim_nano",), windows=(1, 3), n=5, workers=1)


@pytest.fixture
def surveyed(tiny_zoo, in_process, tmp_path, monkeypatch):  # noqa: F811
    monkeypatch.setattr(module, "PIECE", 3)
    return finish(survey_neighborhoods(SPEC, root=tmp_path)), tmp_path


def test_a_window_of_one_with_even_weights_gains_nothing(surveyed) -> None:
    (updates, report), _ = surveyed
    assert updates[-1].step == updates[-1].total == 2
    (model,) = report.values["models"]
    for row in model["rows"]:
        if row["source"] == "h_p 1 uniform":
            assert row["gain"]["mean"] == pytest.approx(0, abs=1e-9)
        if row["source"] == "h":
            assert row["gain"] is None
    sources = {row["source"] for row in model["rows"]}
    assert sources == {"h", "h_p 1 delta", "h_p 1 uniform", "h_p 3 delta", "h_p 3 uniform"} == set(model["best"])
    assert {row["reduction"] for row in model["rows"] if row["source"] == "h"} == {"received", "given", "class"}


def test_a_row_is_the_mean_of_single_maps(surveyed) -> None:
    (_, report), _ = surveyed
    model = create_model("vim_nano", pretrained=True)
    dataset = open_data("scenes", "test", model.info)
    images, masks = dataset.images(0, 5)[0], dataset.masks(0, 5)
    with torch.no_grad(), record(model, "*.scans.*") as trace:
        model(normalize(images, model.info.mean, model.info.std))
    last = list(by_mixer(trace.scans).values())[-1]
    weights = attention_map(last, "h_p", "given", window=3, weights="uniform")
    inside = mask_to_grid(masks, weights.grid)
    usable = inside.flatten(1).any(1) & ~inside.flatten(1).all(1)
    expected = auroc(weights.weights[usable], inside[usable]).mean().item()
    rows = report.values["models"][0]["rows"]
    (row,) = [r for r in rows if (r["layer"], r["source"], r["reduction"]) == (1, "h_p 3 uniform", "given")]
    assert row["auroc"]["mean"] == pytest.approx(expected, abs=1e-6)
    assert row["auroc"]["ci95"][0] <= row["auroc"]["mean"] <= row["auroc"]["ci95"][1]
    layers = list(by_mixer(trace.scans).values())
    assert len(dict(neighborhoods(layers, [(3, "delta")]))) == 2 * (3 + 2)


def test_the_figure_has_every_gain_where_it_belongs(surveyed, tmp_path) -> None:
    model = surveyed[0][1].values["models"][0]
    received, given = figures.screen(model).data
    assert list(received.x) == [0, 1] and list(received.y) == [f"h_p {p} {w}" for p in (1, 3) for w in SPEC.weights]
    (row,) = [r for r in model["rows"] if (r["layer"], r["source"], r["reduction"]) == (1, "h_p 3 delta", "given")]
    assert given.z[2][1] == row["gain"]["mean"]
    figures.paper(model).savefig(tmp_path / "gain.png")
    assert (tmp_path / "gain.png").stat().st_size > 5_000
    head, rows = figures.table(model)
    assert len(rows) == len(model["rows"]) and all(len(cells) == len(head) for cells in rows)
    assert figures.alt(model).endswith("not resolved.")
    with pytest.raises(ValueError, match="there is nothing to draw: no row of h_p for 'received'"):
        figures.paper({**model, "rows": []})


def test_what_is_kept_is_not_scored_again(surveyed, monkeypatch) -> None:
    (_, report), root = surveyed
    monkeypatch.setattr(module, "neighborhoods", lambda *_: pytest.fail("scored again"))
    assert finish(survey_neighborhoods(SPEC, root=root))[1].values["models"] == report.values["models"]


@pytest.mark.parametrize(
    ("bad", "words"),
    [
        ({"windows": (2,)}, "window is 2, expected an odd number from 1 up"),
        ({"weights": ("even",)}, "unknown weights 'even'; known: delta, uniform"),
        ({"n": 1}, "n is 1, expected 2 or more"),
    ],
)
def test_a_wrong_spec_is_refused(bad, words) -> None:
    with pytest.raises(ValueError, match=words):
        NeighborhoodSpec(("vim_nano",), **bad)
