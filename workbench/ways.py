"""The way from a number to what made it: a link to its run, or to the file in results/ that it stands in."""

from __future__ import annotations

import html
from collections.abc import Mapping
from pathlib import PurePath
from typing import Any

from workbench.address import link


def way(words: str, href: str) -> str:
    """Words as a link, as they are where it leads nowhere."""
    said = html.escape(words)
    return f'<a class="wb-way" href="{html.escape(href, quote=True)}">{said}</a>' if href else said


def made_by(row: Mapping[str, Any]) -> str:
    """The `href` of what made a row or a report: its run, or its place in results/; "" where nobody kept it.

    A run is known by the name of its folder, a row of results/ by its id, see `workbench.stored.accuracies`.
    """
    if row.get("file"):
        return link("runs", run=row.get("id", row["file"]))
    run = row.get("run") or (PurePath(row["path"]).parent.name if row.get("path") else "")
    return link("runs", run=run) if run else ""


def said_of(row: Mapping[str, Any]) -> str:
    """What stands on that link."""
    if row.get("file"):
        return f"results/{row['file']}"
    return "its run"
