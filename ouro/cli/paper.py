"""`ouro paper`: every figure and table of the papers, what was measured of each, and the commands that measure it again."""

from __future__ import annotations

import shlex
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Annotated

import typer

from ouro.cli import draw
from ouro.cli.options import Json
from ouro.cli.tail import end, guarded


@guarded
def list_(json_: Json = False) -> None:
    """The ledger: what the paper shows, what is measured here, and whether it is seen.

    JSON: {artefacts: [{name, paper, title, shows, ours, commands, results, notebook, verdict, points: [{claim, word, why}]}]}.
    """
    from ouro.paper.ledger import ledger

    end({"artefacts": ledger()}, draw.ledger, json_=json_)


@guarded
def run(
    names: Annotated[list[str] | None, typer.Argument(help="As `ouro paper list` names them.")] = None,
    every: Annotated[bool, typer.Option("--all", help="All that have a command.")] = False,
    model: Annotated[str, typer.Option(help="For what is measured of one model.")] = "vim_micro_cifar10",
    out: Annotated[Path, typer.Option(help="Folder of the results.")] = Path("results"),
    json_: Json = False,
) -> None:
    """Measures figures and tables again, one command after the other; finished cells are kept, and each goes on where it was.

    A GPU or large weights take the same commands with other options: they are printed as they are run.

    JSON: {commands: [{command, passed}], gate: {passed}}.
    """
    from ouro.paper.ledger import ARTEFACTS, artefact

    if bool(names) == every:
        raise ValueError("name figures or tables, or --all; `ouro paper list` has the names")
    chosen = ARTEFACTS if every else tuple(map(artefact, names or ()))
    without = [one.name for one in chosen if not one.commands]
    if without and not every:
        raise ValueError(f"nothing measures {', '.join(without)} yet; see `ouro paper list`")
    out.mkdir(parents=True, exist_ok=True)
    done = []
    # several figures are read off one result
    for command in dict.fromkeys(command for one in chosen for command in one.commands):
        words = shlex.split(command.format(model=model, out=out))
        typer.echo(shlex.join(words), err=True)
        # what the command prints is for people; stdout is for the JSON
        ended = subprocess.run(
            [sys.executable, "-m", *words], check=False, stdout=sys.stderr.fileno() if json_ else None
        )
        done.append({"command": shlex.join(words), "passed": ended.returncode == 0})
    passed = all(row["passed"] for row in done)
    end({"commands": done, "gate": {"passed": passed}}, draw.commands, json_=json_)


@guarded
def render(json_: Json = False) -> None:
    """Writes the tables of README.md and the ledger, results/README.md, from the stored results of a checkout.

    JSON: {written: [path]}.
    """
    from ouro.paper.render import write

    end({"written": [str(path) for path in write()]}, lambda values: values["written"], json_=json_)


COMMANDS: dict[str, Callable[..., None]] = {"list": list_, "run": run, "render": render}
"""Name behind `ouro paper` -> command."""
