"""Sets side by side: rows say what the parts say, and figures draw what rows say."""

from __future__ import annotations

import pytest
import torch
from safetensors.torch import save_file

from ouro.evaluate.quality import features, frechet
from ouro.figures import quality as figures
from ouro.jobs.bench.compare import CompareSpec, compare
from ouro.jobs.calibration import calibration_set
from ouro.jobs.quality import OTHER_DRAW, QualitySpec, quality
from ouro.models import create_model
from tests.ouro.jobs.running import finish

METHODS = {"methods": ("minmax",), "bits": ("w8a8",), "limit": 10}


@pytest.fixture
def stored(tiny_zoo, tmp_path):
    images = torch.randn(4, 3, 28, 28, generator=torch.Generator().manual_seed(0)).clamp(-1, 1)
    path = tmp_path / "set.safetensors"
    save_file({"images": images, "labels": torch.tensor([0, 1, 0, 1])}, path)
    return path


def test_a_row_says_what_its_parts_say(stored, tmp_path) -> None:
    sets = (("noise", "noise:4"), ("stored", str(stored)), ("real", "real:4"))
    spec = QualitySpec("vim_nano", sets, reference="real:6", **METHODS)
    values = finish(quality(spec, root=tmp_path))[1].values
    noise, kept, real = values["rows"]
    assert [row["label"] for row in values["rows"]] == ["noise", "stored", "real"]
    assert noise["recognized"] == {} and 0 <= kept["recognized"]["itself"] <= 1
    assert kept["diversity"]["within"] is not None and noise["diversity"]["within"] is None
    model = create_model("vim_nano", pretrained=True)
    wanted = calibration_set("real:6", "vim_nano", model, OTHER_DRAW).images
    own = calibration_set("real:4", "vim_nano", model, 0).images
    assert real["frechet"] == pytest.approx(frechet(features(model, own), features(model, wanted)), rel=1e-6)
    for row in values["rows"]:
        for name in ("overlap", "outside", "ks"):
            assert row[name] == pytest.approx(sum(site[name] for site in row["sites"]) / len(row["sites"]))
        assert len(row["density"]) == 2
    cells = finish(compare(CompareSpec("vim_nano", ("minmax",), ("w8a8",), sets, (0,), limit=10), root=tmp_path))[1]
    expected = [{"minmax w8a8": cell["top1"]} for cell in cells.values["cells"]]
    assert [row["accuracy"] for row in values["rows"]] == expected
    for item in figures.ITEMS:
        figures.paper(values, item).savefig(tmp_path / f"{item}.png")
        assert (tmp_path / f"{item}.png").stat().st_size > 3_000
        assert len(figures.screen(values, item).data) >= 1
        assert "stored" in figures.alt(values, item)
    head, rows = figures.table(values)
    assert len(rows) == 3 and all(len(row) == len(head) for row in rows)
    (bars,) = figures.screen(values, "frechet").data
    assert list(bars.y) == [row["frechet"] for row in values["rows"]]


def test_without_methods_nothing_is_quantized(stored, tmp_path) -> None:
    spec = QualitySpec("vim_nano", (("noise", "noise:3"),), reference="real:3", methods=())
    values = finish(quality(spec, root=tmp_path))[1].values
    assert values["fp_top1"] is None and values["rows"][0]["accuracy"] == {}
    with pytest.raises(ValueError, match="no set of the report has accuracy"):
        figures.screen(values, "accuracy")
    with pytest.raises(ValueError, match="unknown item 'beauty'; known: recognition, diversity"):
        figures.paper(values, "beauty")


@pytest.mark.parametrize(("sets", "given"), [((), "missing"), ((("a", "noise:2"), ("a", "noise:3")), "a, a")])
def test_sets_need_labels_of_their_own(sets, given) -> None:
    with pytest.raises(ValueError, match=f"sets are {given}; give one or more, each with a label of its own"):
        QualitySpec("vim_nano", sets)
