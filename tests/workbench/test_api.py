"""The jobs as a program calls them: by name, over HTTP, with numbers that the library gives too."""

from __future__ import annotations

from pathlib import Path

import pytest

from ouro.jobs.explain import ExplainSpec, explain
from ouro.progress import finish
from workbench import api, own

gradio_client = pytest.importorskip("gradio_client")
NAMES = {"/models", "/attention", "/outliers", "/answer", "/generate", "/quantize", "/sensitivity"}


@pytest.fixture(scope="module")
def client(server: str):
    return gradio_client.Client(server, verbose=False)


def test_every_endpoint_says_what_it_is():
    from workbench.app import demo

    named = demo.get_api_info()["named_endpoints"]
    assert set(named) == NAMES and not demo.get_api_info()["unnamed_endpoints"]
    assert all(endpoint["description"].endswith(".") for endpoint in named.values())


def test_what_is_looked_at(client):
    scores = client.predict(model="vim_nano", sample=1, layer=0, window=3, api_name="/attention")
    assert set(scores["auroc"]) == {"h", "h_p"} and scores["layer"] == 0
    # wider than any that the tab offers
    wide = client.predict(model="vim_nano", sample=1, layer=0, window=9, api_name="/attention")
    assert wide["window"] == 9
    assert wide["auroc"] == finish(explain(ExplainSpec("vim_nano", sample=1, layer=0, window=9))).values["auroc"]
    assert "vim_nano" in [row["name"] for row in client.predict(api_name="/models")]
    found = client.predict(
        model="vim_nano", sample=2, layer=5, tensor="in_proj", kappa=3, refresh=10, api_name="/outliers"
    )
    # the number of channels under the job's own name, lists under names of their own
    assert found["channels"] == 96 and len(found["raw_by_step"]) == 197 and found["layer"] == 5
    assert found["static_list"] and all(
        0 <= channel < 96 for step in [found["static_list"], *found["raw_by_step"]] for channel in step
    )
    said = client.predict(model="vim_nano", sample=0, api_name="/answer")
    assert said["truth"]["label"] == "heart" and 0 < said["answers"]["float"]["confidence"] <= 1


def test_what_takes_long(client):
    from ouro.jobs.evaluate import EvaluateSpec, evaluate

    made = client.predict(model="vim_nano", method="noise", num=4, steps=10, seed=3, api_name="/generate")
    assert made["num"] == 4 and made["run"] and "path" not in made
    row = client.predict(
        model="vim_nano", method="minmax", bits="w8a8", images="noise:4", limit=40, api_name="/quantize"
    )
    assert row["n"] == 40 and row["ci95"][0] <= row["top1"] <= row["ci95"][1] and "path" not in row
    answers = {name: row[name] for name in ("answers", "fp_answers", "labels")}
    assert all(isinstance(label, int) for labels in answers.values() for label in labels)
    assert row["top1"] == sum(map(int.__eq__, row["answers"], row["labels"])) / 40
    assert row["fp_top1"] == finish(evaluate(EvaluateSpec("vim_nano", limit=40))).values["top1"]
    measured = client.predict(model="vim_nano", method="minmax", bits="w4a4", limit=20, api_name="/sensitivity")
    assert measured["rows"] and measured["model"] == "vim_nano"


@pytest.mark.full
def test_a_model_of_ones_own_is_measured_on_ones_own_pictures(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    import torch
    from PIL import Image

    from ouro.data import load, normalize
    from ouro.models import create_model

    monkeypatch.setenv("OURO_HOME", str(tmp_path / "home"))
    model = create_model("vim_nano", pretrained=True)
    torch.save(model.state_dict(), tmp_path / "mine.pth")
    # with names of its own the set of the embedded model is none of its
    names = [f"thing {k:02d}" for k in range(12)]
    mine = own.model(str(tmp_path / "mine.pth"), names=names).entry
    assert mine is not None
    with pytest.raises(Exception, match="(?i)there are no images to measure mine.pth"):
        api.quantized(mine.alias, images="noise:4")
    pixels, labels = load("scenes").images(0, 48)
    for number, (image, label) in enumerate(zip(pixels, labels, strict=True)):
        folder = tmp_path / "pictures" / names[int(label)]
        folder.mkdir(parents=True, exist_ok=True)
        Image.fromarray(image.permute(1, 2, 0).numpy()).save(folder / f"{number}.png")
    for name in names:
        (tmp_path / "pictures" / name).mkdir(exist_ok=True)
    own.pictures(str(tmp_path / "pictures"))
    row = api.quantized(mine.alias, method="minmax", bits="w8a8", images="noise:4", limit=48)
    with torch.no_grad():
        found = model.eval()(normalize(pixels, model.info.mean, model.info.std)).argmax(-1)
    assert (row["n"], row["data"]) == (48, "pictures")
    assert row["fp_top1"] == pytest.approx((found == labels).float().mean().item())
    damage = api.sensitivity(mine.alias, method="minmax", limit=16)
    assert damage["fp_top1"] > 0.9
    told = {**damage, **row}
    assert not [(key, value) for key, value in told.items() if str(tmp_path) in str(value)]


@pytest.mark.parametrize(
    ("words", "endpoint", "call"),
    [
        ("unknown model 'nope'", "/attention", {"model": "nope", "sample": 0, "layer": 0}),
        ("sample is -1, expected 0 to", "/attention", {"model": "vim_nano", "sample": -1, "layer": 0}),
        ("layer is -9, vim_nano has layers 0 to 5", "/outliers", {"model": "vim_nano", "sample": 0, "layer": -9}),
        ("bits .w4x. cannot be read", "/quantize", {"model": "vim_nano", "bits": "w4x"}),
        ("images is empty", "/quantize", {"model": "vim_nano", "images": " "}),
        ("limit is 0, expected 1 or more", "/quantize", {"model": "vim_nano", "images": "real:100000", "limit": 0}),
        ("steps is 201, expected 200 or fewer", "/answer", {"model": "zigma_nano", "sample": 0, "steps": 201}),
        ("window is 101", "/attention", {"model": "vim_nano", "sample": 0, "layer": 0, "window": 101}),
    ],
)
def test_what_cannot_be_is_said_in_one_line(client, words: str, endpoint: str, call: dict):
    with pytest.raises(Exception, match="(?i)" + words.replace("'", ".")) as failure:
        client.predict(**call, api_name=endpoint)
    assert "\n" not in str(failure.value).strip() and "Traceback" not in str(failure.value)
