"""What every command ends in: a job run under a bar, its report written, printed or drawn, and the exit code."""

from __future__ import annotations

import json
from collections.abc import Callable, Generator, Iterable
from functools import wraps
from io import BytesIO
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

import typer
from rich.console import Console, RenderableType
from rich.progress import BarColumn, TextColumn, TimeRemainingColumn
from rich.progress import Progress as Bar

from ouro.progress import drive

if TYPE_CHECKING:
    from matplotlib.figure import Figure

    from ouro.types import Progress, Report

Values = dict[str, Any]
Drawing = Callable[[Any], Iterable[RenderableType]]
"""Values of a report -> what is printed where no JSON is asked for, line by line and table by table."""
_Result = TypeVar("_Result")

_LONGEST = 900
"""Characters of an error: more, such as the name of a tensor in a damaged file, nobody reads."""
_out, _err = Console(), Console(stderr=True)


def guarded(command: Callable[..., None]) -> Callable[..., None]:
    """Turns bad input into exit code 2 and failures into 1, with one line each."""

    @wraps(command)
    def run(*args: Any, **kwargs: Any) -> None:
        try:
            command(*args, **kwargs)
        except (ValueError, OSError) as error:
            _fail(error, 2)
        except RuntimeError as error:
            _fail(error, 1)
        except KeyboardInterrupt:
            _err.print("stopped; finished parts are kept, the same command goes on from there")
            raise typer.Exit(1) from None

    return run


def _fail(error: Exception, code: int) -> None:
    from ouro.store import one_line

    line = one_line(error, _LONGEST) or type(error).__name__
    # not through rich, which would wrap the line and color what is in brackets
    typer.echo(f"error: {line}", err=True)
    raise typer.Exit(code) from error


def run(title: str, job: Generator[Progress, None, Report]) -> Values:
    """Runs a job to its end under a bar on stderr; what its report says, with what made it."""
    from ouro.jobs.provenance import values_of

    return values_of(followed(title, job))


def followed(title: str, job: Generator[Progress, None, _Result]) -> _Result:
    """Runs a job to its result under a bar on stderr."""
    columns = TextColumn("{task.fields[title]}"), BarColumn(), TimeRemainingColumn(), TextColumn("{task.description}")
    with Bar(*columns, console=_err, transient=True) as bar:
        task = bar.add_task("", total=None, title=title)

        def show(progress: Progress) -> None:
            bar.update(task, completed=progress.step, total=progress.total, description=progress.message)

        return drive(job, show)


def picture_format(out: Path | None) -> str:
    """The format in which a picture is written there, found out before the work begins.

    Raises:
        ValueError: the file's name says another one.
    """
    suffix = "" if out is None else out.suffix.lstrip(".")
    if out is not None and suffix not in ("png", "svg", "pdf"):
        raise ValueError(f"cannot write a picture as {out.name!r}; use .png, .svg or .pdf")
    return suffix


def write_picture(figure: Figure, out: Path, suffix: str) -> str:
    """Writes a figure; the path."""
    from ouro.store import write_bytes

    picture = BytesIO()
    figure.savefig(picture, format=suffix, dpi=160, bbox_inches="tight")
    write_bytes(out, picture.getvalue())
    return str(out)


def end(values: Any, draw: Drawing, *, json_: bool, out: Path | None = None) -> None:
    """Writes the values to `out`, if any, and prints them, as JSON or drawn; exit code 1 where a gate failed."""
    if out is not None:
        from ouro.store import write_json

        write_json(out, values)
    if json_:
        typer.echo(json.dumps(values, indent=2, allow_nan=False))
    else:
        for part in draw(values):
            _out.print(part, highlight=False)
    if isinstance(values, dict) and not values.get("gate", {}).get("passed", True):
        raise typer.Exit(1)
