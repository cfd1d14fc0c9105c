"""Runs a job to its end."""

from __future__ import annotations

from collections.abc import Generator

from ouro.progress import drive
from ouro.types import Progress, Report


def finish(job: Generator[Progress, None, Report]) -> tuple[list[Progress], Report]:
    """(every progress, the report) of a job."""
    rows: list[Progress] = []
    return rows, drive(job, rows.append)
