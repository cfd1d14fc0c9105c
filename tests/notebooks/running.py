"""Runs a notebook in its quick form: with the smaller values that its parameters' cell keeps for that, in a folder of its own."""

from __future__ import annotations

import os
import re
import shutil
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import nbformat
from nbclient import NotebookClient

ROOT = Path(__file__).resolve().parents[2]
FOLDER = ROOT / "notebooks"


def code(notebook: Any) -> list[Any]:
    return [cell for cell in notebook.cells if cell.cell_type == "code"]


def parameters(notebook: Any) -> Any:
    """The cell whose values a reader changes."""
    (cell,) = (cell for cell in code(notebook) if cell.metadata.get("tags") == ["parameters"])
    return cell


def with_values(source: str, values: Mapping[str, Any]) -> str:
    """The assignments of these names with other values; lists, all that JSON has, stand for tuples.

    Raises:
        ValueError: the cell does not assign that name in a line of its own.
    """
    for name, value in values.items():
        line = f"{name} = {_frozen(value)!r}"
        source, times = re.subn(rf"^{name} = .*$", lambda _, line=line: line, source, flags=re.MULTILINE)
        if times != 1:
            raise ValueError(f"{name} is assigned {times} times, expected once in a line of its own")
    return source


def run_quickly(path: Path, folder: Path, monkeypatch: Any, more: Mapping[str, Any] | None = None) -> Any:
    """The notebook as it is after all its cells ran, with a cache of its own."""
    for name, place in (("OURO_HOME", "home"), ("JUPYTER_RUNTIME_DIR", "runtime"), ("IPYTHONDIR", "ipython")):
        monkeypatch.setenv(name, str(folder / place))
    monkeypatch.setenv("PYTHONPATH", os.pathsep.join(filter(None, (str(ROOT), os.environ.get("PYTHONPATH")))))
    # notebooks that run side by side share the cores
    for name in ("OMP_NUM_THREADS", "NUMBA_NUM_THREADS"):
        monkeypatch.setenv(name, os.environ.get(name, "1"))
    shutil.copy(path, folder)
    notebook = nbformat.read(folder / path.name, as_version=4)
    cell = parameters(notebook)
    cell.source = with_values(cell.source, {**cell.metadata["quick"], **(more or {})})
    NotebookClient(
        notebook, timeout=300, kernel_name="python3", resources={"metadata": {"path": str(folder)}}
    ).execute()
    return notebook


def _frozen(value: Any) -> Any:
    return tuple(map(_frozen, value)) if isinstance(value, list) else value
