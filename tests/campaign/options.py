"""Commands with values that nobody would give: a result or one line, by exit code 0 or 2."""

from __future__ import annotations

import os
import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import click
import typer
from typer.testing import CliRunner

from tests.campaign.material import MODEL, Material
from tests.campaign.registry import LONGEST, Offence, Trial, Verdict, kind

_FEW = ("--limit", "2", "--data", "scenes:2")
_CALIB = ("--method", "minmax", "--bits", "w4a4", "--calib", "noise:2")
_BASES: dict[str, tuple[str, ...]] = {
    "inspect": ("WEIGHTS",),
    "evaluate": (MODEL, "--weights", "WEIGHTS", *_FEW),
    "attention": (MODEL, "--weights", "WEIGHTS"),
    "show": (MODEL, "--weights", "WEIGHTS"),
    "generate": (MODEL, "--weights", "WEIGHTS", "--num", "2", "--steps", "1", "--batch", "2"),
    "quantize": (MODEL, "--weights", "WEIGHTS", *_CALIB),
    "sensitivity": (MODEL, "--weights", "WEIGHTS", *_CALIB, "--by", "group", *_FEW),
    "sample": ("zigma_nano", "--num", "1", "--steps", "1"),
    "onnx": (MODEL, "--weights", "WEIGHTS", "--out", "ONNX"),
    "export": ("scenes_seg", "--out", "OUT", "--num", "1", "--size", "32"),
    "bench quantization": (MODEL, "--weights", "WEIGHTS", "--calib", "noise=noise:2", *_CALIB[:4], "--seeds", "1", *_FEW),
    "bench state": (MODEL, "--weights", "WEIGHTS", "--calib", "noise:2", "--bits", "8", "--data", "scenes:2"),
    "bench outliers": (MODEL, "--weights", "WEIGHTS", "--layer", "0", "--n", "2", "--data", "scenes:2"),
    "bench ranges": (MODEL, "--weights", "WEIGHTS", "--calib", "real=noise:2", "--bits", "w4a4", "--factor", "0.5", "--seeds", "1", *_FEW),
}  # fmt: skip
"""Command -> arguments under which it is done in a moment."""

_LONG = {"steps", "seeds", "num", "n", "limit", "samples", "batch"}
"""Options whose large values are honest work for hours."""
_WORDS = (
    "", " ", "x", "-1", "0", "1", "2", "3", "0.5", "-0.5", "1e3", "nan", "inf", "-inf", "1_0", "0x10", "\u0663", "\u00b2", "true", "None",
    "[]", "{}", "[1,2]", "a=b", "=", "a=", "=b", "a=[1", "real=real:2", "real=", "--", "-", "/", "/dev/null",
    "/dev/full", "/nonexistent/x", "..", "\x00",
    "é", "\udcff", "%s", "a,b", "1,2", "1,,2", "w4a4", "w0a0", "w99a99", "w4", "w4a4o", "w-1a4", "lin", "full", "auto", "cuda:99",
    "cpu:1", "meta",
    "noise:1", "noise:0", "real", "synthetic:1", "folder:/", "folder:", MODEL, "vim_tiny_patch16_224", "zigma_nano", "vmamba_nano_det",
    "x" * 5000,
)  # fmt: skip
_HUGE = (
    "2147483647",
    "2147483648",
    "4294967296",
    "-9223372036854775809",
    "9223372036854775807",
    "18446744073709551616",
    "1" + "0" * 40,
)
_SETTINGS = (
    "candidates",
    "steps_per_block",
    "window",
    "features",
    "kappa",
    "refresh",
    "lr",
    "seed",
    "x",
    "__class__",
    "percentile",
    "alpha",
)
_CONFIGS = (
    "image",
    "width",
    "depth",
    "patch",
    "stride",
    "num_classes",
    "class_names",
    "mean",
    "std",
    "x",
    "state",
    "crop_pct",
    "directions",
)

_runner = CliRunner()


def _commands(group: Any, prefix: str = "") -> Iterator[tuple[str, click.Command]]:
    for name, command in group.commands.items():
        if hasattr(command, "commands"):
            yield from _commands(command, f"{name} ")
        else:
            yield prefix + name, command


_COMMANDS: dict[str, click.Command] = {}


