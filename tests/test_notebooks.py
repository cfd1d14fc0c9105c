"""Notebooks as they are stored: executed in order, small, free of this machine's traces; and one of them runs here."""

from __future__ import annotations

import ast
import base64
import os
import re
import shutil
from importlib import import_module
from pathlib import Path

import nbformat
import pytest
from nbclient import NotebookClient

ROOT = Path(__file__).resolve().parent.parent
FOLDER = ROOT / "notebooks"
NOTEBOOKS = sorted(FOLDER.glob("*.ipynb"))
IDS = [path.stem for path in NOTEBOOKS]
LARGEST_PICTURE = 150_000
TRACES = re.compile(r"(?<![\w.:/~-])/[A-Za-z][\w.-]*/[\w.-]|\b[A-Z]:\\+[A-Z]|\b\w+@[\w.-]+:")
"""Absolute paths, and a shell's prompt."""


@pytest.fixture(params=NOTEBOOKS, ids=IDS)
def notebook(request):
    return nbformat.read(request.param, as_version=4)


def code(notebook):
    return [cell for cell in notebook.cells if cell.cell_type == "code"]


def texts(notebook):
    """All that a reader sees of outputs, pictures left out."""
    for cell in code(notebook):
        for output in cell.outputs:
            yield output.get("text", "")
            yield from (str(value) for kind, value in output.get("data", {}).items() if not kind.startswith("image/"))
            yield str(output.get("metadata", {}))


def test_numbers_are_complete():
    numbers = [path.name[:2] for path in NOTEBOOKS]
    assert numbers and len(set(numbers)) == len(numbers)
    assert numbers == [f"{number:02}" for number in range(len(numbers))]


def test_is_valid_and_begins_with_its_question(notebook):
    nbformat.validate(notebook)
    assert notebook.nbformat == 4 and notebook.metadata.kernelspec.name == "python3"
    assert notebook.cells[0].cell_type == "markdown" and notebook.cells[0].source.startswith("# ")
    assert "Question" in notebook.cells[0].source
    names = [cell.id for cell in notebook.cells]
    assert len(set(names)) == len(names)


def test_was_executed_in_order_without_errors(notebook):
    cells = code(notebook)
    assert [cell.execution_count for cell in cells] == list(range(1, len(cells) + 1)), "run make notebooks"
    for cell in cells:
        assert not [output for output in cell.outputs if output.output_type == "error"], cell.source
        assert not [output for output in cell.outputs if output.get("name") == "stderr"], cell.source
        # times of execution would change with every run
        assert "execution" not in cell.metadata


def test_code_compiles_and_what_it_imports_is_there(notebook):
    for cell in code(notebook):
        for node in ast.walk(ast.parse(cell.source)):
            if isinstance(node, ast.Import):
                for alias in node.names:
                    import_module(alias.name)
            elif isinstance(node, ast.ImportFrom):
                assert node.module is not None and node.level == 0
                module = import_module(node.module)
                for alias in node.names:
                    # a name of the module, or a module in the package
                    assert hasattr(module, alias.name) or import_module(f"{node.module}.{alias.name}")


def test_has_parameters_and_asserts_something(notebook):
    assert [cell for cell in code(notebook) if cell.metadata.get("tags") == ["parameters"]]
    assert any("assert" in cell.source for cell in code(notebook))
    assert 5 <= len(code(notebook)) <= 10


def test_measurements_it_names_are_stored(notebook):
    for cell in code(notebook):
        for node in ast.walk(ast.parse(cell.source)):
            if isinstance(node, ast.Call) and isinstance(node.func, ast.Name) and node.func.id == "stored":
                (name,) = node.args
                if isinstance(name, ast.Constant):
                    assert (ROOT / "results" / f"{name.value.removesuffix('.json')}.json").is_file(), name.value


def test_pictures_are_small_and_described(notebook):
    for cell in code(notebook):
        for output in cell.outputs:
            if picture := output.get("data", {}).get("image/png"):
                assert len(base64.b64decode(picture)) <= LARGEST_PICTURE
                assert output.metadata["image/png"]["alt"]


def test_no_trace_of_the_machine(notebook):
    for text in (*texts(notebook), *(cell.source for cell in notebook.cells)):
        assert not TRACES.search(text), text
        # a user's home names the user; not looked for in prose where it is a word such as "root"
        assert len(home := os.path.expanduser("~")) < 4 or home not in text


@pytest.mark.parametrize(
    "text, expected",
    [("/home/me/x.json", True), ("saved to /tmp/a", True), ("C:\\Users", True), ("C:\\\\Users", True), ("me@host:", True),
     ("scenes/root/x", False), ("https://a.b/home/c", False), ("4.00 / 4.00", False), ("W / A", False)],
)  # fmt: skip
def test_traces_are_recognized(text, expected):
    assert bool(TRACES.search(text)) == expected


@pytest.mark.slow
def test_quickstart_runs(tmp_path, monkeypatch):
    monkeypatch.setenv("JUPYTER_RUNTIME_DIR", str(tmp_path / "runtime"))
    monkeypatch.setenv("IPYTHONDIR", str(tmp_path / "ipython"))
    monkeypatch.setenv("PYTHONPATH", os.pathsep.join(filter(None, (str(ROOT), os.environ.get("PYTHONPATH")))))
    (path,) = FOLDER.glob("00_*.ipynb")
    shutil.copy(path, tmp_path)
    notebook = nbformat.read(tmp_path / path.name, as_version=4)
    for cell in code(notebook):
        if cell.metadata.get("tags") == ["parameters"]:
            cell.source = re.sub(r"^LIMIT = \d+", "LIMIT = 4", cell.source, flags=re.M)
    NotebookClient(
        notebook, timeout=300, kernel_name="python3", resources={"metadata": {"path": str(tmp_path)}}
    ).execute()
    assert code(notebook)[-1].execution_count == len(code(notebook))
