"""The explain job: its report is what the maps say, whatever the batch, and bad input ends in one clear line."""

from __future__ import annotations

import json
import re

import numpy as np
import pytest
import torch
from PIL import Image

from ouro.attention.maps import attention_map, by_mixer, merge, raster_matrices
from ouro.attention.scores import auroc, mask_to_grid
from ouro.data import normalize
from ouro.data.scenes import CLASSES, MEAN, STD, Scenes
from ouro.jobs import explain as job
from ouro.jobs.explain import ExplainSpec, explain
from ouro.models.vim import Vim, VimConfig
from ouro.taps import record
from ouro.types import Progress, Report
from tests.testing import assert_close

# 6 x 6 patches and a class token: 37 steps
TINY = VimConfig(
    width=12, depth=2, image=24, patch=4, stride=4, states=3, num_classes=12, mean=MEAN, std=STD, class_names=CLASSES
)


@pytest.fixture(scope="module")
def tiny() -> Vim:
    with torch.random.fork_rng():
        torch.manual_seed(0)
        # in float64, where the size of a batch does not show in the ranks
        return Vim(TINY, "tiny").double().eval()


def run(model: Vim, **spec: object) -> tuple[Report, list[Progress]]:
    updates, steps = [], explain(ExplainSpec("tiny", **({"data": "scenes"} | spec)), model)
    while True:
        try:
            updates.append(next(steps))
        except StopIteration as end:
            return end.value, updates


def scans_of(model: Vim, sample: int) -> list:
    images = normalize(Scenes("test", 24).images(sample, 1)[0], MEAN, STD).double()
    with torch.no_grad(), record(model, "*.scans.*") as trace:
        model(images)
    return list(by_mixer(trace.scans).values())


def test_explain_keeps_maps_and_matrices_of_one_image(tiny):
    report, updates = run(tiny, sample=3, layer=0, window=3)
    layers = scans_of(tiny, 3)
    arrays, values = report.arrays, report.values
    assert report.kind == "attention"
    assert {name.split("/")[0] for name in arrays} == {"image", "mask", "map", "matrix"}
    assert arrays["image"].equal(Scenes("test", 24).images(3, 1)[0][0])
    assert arrays["mask"].equal(Scenes("test", 24).masks(3, 1)[0].to(torch.uint8))
    assert len([name for name in arrays if name.startswith("map/")]) == 2 * 3 * 8
    expected = attention_map(layers[1], "h_p", "given", window=3).weights[0].float()
    assert_close(arrays["map/1/both/h_p/given"], expected, name="map")
    for source in ("h", "h_p"):
        merged = merge([raster_matrices(scan, 3)[source] for scan in layers[0]])[0, :36, :36].float()
        assert_close(arrays[f"matrix/{source}"], merged, name=f"matrix of {source}")
    assert (values["layer"], values["layers"], values["grid"], values["label"]) == (
        0,
        2,
        [6, 6],
        CLASSES[Scenes("test", 24).scene(3).label],
    )
    assert updates[-1].step == updates[-1].total == 1


def test_explain_scores_the_one_image(tiny):
    report, _ = run(tiny, sample=3, window=3)
    values = report.values
    assert (values["n"], values["scored"], values["layer"]) == (0, 1, 1)
    mask = mask_to_grid(report.arrays["mask"][None], (6, 6))
    for source in ("h", "h_p"):
        expected = auroc(report.arrays[f"map/1/both/{source}/received"][None], mask).item()
        assert values["auroc"][source] == pytest.approx(expected)
        assert values["ci95"]["auroc"][source] is None
    assert values["gain"] == values["auroc"]["h_p"] - values["auroc"]["h"]
    assert len(values["table"]) == 2 * 3 * 8
    assert values["best"]["h_p"]["auroc"] == max(row["auroc"] for row in values["table"] if row["source"] == "h_p")


def test_explain_report_is_json_and_says_what_made_it(tiny):
    report, _ = run(tiny, window=3, seed=7)
    values = json.loads(json.dumps(report.values, allow_nan=False))
    named = {"model", "layer", "window", "n", "auroc", "pointing", "ci95", "seed", "data", "seconds", "device"}
    assert named <= values.keys()
    assert (values["model"], values["data"], values["seed"], report.run.seed) == ("tiny", "scenes", 7, 7)


