"""Runs a job to its end."""

from __future__ import annotations

from collections.abc import Generator

from ouro.types import Progress, Report


def finish(job: Generator[Progress, None, Report]) -> tuple[list[Progress], Report]:
    """(every progress, the report) of a job."""
    beats = []
    while True:
        try:
            beats.append(next(job))
        except StopIteration as end:
            return beats, end.value
