"""Driving a job: a generator that yields `Progress` and returns its result. Nobody else loops over one.

Imports neither torch nor anything of this project, so that the workbench can use it before the library is there.
"""

from __future__ import annotations

from collections.abc import Callable, Generator
from dataclasses import replace
from typing import TYPE_CHECKING, TypeVar

if TYPE_CHECKING:
    from ouro.types import Progress

_Result = TypeVar("_Result")

PARTS = 1000
"""Resolution of the progress of a longer job, see `staged`."""


def drive(job: Generator[Progress, None, _Result], watch: Callable[[Progress], object]) -> _Result:
    """Runs a job to its end, showing every progress to `watch`; returns its result."""
    try:
        while True:
            watch(next(job))
    except StopIteration as end:
        return end.value
    finally:
        job.close()


def finish(job: Generator[Progress, None, _Result]) -> _Result:
    """Runs a job to its end without anybody watching; returns its result."""
    return drive(job, lambda progress: None)


def mapped(
    job: Generator[Progress, None, _Result], change: Callable[[Progress], Progress]
) -> Generator[Progress, None, _Result]:
    """The job with another progress in place of each of its own; closed together with it."""
    try:
        while True:
            yield change(next(job))
    except StopIteration as end:
        return end.value
    finally:
        job.close()


def staged(
    job: Generator[Progress, None, _Result], begin: float, end: float, words: str
) -> Generator[Progress, None, _Result]:
    """The job as a part of a longer one, from `begin` to `end` of its time (parts of 1)."""

    def placed(progress: Progress) -> Progress:
        at = begin + (end - begin) * progress.step / max(1, progress.total)
        return replace(progress, step=round(PARTS * at), total=PARTS, message=f"{words}: {progress.message}")

    return mapped(job, placed)
