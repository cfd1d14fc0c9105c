"""Runs notebooks in their quick form: with the smaller values that their parameters' cells keep for that, each in a folder of its own.

Those of a file share a kernel, which forgets all names in between: importing the library takes longer than most of them.
"""

from __future__ import annotations

import os
import re
import shutil
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import nbformat
import pytest
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


class Kernel:
    """A kernel that runs one notebook after the other."""

    def __init__(self, folder: Path) -> None:
        """folder: for what belongs to Jupyter itself."""
        self._client: NotebookClient | None = None
        places = {name: str(folder / name) for name in ("JUPYTER_RUNTIME_DIR", "IPYTHONDIR")}
        path = os.pathsep.join(filter(None, (str(ROOT), os.environ.get("PYTHONPATH"))))
        # notebooks that run side by side share the cores
        threads = {name: os.environ.get(name, "1") for name in ("OMP_NUM_THREADS", "NUMBA_NUM_THREADS")}
        self._env = {**places, **threads, "PYTHONPATH": path}

    def run(self, path: Path, folder: Path, more: Mapping[str, Any] | None = None) -> Any:
        """The notebook as it is after all its cells ran in this folder, with a cache of its own."""
        shutil.copy(path, folder)
        notebook = nbformat.read(folder / path.name, as_version=4)
        cell = parameters(notebook)
        cell.source = with_values(cell.source, {**cell.metadata["quick"], **(more or {})})
        self._execute(nbformat.v4.new_notebook(cells=[nbformat.v4.new_code_cell(_FRESH.format(folder=str(folder)))]))
        return self._execute(notebook)

    def _execute(self, notebook: Any) -> Any:
        if self._client is None:
            self._client = NotebookClient(notebook, timeout=300, kernel_name="python3")
            self._client.create_kernel_manager()
        self._client.nb = notebook
        with pytest.MonkeyPatch.context() as patch:
            for name, value in self._env.items():
                patch.setenv(name, value)
            self._client.execute(cleanup_kc=False)
        return notebook

    def close(self) -> None:
        """Ends the process."""
        if self._client is not None:
            self._client._cleanup_kernel()


# not %reset: with all names it takes __spec__, without which no process can be started
_FRESH = """
import os
os.chdir({folder!r})
os.environ["OURO_HOME"] = os.path.join({folder!r}, "home")
get_ipython().execution_count = 0
%reset_selective -f .
"""


def _frozen(value: Any) -> Any:
    return tuple(map(_frozen, value)) if isinstance(value, list) else value
