"""What tables of pages are made of: stored results, and Markdown."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from ouro.registry import QUANTIZERS

ROOT = Path(__file__).resolve().parents[2]
_INSTALLED = ROOT / "ouro" / "results"
# an installed package has them inside, a checkout beside it
RESULTS = _INSTALLED if _INSTALLED.is_dir() else ROOT / "results"
"""Measurements that are kept with the source, one JSON file each."""
Rows = list[Sequence[object]]


def title(method: str) -> str:
    """A quantizer's title; a stored method that is no longer registered goes by its name."""
    return QUANTIZERS.get(method).title if method in QUANTIZERS else method


def measured(key: str) -> str:
    """A method and its bits, as studies name what they calibrate: "ouro w4a4o8" as "OuroMamba-Quant W4A4O8"."""
    method, bits = key.split()
    return f"{title(method)} {bits.upper()}"


def load(name: str) -> dict[str, Any] | None:
    path = RESULTS / name
    return json.loads(path.read_text()) if path.exists() else None


def markdown(head: Sequence[str], rows: Rows, left: int = 1) -> str:
    """A Markdown table; the first `left` columns are aligned left."""
    rule = ["---"] * left + ["---:"] * (len(head) - left)
    return "\n".join("| " + " | ".join(map(str, row)) + " |" for row in (head, rule, *rows))


def share(value: float | None, interval: Sequence[float] | None = None) -> str:
    if value is None:
        return "not measured"
    text = f"{100 * value:.1f}"
    return text if interval is None else f"{text} ({100 * interval[0]:.1f} to {100 * interval[1]:.1f})"


def made(values: dict[str, Any], *commands: str) -> str:
    made = ", ".join(f"`{command}`" for command in commands)
    return f"{made}; {values['device']}; commit {values['commit']}.\n\n"
