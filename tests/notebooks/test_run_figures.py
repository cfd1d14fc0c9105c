"""Notebooks of the paper's figures run, in their quick form."""

from __future__ import annotations

import pytest

from tests.notebooks.running import FOLDER, code, run_quickly

NOTEBOOKS = [*sorted(FOLDER.glob("fig*.ipynb"))]


@pytest.mark.slow
@pytest.mark.parametrize("path", NOTEBOOKS, ids=lambda path: path.stem)
def test_runs(path, tmp_path, monkeypatch):
    notebook = run_quickly(path, tmp_path, monkeypatch)
    cells = code(notebook)
    assert [cell.execution_count for cell in cells] == list(range(1, len(cells) + 1))
    assert not [output for cell in cells for output in cell.outputs if output.get("name") == "stderr"]
