"""Two result files of a benchmark side by side: what became faster or slower by more than it scatters."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

SAME, FASTER, SLOWER = "same", "faster", "slower"


def compare_benchmarks(before: Path, after: Path) -> dict[str, Any]:
    """{device, same_device, rows: [{what, case, backend, before_ms, after_ms, speedup, verdict}], only_before, only_after}.

    A row is the same unless the ranges from p20 to p80 of both files lie apart. speedup: how many times faster it became.

    Raises:
        ValueError: a file that is no benchmark, or two without a row in common.
    """
    files = [_read(path) for path in (before, after)]
    tables = [{_key(row): row for row in values["rows"] if "p50_ms" in row} for values in files]
    common = [key for key in tables[0] if key in tables[1]]
    if not common:
        raise ValueError(f"{before} and {after} have no timed row in common; are they of the same benchmark?")
    devices = [values.get("device") for values in files]
    return {
        "device": devices,
        "same_device": devices[0] == devices[1],
        "commit": [values.get("commit") for values in files],
        "rows": [_compared(key, tables[0][key], tables[1][key]) for key in common],
        "only_before": [list(key) for key in tables[0] if key not in tables[1]],
        "only_after": [list(key) for key in tables[1] if key not in tables[0]],
    }


def _read(path: Path) -> dict[str, Any]:
    try:
        values = json.loads(path.read_text("utf-8"))
    except (OSError, UnicodeDecodeError, json.JSONDecodeError) as error:
        raise ValueError(f"{path} is no result file ({error}); give two that `ouro bench … --out` wrote") from error
    if not isinstance(values, dict) or not isinstance(values.get("rows"), list):
        raise ValueError(f"{path} has no rows of a benchmark; give two files that `ouro bench … --out` wrote")
    return values


def _key(row: Mapping[str, Any]) -> tuple[str, str, str]:
    return str(row.get("kernel", row.get("op"))), str(row.get("case")), str(row.get("backend"))


def _compared(key: tuple[str, str, str], before: Mapping[str, Any], after: Mapping[str, Any]) -> dict[str, Any]:
    if after["p80_ms"] < before["p20_ms"]:
        verdict = FASTER
    elif before["p80_ms"] < after["p20_ms"]:
        verdict = SLOWER
    else:
        verdict = SAME
    what, case, backend = key
    return {
        "what": what,
        "case": case,
        "backend": backend,
        "before_ms": before["p50_ms"],
        "after_ms": after["p50_ms"],
        "speedup": round(before["p50_ms"] / after["p50_ms"], 3) if after["p50_ms"] else None,
        "verdict": verdict,
    }
