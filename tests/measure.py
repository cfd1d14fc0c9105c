"""Which lines the suite runs: `make coverage` measures it and adds a row to results/coverage.json.

`python -m tests.measure [--at CHECKOUT] [OPTIONS OF PYTEST]` measures another checkout as well, with the settings of this
one, which are in pyproject.toml: what processes run that tests start counts, what numba and Triton compile cannot.
"""

from __future__ import annotations

import argparse
import json
import os
import re
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any

from ouro.jobs.provenance import device_name
from ouro.store import write_json

ROOT = Path(__file__).resolve().parents[1]
OUT = ROOT / "results" / "coverage.json"
# runnable processes per core, beyond which the machine is shared and seconds are no measurement
QUIET = 0.25


def main(arguments: list[str]) -> int:
    parser = argparse.ArgumentParser(prog="python -m tests.measure", description=__doc__.splitlines()[0])
    parser.add_argument("--at", type=Path, default=ROOT, metavar="CHECKOUT")
    parser.add_argument("--out", type=Path, default=OUT)
    options, others = parser.parse_known_args(arguments)
    cores = len(os.sched_getaffinity(0))
    quiet = os.getloadavg()[0] < QUIET * cores
    with tempfile.TemporaryDirectory() as folder:
        data, report = Path(folder) / "data", Path(folder) / "report.json"
        path = os.pathsep.join(filter(None, (str(options.at), os.environ.get("PYTHONPATH"))))
        environment = os.environ | {"COVERAGE_FILE": str(data), "PYTHONPATH": path}

        def coverage(*words: str) -> subprocess.CompletedProcess[str]:
            command = [sys.executable, "-m", "coverage", words[0], f"--rcfile={ROOT / 'pyproject.toml'}", *words[1:]]
            return subprocess.run(command, cwd=options.at, env=environment, text=True, stdout=subprocess.PIPE)

        begun = time.perf_counter()
        run = coverage("run", "-m", "pytest", *others)
        seconds = time.perf_counter() - begun
        sys.stdout.write(run.stdout)
        coverage("combine", "--quiet")
        coverage("json", "--quiet", "-o", str(report))
        measured = json.loads(report.read_text("utf-8"))
    last = run.stdout.strip().rpartition("\n")[2]
    described = ["git", "-C", str(options.at), "describe", "--always", "--dirty", "--exclude=*"]
    row = {
        "commit": subprocess.run(described, capture_output=True, text=True, check=True).stdout.strip(),
        "command": " ".join(["python -m tests.measure", *others]),
        "passed": run.returncode == 0,
        "tests": sum(int(number) for number in re.findall(r"(\d+) (?:passed|failed|skipped)", last)),
        "seconds": round(seconds),
        "device": device_name(),
        "cores": cores,
        "quiet": quiet,
        **summary(measured),
    }
    before = json.loads(options.out.read_text("utf-8"))["rows"] if options.out.exists() else []
    write_json(options.out, {"op": "coverage of the suite", "rows": [*before, row]})
    return run.returncode


def summary(measured: dict[str, Any]) -> dict[str, Any]:
    """{percent, lines, missed, files: {path: missed lines}} of coverage's report; files without any missed line are left out."""
    totals = measured["totals"]
    files = {name: spans(file["missing_lines"]) for name, file in sorted(measured["files"].items())}
    return {
        "percent": round(totals["percent_covered"], 2),
        "lines": totals["num_statements"],
        "missed": totals["missing_lines"],
        "files": {name: missed for name, missed in files.items() if missed},
    }


def spans(lines: Iterable[int]) -> str:
    """Line numbers in short: [1, 2, 3, 7] is "1-3 7"."""

    def runs() -> Iterator[list[int]]:
        run: list[int] = []
        for line in sorted(lines):
            if run and line > run[-1] + 1:
                yield run
                run = []
            run.append(line)
        if run:
            yield run

    return " ".join(str(run[0]) if len(run) == 1 else f"{run[0]}-{run[-1]}" for run in runs())


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
