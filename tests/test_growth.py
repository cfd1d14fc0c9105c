"""A new quantizer or generator is one file and one line: it is quantized, tabled, drawn, rendered and offered with no more."""

from __future__ import annotations

import json

import pytest
from typer.testing import CliRunner

import ouro
from ouro.cli import app
from ouro.figures import accuracy
from ouro.jobs.bench.compare import CompareSpec, as_csv, compare
from ouro.models import create_model
from ouro.paper import markdown, render
from ouro.progress import finish
from tests.growing import examples, grown
from workbench import engine, generators

runner = CliRunner()


@pytest.fixture
def power_of_two(tmp_path):
    with grown(examples()["A quantizer"], tmp_path):
        engine.method_titles.cache_clear()
        yield
    engine.method_titles.cache_clear()


@pytest.fixture
def flat(tmp_path):
    with grown(examples()["A generator"], tmp_path):
        engine.generator_titles.cache_clear()
        yield
    engine.generator_titles.cache_clear()


def json_of(*arguments: object) -> dict:
    result = runner.invoke(app, [*map(str, arguments), "--json"])
    assert result.exit_code == 0, result.stderr
    return json.loads(result.stdout)


def test_a_quantizer_is_one_file_and_one_line(power_of_two, tmp_path) -> None:
    out = tmp_path / "q.safetensors"
    made = json_of("quantize", "vim_nano", "--method", "power2", "--bits", "w8a8", "--calib", "noise:2", "--out", out)
    assert made["audit"]["sealed"]
    assert json_of("evaluate", out, "--limit", 8)["method"] == "power2"
    model = create_model("vim_nano", pretrained=True)
    images = ouro.synthesize(model, method="noise", num=2).images
    steps = [
        state["scale"] for state in ouro.quantize(model, images, method="power2", bits="w8a8").state.values()
        if "scale" in state
    ]  # fmt: skip
    assert steps and all((step.log2() % 1 == 0).all() for step in steps)
    refused = runner.invoke(app, ["quantize", "vim_nano", "--method", "power2", "--option", "shifts=-1"])
    assert refused.exit_code == 2 and refused.stderr.strip() == "error: shifts is -1, expected 0 or more"


def test_a_new_quantizer_is_in_every_table_and_menu(power_of_two, tmp_path, monkeypatch) -> None:
    spec = CompareSpec("vim_nano", ("power2",), ("w8a8",), (("noise", "noise:2"),), (0,), limit=8)
    values = dict(finish(compare(spec, root=tmp_path)).values)
    assert "power2" in as_csv(values)
    row = values["rows"][0] | {key: values[key] for key in ("model", "data", "scope", "n", "fp_top1")}
    assert accuracy.alt([row | {"ci95": [0.1, 0.2]}])
    (tmp_path / "quantization_vim_nano.json").write_text(json.dumps(values | {"device": "here", "commit": "now"}))
    monkeypatch.setattr(markdown, "RESULTS", tmp_path)
    assert "power-of-two steps" in render.quantization()
    assert engine.method_titles()["power2"] == "power-of-two steps" and "power2" in engine.methods()


def test_a_generator_is_one_file_and_one_line(flat, tmp_path) -> None:
    made = json_of("generate", "vim_nano", "--method", "flat", "--num", 1, "--steps", 1, "--option", "flatness=3")
    assert made["method"] == "flat" and made["options"] == {"flatness": 3}
    assert len(ouro.synthesize(create_model("vim_nano", pretrained=True), method="flat", num=1, steps=1).images) == 1
    refused = runner.invoke(app, ["generate", "vim_nano", "--method", "flat", "--option", "flatness=no"])
    assert refused.exit_code == 2 and refused.stderr.strip() == "error: flatness is 'no', expected a number"
    assert engine.generator_titles()["flat"] == "Flat images" and "flat" in engine.generators()
    assert engine.generator_settings("flat")[0].name == "flatness"
    assert generators.changed("flat", {"flatness": 4}) == (("flatness", 4),)


@pytest.mark.parametrize(
    ("option", "message"),
    [
        ("foo=1", "method 'ouro' has no option 'foo'; known: features, window, positives, "),
        ("seed=3", "method 'ouro' has no option 'seed'; known: "),
        ("window=abc", "window is 'abc', expected a whole number"),
        ("window=null", "window is None, expected a whole number"),
        ("window=true", "window is True, expected a whole number"),
        ("negatives=none", "negatives is 'none'; known: all, window"),
        ("temperature=0", "temperature is 0, expected 0.001 or more"),
    ],
)
def test_wrong_options_of_a_generator_are_one_line(option, message) -> None:
    result = runner.invoke(app, ["generate", "vim_nano", "--num", "2", "--steps", "1", "--option", option])
    assert result.exit_code == 2 and result.stderr.strip().startswith(f"error: {message}")
    assert len(result.stderr.strip().splitlines()) == 1


def test_wrong_options_of_a_quantizer_are_one_line() -> None:
    command = ["quantize", "vim_nano", "--method", "kscale", "--calib", "noise:2", "--option"]
    for option, message in (("k=abc", "k is 'abc', expected a whole number"), ("k=0", "k is 0, expected 1 or more")):
        result = runner.invoke(app, [*command, option])
        assert result.exit_code == 2 and result.stderr.strip() == f"error: {message}"
