"""The table of the field: every method on every calibration set, at several widths and scopes, on several models.

One `compare` per (model, scope, seed, set), spread over processes; what they finish is kept, so the table goes on where
it was stopped, and is put together from the kept cells in the end.
"""

from __future__ import annotations

import os
import time
from collections.abc import Generator, Sequence
from dataclasses import asdict, dataclass, replace
from functools import partial
from typing import Any

from ouro.jobs.bench.compare import CompareSpec, as_csv, compare
from ouro.jobs.inputs import source_of
from ouro.jobs.pool import in_processes
from ouro.jobs.provenance import run_info
from ouro.progress import finish
from ouro.registry import MODELS, QUANTIZERS
from ouro.settings import check_counts
from ouro.types import Progress, Report

Options = tuple[tuple[str, tuple[tuple[str, Any], ...]], ...]

EQUAL_STEPS: Options = (
    ("ptq4vm", (("steps_per_block", 10),)),
    ("brecq", (("iterations", 60), ("activation_steps", 10))),
)
"""What learned methods are given here, so that none has more optimizer steps for step sizes than another: 10 a block,
the number of OuroMamba's code. The roundings that only BRECQ learns have 60 steps, each on a chunk of the set."""


ALL_BUT_BRECQ = tuple(name for name in QUANTIZERS if name != "brecq")
"""BRECQ takes ten times as long as the slowest other method, so it has a part of its own."""
SETS = (("noise", "noise:32"), ("synthetic", "synthetic:32"), ("real", "real:32"))
_REAL = SETS[-1:]


@dataclass(frozen=True, slots=True)
class Part:
    """One rectangle of the table: these models with all combinations of the rest.

    methods and calibs: those of the table unless given.
    """

    models: tuple[str, ...]
    bits: tuple[str, ...]
    scopes: tuple[str, ...]
    seeds: tuple[int, ...]
    methods: tuple[str, ...] = ()
    calibs: tuple[tuple[str, str], ...] = ()


@dataclass(frozen=True, slots=True)
class TableSpec:
    """What the table spans; every method on every set, where a part does not say otherwise.

    calibs: (label, set), see `ouro.data.source.parse`. limit: held-out images per cell.
    workers, engine: see `ouro.jobs.pool`.

    Raises:
        ValueError: an unknown model or method, or fewer than one worker.
    """

    parts: tuple[Part, ...]
    methods: tuple[str, ...] = ALL_BUT_BRECQ
    calibs: tuple[tuple[str, str], ...] = SETS
    limit: int = 250
    workers: int = 2
    options: Options = EQUAL_STEPS
    device: str = "auto"
    engine: str = ""

    def __post_init__(self) -> None:
        for name in {name for part in self.parts for name in part.models}:
            MODELS.get(name)
        for method in (*self.methods, *(method for part in self.parts for method in part.methods)):
            QUANTIZERS.get(method)
        check_counts(self, "workers")


ZOO = ("vim_nano", "vim_nano_digits", "vmamba_nano", "localvmamba_nano", "mambavision_nano")
"""Embedded models that are there to be quantized."""
FULL = (
    Part(("vim_nano",), ("w4a4o8", "w8a8"), ("lin",), (0, 1, 2)),
    Part(("vim_nano",), ("w8a8", "w4a4o8"), ("rec",), (0,)),
    Part(ZOO[1:], ("w4a4o8",), ("lin",), (0,)),
    Part(("vim_nano",), ("w6a6", "w4a8o16"), ("lin",), (0,)),
    Part(ZOO[1:], ("w8a8",), ("rec",), (0,), calibs=_REAL),
    Part(("vim_nano",), ("w4a4o8",), ("lin",), (0,), methods=("brecq",)),
)
"""The important first. Three seeds of everything would take two cores most of a day."""
QUICK = (Part(("vim_nano",), ("w8a8", "w4a4o8"), ("lin",), (0,), calibs=(SETS[0], SETS[-1])),)
"""Without a synthetic set, which would have to be made first."""


def table(spec: TableSpec, *, root: str | os.PathLike[str] | None = None) -> Generator[Progress, None, Report]:
    """Fills the table; the report has {tables: [what `compare` reports, one per model and scope], csv, workers}.

    Raises:
        RuntimeError: a cell failed; the ones that are finished are kept.
    """
    started = time.perf_counter()
    wanted = [
        (_comparison(spec, part, model, scope, part.seeds), seed)
        for part in spec.parts
        for model in part.models
        for scope in part.scopes
        for seed in part.seeds
    ]
    units = [
        replace(comparison, seeds=(seed,), calibs=(calib,))
        for comparison, seed in wanted
        for calib in comparison.calibs
    ]
    yield from _fill(units, spec.workers, spec.engine, root)
    # everything is there: this only reads it
    tables = [
        dict(finish(compare(_comparison(spec, part, model, scope, part.seeds), root=root)).values)
        for part in spec.parts
        for model in part.models
        for scope in part.scopes
    ]
    texts = [as_csv(values) for values in tables]
    # one head line for all
    csv = texts[0] + "".join(text.split("\n", 1)[1] for text in texts[1:])
    values = {"tables": tables, "csv": csv, "workers": spec.workers, "spec": asdict(spec)}
    return Report("table", values, run_info(0, started))


def _fill(
    units: Sequence[CompareSpec], workers: int, engine: str, root: str | os.PathLike[str] | None
) -> Generator[Progress, None, None]:
    """Computes and keeps every cell."""
    total = sum(len(unit.bits) * len(unit.calibs) * len(unit.methods) for unit in units)
    done = 0
    yield Progress(0, total, f"{len(units)} comparisons " + (f"at {engine}" if engine else f"in {workers} processes"))
    for unit, cells in in_processes(partial(_run, root=root), units, workers, engine):
        done += cells
        said = f"{unit.model} {unit.scope} seed {unit.seeds[0]} on {unit.calibs[0][0]}"
        yield Progress(done, total, said, {"model": unit.model.name, "scope": unit.scope})


def _comparison(spec: TableSpec, part: Part, model: str, scope: str, seeds: Sequence[int]) -> CompareSpec:
    methods, calibs = part.methods or spec.methods, part.calibs or spec.calibs
    return CompareSpec(
        source_of(model), methods, part.bits, calibs, tuple(seeds), scope, limit=spec.limit, options=spec.options,
        device=spec.device,
    )  # fmt: skip


def _run(unit: CompareSpec, root: Any) -> int:
    """How many cells of a comparison are finished: all of them."""
    return len(finish(compare(unit, root=root)).values["cells"])
