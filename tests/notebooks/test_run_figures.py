"""Notebooks of the paper's figures run, in their quick form."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.notebooks.running import FOLDER, Kernel, code

NOTEBOOKS = [*sorted(FOLDER.glob("fig*.ipynb"))]


@pytest.mark.full
@pytest.mark.slow
@pytest.mark.parametrize("path", NOTEBOOKS, ids=lambda path: path.stem)
def test_runs(kernel: Kernel, path: Path, tmp_path: Path):
    notebook = kernel.run(path, tmp_path)
    cells = code(notebook)
    assert [cell.execution_count for cell in cells] == list(range(1, len(cells) + 1))
    assert not [output for cell in cells for output in cell.outputs if output.get("name") == "stderr"]
