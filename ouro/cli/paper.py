"""`ouro paper`: every figure and table of the papers, what was measured of each, and the commands that measure it again."""

from __future__ import annotations

import shlex
import subprocess
import sys
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Annotated, Any

import typer

from ouro.cli import draw
from ouro.cli.options import Data, Device, Engine, Json
from ouro.cli.tail import end, guarded

_STDERR = 2


@guarded
def list_(json_: Json = False) -> None:
    """The ledger: what the paper shows, what is measured here, and whether it is seen.

    JSON: {artefacts: [{name, paper, title, shows, ours, commands, results, notebook, verdict,
    points: [{claim, word, why, model, interval: [value, low, high, reference]}]}]}.
    """
    from ouro.paper.ledger import ledger

    end({"artefacts": ledger()}, draw.ledger, json_=json_)


@guarded
def run(
    names: Annotated[list[str] | None, typer.Argument(help="As `ouro paper list` names them.")] = None,
    every: Annotated[bool, typer.Option("--all", help="All that have a command.")] = False,
    quick: Annotated[bool, typer.Option("--quick", help="On few images, to see that it runs: says little.")] = False,
    model: Annotated[str, typer.Option(help="For what is measured of one model.")] = "vim_micro_cifar10",
    weights: Annotated[str, typer.Option(help="A checkpoint of that model, as every command takes it.")] = "",
    class_names: Annotated[
        str, typer.Option(help="A file with the name of a class in each line, or a JSON list of them.")
    ] = "",
    data: Data = "",
    workers: Annotated[int | None, typer.Option(help="Processes that share the cores.", min=1)] = None,
    engine: Engine = "",
    device: Device = "auto",
    out: Annotated[
        Path | None, typer.Option(help="Folder of the results; results, or results/quick with --quick.")
    ] = None,
    json_: Json = False,
) -> None:
    """Measures figures and tables again, one command after the other; finished cells are kept, and each goes on where it was.

    A model, weights, data and a device of one's own go to every command that takes them, and are said to be left out where
    one does not.

    JSON: {commands: [{command, passed}], gate: {passed}}.
    """
    from ouro.paper.ledger import ARTEFACTS, artefact, filled

    if bool(names) == every:
        raise ValueError("name figures or tables, or --all; `ouro paper list` has the names")
    chosen = ARTEFACTS if every else tuple(map(artefact, names or ()))
    without = [one.name for one in chosen if not one.commands]
    if without and not every:
        raise ValueError(f"nothing measures {', '.join(without)} yet; see `ouro paper list`")
    folder = out or Path("results/quick" if quick else "results")
    folder.mkdir(parents=True, exist_ok=True)
    own = {
        "--weights": weights, "--class-names": class_names, "--data": data, "--workers": str(workers or ""),
        "--engine": engine, "--device": "" if device == "auto" else device,
    }  # fmt: skip
    # several figures are read off one result
    commands = dict.fromkeys(command for one in chosen for command in (one.quick if quick else one.commands))
    done = []
    for number, command in enumerate(commands, 1):
        words = _with(shlex.split(filled(command, model, str(folder), data)), own)
        typer.echo(f"{number} of {len(commands)}: {shlex.join(words)}", err=True)
        # what the command prints is for people; stdout is for the JSON
        ended = subprocess.run([sys.executable, "-m", *words], check=False, stdout=_STDERR if json_ else None)
        done.append({"command": shlex.join(words), "passed": ended.returncode == 0})
    passed = all(row["passed"] for row in done)
    end({"commands": done, "gate": {"passed": passed}}, draw.commands, json_=json_)


def _with(words: list[str], own: Mapping[str, str]) -> list[str]:
    """The command with those of one's own options that it takes."""
    known = _options(words)
    given = {name: value for name, value in own.items() if value}
    if left := [name for name in given if name not in known and name in ("--weights", "--data")]:
        typer.echo(f"note: this one takes no {' and no '.join(left)}: it measures embedded models", err=True)
    taken = {name: value for name, value in given.items() if name in known}
    # a later option takes the place of an earlier one
    return [*words, *(part for pair in taken.items() for part in pair)]


def _options(words: list[str]) -> set[str]:
    """Names of the options of the command that these words call."""
    from ouro.cli import app

    command: Any = typer.main.get_command(app)
    for word in words[1:]:
        if not hasattr(command, "commands"):
            break
        command = command.commands[word]
    return {name for parameter in command.params for name in parameter.opts}


@guarded
def render(json_: Json = False) -> None:
    """Writes what pages of a checkout have from programs: tables of stored results, the ledger, and every command's options.

    JSON: {written: [path]}.
    """
    from ouro.cli.reference import write as write_commands
    from ouro.paper.render import write

    written = [*write(), write_commands()]
    end({"written": [str(path) for path in written]}, lambda values: values["written"], json_=json_)


COMMANDS: dict[str, Callable[..., None]] = {"list": list_, "run": run, "render": render}
"""Name behind `ouro paper` -> command."""
