"""Notebooks of the paper's tables, those beyond it, and the quickstart run, in their quick form."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.notebooks.running import FOLDER, Kernel, code

NOTEBOOKS = [
    # without the full suite that which leads to all others
    path if path.stem == "00_quickstart" else pytest.param(path, marks=pytest.mark.full)
    for path in sorted(FOLDER.glob("*.ipynb"))
    if not path.name.startswith("fig")
]


@pytest.mark.slow
@pytest.mark.parametrize("path", NOTEBOOKS, ids=lambda path: path.stem)
def test_runs(kernel: Kernel, path: Path, tmp_path: Path):
    notebook = kernel.run(path, tmp_path)
    cells = code(notebook)
    assert [cell.execution_count for cell in cells] == list(range(1, len(cells) + 1))
    assert not [output for cell in cells for output in cell.outputs if output.get("name") == "stderr"]
