"""A sweep over processes: what its pieces finish is kept in the store, from which the whole is then put together."""

from __future__ import annotations

import os
from collections.abc import Callable, Generator
from functools import partial
from typing import Any, Protocol, TypeVar

from ouro.jobs.pool import in_processes
from ouro.progress import drive, finish
from ouro.types import Progress, Report


class Sweep(Protocol):
    """A spec that says what can be measured apart."""

    def pieces(self) -> list[Any]:
        """Specs of the same kind whose results, kept, are all that the whole needs."""
        ...


_Sweep = TypeVar("_Sweep", bound=Sweep)


def spread(
    job: Callable[..., Generator[Progress, None, Report]],
    spec: _Sweep,
    workers: int,
    engine: str = "",
    *,
    root: str | os.PathLike[str] | None = None,
) -> Generator[Progress, None, Report]:
    """`job(spec, root=root)`, its pieces over processes; with one worker and no engine, here. See `ouro.jobs.pool`.

    Args:
        job: of a module, so that another process finds it.

    Raises:
        ValueError: see `ouro.jobs.pool.in_processes`; and whatever the job raises.
    """
    if workers == 1 and not engine:
        return (yield from job(spec, root=root))
    pieces = spec.pieces()
    yield Progress(0, len(pieces), f"{len(pieces)} pieces " + (f"at {engine}" if engine else f"in {workers} processes"))
    for done, (_, said) in enumerate(in_processes(partial(_finished, job=job, root=root), pieces, workers, engine), 1):
        yield Progress(done, len(pieces), said)
    # everything is there: this only reads it
    return finish(job(spec, root=root))


def _finished(piece: Any, job: Callable[..., Generator[Progress, None, Report]], root: Any) -> str:
    """The last thing that was said of a piece; what it made is in the store."""
    said = ""

    def listen(progress: Progress) -> None:
        nonlocal said
        said = progress.message

    drive(job(piece, root=root), listen)
    return said