def test_explain_scores_do_not_depend_on_the_batch(tiny, monkeypatch):
    whole, updates = run(tiny, sample=None, n=10, window=3)
    assert [(update.step, update.total) for update in updates] == [(1, 2), (2, 2)]
    monkeypatch.setattr(job, "BATCH", 3)
    parts, updates = run(tiny, sample=None, n=10, window=3)
    assert [update.step for update in updates] == [1, 2, 3, 4]
    for row, same in zip(whole.values["table"], parts.values["table"], strict=True):
        assert row == pytest.approx(same, abs=1e-9)
    assert not whole.arrays


def test_explain_means_are_those_of_single_images(tiny):
    many = run(tiny, sample=0, n=5, window=3)[0].values
    singles = [run(tiny, sample=k, window=3)[0].values for k in range(5)]
    assert (many["n"], many["scored"], many["sample"]) == (5, 5, 0)
    for k, row in enumerate(many["table"]):
        for name in ("auroc", "pointing", "leakage"):
            assert row[name] == pytest.approx(np.mean([one["table"][k][name] for one in singles]), abs=1e-9)
        assert row["auroc_lo"] <= row["auroc"] <= row["auroc_hi"]
    low, high = many["ci95"]["gain"]
    assert low <= many["gain"] <= high


def test_explain_leaves_the_model_as_it_was(tiny):
    images = torch.rand(1, 3, 24, 24, dtype=torch.float64)
    before = tiny(images)
    run(tiny, window=3)
    assert tiny(images).equal(before)
    assert not any(parameter.grad is not None for parameter in tiny.parameters())


@pytest.mark.parametrize("mode", ["RGB", "L", "RGBA", "P", "1"])
def test_explain_reads_image_files(tiny, tmp_path, mode):
    path = tmp_path / "picture.png"
    Image.fromarray(np.random.default_rng(0).integers(0, 255, (40, 60, 3), np.uint8)).convert(mode).save(path)
    report, _ = run(tiny, sample=None, image=str(path), window=3)
    assert report.arrays["image"].shape == (3, 24, 24)
    assert report.arrays["image"].dtype is torch.uint8
    assert "mask" not in report.arrays
    values = report.values
    assert (values["image"], values["sample"], values["label"], values["table"]) == (str(path), None, None, [])
    assert values["auroc"] == {"h": None, "h_p": None}


def test_explain_keeps_the_middle_of_a_wide_image(tiny, tmp_path):
    pixels = np.zeros((24, 72, 3), np.uint8)
    pixels[:, 24:48] = 200
    Image.fromarray(pixels).save(tmp_path / "wide.png")
    report, _ = run(tiny, sample=None, image=str(tmp_path / "wide.png"), window=3)
    # it is resized before it is cut, so that the columns at the cut have seen those beside them
    assert report.arrays["image"][..., 2:-2].eq(200).all() and report.arrays["image"].min() > 100


@pytest.mark.parametrize(
    ("content", "reason"),
    [(b"", "the file is empty (0 bytes)"), (b"no image", "cannot identify image file"), (None, "No such file")],
    ids=["empty", "text", "missing"],
)
def test_explain_refuses_bad_files(tiny, tmp_path, content, reason):
    path = tmp_path / "bad.png"
    if content is not None:
        path.write_bytes(content)
    with pytest.raises(ValueError, match=f"^cannot read image {re.escape(str(path))}: .*{re.escape(reason)}") as caught:
        run(tiny, sample=None, image=str(path), window=3)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    ("spec", "message"),
    [
        ({"window": 4}, "window is 4, expected an odd number from 1 up"),
        ({"window": -3}, "window is -3, expected an odd number from 1 up"),
        ({"window": 7}, "window is 7, expected an odd number up to 6: layer 1 has a 6x6 grid"),
        ({"layer": 2}, "layer is 2, tiny has layers 0 to 1"),
        ({"layer": -1}, "layer is -1, tiny has layers 0 to 1"),
        ({"weights": "max"}, "unknown weights 'max'; known: delta, uniform"),
        ({"n": -1}, "n is -1, expected 0 (score the one image) or more"),
        ({"sample": None}, "nothing to explain: give a sample, an image file or n, a number of images to score"),
        ({"sample": 10**6}, "sample is 1000000, the test split of scenes has 0 to 9999"),
        ({"sample": -1}, "sample is -1, the test split of scenes has 0 to 9999"),
        ({"n": 10_001}, "n is 10001, the test split of scenes has 10000 images"),
        ({"data": "imagenet"}, "unknown data set 'imagenet'"),
    ],
    ids=lambda value: str(value) if isinstance(value, dict) else "",
)
def test_explain_refuses(tiny, spec, message):
    with pytest.raises(ValueError, match=f"^{re.escape(message)}"):
        run(tiny, **{"window": 3, **spec})
