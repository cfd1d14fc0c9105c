"""The published weights of a model, brought to this machine: progress in bytes, cancelled without a trace."""

from __future__ import annotations

import time
from collections.abc import Generator
from dataclasses import dataclass

from ouro.jobs.inputs import source_of
from ouro.jobs.provenance import run_info
from ouro.models import variant
from ouro.models.download import at_hand, content_digest, locating
from ouro.types import ModelSource, Progress, Report


@dataclass(frozen=True, slots=True)
class DownloadSpec:
    """Whose weights: the published ones of a registered name, or those that the source names (a URL, a hub file)."""

    model: ModelSource

    def __post_init__(self) -> None:
        object.__setattr__(self, "model", source_of(self.model))


def download(spec: DownloadSpec) -> Generator[Progress, None, Report]:
    """One Progress, in bytes, per block; weights that are here already are only looked up.

    The report has {model, source, path, bytes, revision, seconds}: the commit of a hub file, the start of any other's
    SHA-256. Closed before its end, the job leaves no part of a
    file behind.

    Raises:
        ValueError: an unknown name, a model without published weights, no network, or a file that is not what its name
            or its address promised.
    """
    started = time.perf_counter()
    source = published(spec.model)
    path, commit = yield from locating(source)
    run = run_info(0, started)
    values = {"model": spec.model.name, "source": source, "path": str(path), "bytes": path.stat().st_size}
    values["revision"] = commit or content_digest(path)
    return Report("download", values | {"seconds": round(run.seconds, 2)}, run)


def published(source: ModelSource) -> str:
    """Where the weights of a source are published: a URL or a hub file.

    Raises:
        ValueError: an unknown name, or a model whose weights are in this package or nowhere.
    """
    entry = variant(source.name)
    if source.weights:
        return source.weights
    if entry.weights is None or entry.embedded:
        where = "come with this package" if entry.embedded else "were never published"
        raise ValueError(f"the weights of {source.name} {where}; there is nothing to download")
    return entry.weights


def is_here(name: str) -> bool:
    """Whether the published weights of a registered model lie on this machine.

    Raises:
        ValueError: unknown name.
    """
    entry = variant(name)
    return entry.weights is not None and not entry.embedded and at_hand(entry.weights)
