"""Kernels where nothing but torch and Triton is installed: `ouro bench gates` and `ouro bench kernels`, with fewer words.

`python -m ouro.jobs.bench.alone gates|times [KERNEL ...] [--case WORD ...] [--processes N] [--no-peers] [--out FILE]`; exit
code 1 where a gate fails, as of the commands.
"""

from __future__ import annotations

import argparse
import json
import os
import sys
from collections.abc import Sequence
from pathlib import Path

from ouro.jobs.bench.kernels import GateSpec, KernelBenchSpec, bench_kernels, check_kernels
from ouro.jobs.provenance import values_of
from ouro.kernels import NAMES
from ouro.progress import drive
from ouro.types import Progress


def main(arguments: Sequence[str]) -> int:
    """Runs the job, names each step on stderr, writes its JSON to FILE or stdout; the exit code."""
    parser = argparse.ArgumentParser(prog="python -m ouro.jobs.bench.alone", description=__doc__.splitlines()[0])
    parser.add_argument("what", choices=("gates", "times"))
    parser.add_argument("kernels", nargs="*", help="kernels, for times also scan, gemm or rows; none means all")
    parser.add_argument("--case", action="append", default=[], help="a word of the names of the cases that are timed")
    parser.add_argument("--processes", type=int, default=1, help="gates side by side")
    parser.add_argument("--no-peers", action="store_true", help="time ours only")
    parser.add_argument("--out", type=Path, help="the file that is written")
    given = parser.parse_args(arguments)
    try:
        if given.what == "gates":
            job = check_kernels(GateSpec(tuple(given.kernels) or NAMES, processes=given.processes))
        else:
            job = bench_kernels(KernelBenchSpec(tuple(given.kernels), tuple(given.case), not given.no_peers))
        values = values_of(drive(job, _show))
    except ValueError as error:
        parser.error(str(error))
    text = json.dumps(values, indent=2, allow_nan=False) + "\n"
    if given.out is None:
        sys.stdout.write(text)
    else:
        # `ouro.store` does this better, and needs a package
        aside = given.out.with_name(f".{given.out.name}.part")
        aside.write_text(text, "utf-8")
        os.replace(aside, given.out)
    for row in values["gates"]:
        if not row["passed"]:
            sys.stderr.write(f"{row['kernel']}, {row['case']}: {row['complaint']}\n")
    return 0 if values["gate"]["passed"] else 1


def _show(progress: Progress) -> None:
    sys.stderr.write(f"{progress.step}/{progress.total} {progress.message}\n")


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
