"""Options that commands share: where a model comes from, what it runs on, and one line for every mistake in them."""

from __future__ import annotations

import json
from collections.abc import Iterator

import click
import pytest
import torch
import typer
from typer.testing import CliRunner

from ouro.cli import app
from ouro.cli.options import model_source, numbers, pairs
from ouro.types import ModelSource

runner = CliRunner()
TAKE_A_MODEL = {
    "attention", "show", "sample", "generate", "quantize", "sensitivity", "quality", "evaluate", "train", "onnx",
    "bench quantization", "bench state", "bench outliers", "bench equal", "bench ranges", "bench ablations",
    "bench model", "bench packed", "bench devices",
}  # fmt: skip
RUN_ANYWHERE = (TAKE_A_MODEL - {"bench model", "bench packed", "onnx"}) | {
    "bench attention",
    "bench methods",
}
"""Commands with a device; the others time CPU backends, find their device themselves, or write what runs elsewhere."""


def commands(group: click.Command, prefix: str = "") -> Iterator[tuple[str, click.Command]]:
    for name, command in group.commands.items():
        if hasattr(command, "commands"):
            yield from commands(command, f"{name} ")
        else:
            yield prefix + name, command


COMMANDS = dict(commands(typer.main.get_command(app)))


def options(name: str) -> set[str]:
    return {word for parameter in COMMANDS[name].params for word in parameter.opts}


def refused(*arguments: object) -> str:
    result = runner.invoke(app, [str(argument) for argument in arguments])
    assert result.exit_code == 2, (result.exit_code, result.stdout, result.stderr)
    lines = result.stderr.strip().splitlines()
    assert len(lines) == 1 and lines[0].startswith("error: "), result.stderr
    return lines[0].removeprefix("error: ")


@pytest.mark.parametrize("name", sorted(TAKE_A_MODEL))
def test_whatever_takes_a_model_takes_weights_of_ones_own(name) -> None:
    assert {"model", "--weights", "--config", "--class-names"} <= options(name)


def test_no_other_command_takes_one_model() -> None:
    assert {name for name in COMMANDS if "model" in options(name)} == TAKE_A_MODEL


@pytest.mark.parametrize("name", sorted(RUN_ANYWHERE))
def test_jobs_run_on_a_device(name) -> None:
    assert "--device" in options(name)


def test_every_command_speaks_json() -> None:
    assert all("--json" in options(name) for name in COMMANDS)


@pytest.mark.parametrize("device", ["gpu", "cuda:x", "mps"])
def test_a_device_that_does_not_exist_is_one_line(device) -> None:
    words = f"device is {device!r}, allowed are auto, cpu, cuda and cuda:0, cuda:1 ..."
    assert refused("evaluate", "vim_nano", "--device", device) == words


@pytest.mark.skipif(torch.cuda.is_available(), reason="there is a CUDA device")
def test_cuda_where_there_is_none_is_one_line() -> None:
    words = "device is 'cuda', but this machine has no CUDA device; take auto or cpu"
    for command in ("evaluate", "quantize", "generate", "attention", "sensitivity"):
        assert refused(command, "vim_nano", "--device", "cuda") == words


def test_what_is_typed_becomes_a_source(tmp_path) -> None:
    names = tmp_path / "names.txt"
    names.write_text("cat\ndog\n")
    expected = ModelSource("vim_nano", "my.pth", (("image", (48, 64)), ("num_classes", 2)), ("cat", "dog"))
    assert model_source("vim_nano", "my.pth", ["image=[48, 64]", "num_classes=2"], names) == expected
    assert model_source("vim_nano") == ModelSource("vim_nano")


def test_a_source_reaches_its_job(tmp_path) -> None:
    from ouro.models import create_model
    from ouro.store import write_tensors

    own = write_tensors(tmp_path / "own.safetensors", create_model("vim_nano", pretrained=True).state_dict())
    result = runner.invoke(app, ["evaluate", "vim_nano", "--weights", str(own), "--limit", "8", "--json"])
    assert result.exit_code == 0, result.stderr
    assert json.loads(result.stdout)["weights"]["source"] == str(own)


def test_mistakes_are_one_line(tmp_path) -> None:
    assert refused("evaluate", "vim_nano", "--config", "image") == "config 'image' is not of the form name=value"
    assert "vim_nano has no option 'colour'; known: " in refused("evaluate", "vim_nano", "--config", "colour=1")
    missing = tmp_path / "missing.txt"
    words = f"{missing} holds no class names (FileNotFoundError); give a text file with a name a line, or JSON, a list of names"
    assert refused("evaluate", "vim_nano", "--class-names", missing) == words
    assert "/dev/full holds no class names (/dev/full is no file)" in refused(
        "evaluate", "vim_nano", "--class-names", "/dev/full"
    )
    assert "no checkpoint at 'nowhere.pth'" in refused("evaluate", "vim_nano", "--weights", "nowhere.pth")


def test_values_are_read_as_json_where_they_can_be() -> None:
    assert pairs(["a=1", "b=x", "c=[1, [2]]", "d=0.5", "e="]) == (
        ("a", 1), ("b", "x"), ("c", (1, (2,))), ("d", 0.5), ("e", ""),
    )  # fmt: skip
    # a value may hold "=", and so may a regular expression
    assert pairs(["a=b=1"]) == (("a", "b=1"),) and pairs(["(?<=x)y=8"], last=True) == (("(?<=x)y", 8),)
    for item in ("x", "=8"):
        with pytest.raises(ValueError, match=f"^keep '{item}' is not of the form name=value$"):
            pairs([item], "keep", last=True)
    assert numbers("3, 4", "widths") == (3, 4)
    with pytest.raises(
        ValueError, match="^widths '3;4' cannot be read; write whole numbers with commas, as in 3,4,6,8$"
    ):
        numbers("3;4", "widths")