def commands() -> dict[str, click.Command]:
    """Every command by its name."""
    if not _COMMANDS:
        from ouro.cli import app

        _COMMANDS.update(_commands(typer.main.get_command(app)))
    return _COMMANDS


def base(name: str, material: Material, folder: Path) -> list[str]:
    """Arguments of a command that are as they should be."""
    places = {"WEIGHTS": str(material.weights), "OUT": str(folder / "out"), "ONNX": str(folder / "model.onnx")}
    return [places.get(word, word) for word in _BASES[name]]


def warm_up(material: Material, folder: Path) -> None:
    """Runs every command once as it should be, so that kernels are compiled before anything is timed.

    Raises:
        RuntimeError: one fails.
    """
    from ouro.cli import app

    folder.mkdir()
    for name in _BASES:
        result = _runner.invoke(app, [*name.split(), *base(name, material, folder)])
        if result.exit_code != 0:
            raise RuntimeError(f"{name} fails as it should be: {result.stderr or result.exception!r}")


def drawn_value(trial: Trial, option: str) -> str:
    """A value for an option."""
    rng = trial.rng
    draw = rng.random()
    if option in ("option", "config") and draw < 0.8:
        names = _SETTINGS if option == "option" else _CONFIGS
        return f"{rng.choice(names)}={rng.choice((*_WORDS, *_HUGE[:2]))}"
    if draw < 0.15 and option not in _LONG:
        return rng.choice(_HUGE)
    if draw < 0.35 and option in (
        "weights",
        "image",
        "beside",
        "out",
        "report",
        "class_names",
        "figures",
        "data",
        "calib",
    ):
        # copies: the value may be one of --out, which replaces what is there
        weights, other = (shutil.copy(path, trial.folder) for path in (trial.material.weights, __file__))
        files = [weights, trial.folder, trial.folder / "new.json", trial.folder / "new.safetensors", other]
        return str(rng.choice(files))
    return rng.choice(_WORDS)


@kind("options", 2, limit=20)
def options(trial: Trial) -> Verdict:
    """One to three options of a command, or its arguments, are something else."""
    from ouro.cli import app

    name = trial.rng.choice(list(_BASES))
    arguments = base(name, trial.material, trial.folder)
    known = [parameter for parameter in commands()[name].params if parameter.name != "help"]
    for _ in range(trial.rng.choice((1, 1, 2, 3))):
        parameter = trial.rng.choice(known)
        assert parameter.name is not None
        if isinstance(parameter, click.Argument) or not parameter.opts[0].startswith("-"):
            arguments[0] = drawn_value(trial, parameter.name)
        elif getattr(parameter, "is_flag", False):
            arguments.append(parameter.opts[0])
        else:
            arguments.append(f"{parameter.opts[0]}={drawn_value(trial, parameter.name)}")
    # paths that a value may name are in the trial's folder
    os.chdir(trial.folder)
    words = " ".join([name, *arguments])
    trial.write("command.txt", words.encode("utf-8", "replace"))
    return judged(_runner.invoke(app, [*name.split(), *arguments]), words)


def judged(result: Any, words: str) -> Verdict:
    """What a command came to.

    Raises:
        Offence: a traceback, another exit code, or more than a line; and whatever was raised.
    """
    if result.exception is not None and not isinstance(result.exception, SystemExit):
        raise result.exception
    # that a head is new is true of what was asked for, whatever else is wrong with it
    lines = [line for line in result.stderr.splitlines() if line.strip() and "it starts untrained" not in line]
    if result.exit_code == 0:
        return Verdict()
    if result.exit_code != 2:
        raise Offence(f"exit code {result.exit_code}: {_general(lines)}\n{words}\n{result.stderr}")
    if lines and lines[0].lstrip().startswith("Usage:"):
        return Verdict(lines[-1])
    if len(lines) != 1 or not lines[0].startswith("error: "):
        raise Offence(f"{len(lines)} lines for a mistake: {_general(lines)}\n{words}\n{result.stderr}")
    if len(lines[0]) > LONGEST:
        raise Offence(f"a line of more than {LONGEST} characters\n{words}\n{result.stderr}")
    return Verdict(lines[0])


def _general(lines: list[str]) -> str:
    return lines[-1][:60] if lines else "nothing is said"
