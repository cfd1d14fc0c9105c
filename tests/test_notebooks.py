"""Notebooks as they are stored: executed in order, small, named for what they answer, free of this machine's traces.

That they run is tested in tests/notebooks.
"""

from __future__ import annotations

import ast
import base64
import os
import re
from importlib import import_module

import nbformat
import pytest

from ouro.paper.ledger import ARTEFACTS
from tests.notebooks.running import FOLDER, ROOT, code, parameters, with_values

NOTEBOOKS = sorted(FOLDER.glob("*.ipynb"))
IDS = [path.stem for path in NOTEBOOKS]
LARGEST_PICTURE = 150_000
TRACES = re.compile(r"(?<![\w.:/~-])/[A-Za-z][\w.-]*/[\w.-]|\b[A-Z]:\\+[A-Z]|\b\w+@[\w.-]+:")
"""Absolute paths, and a shell's prompt."""


@pytest.fixture(params=NOTEBOOKS, ids=IDS)
def notebook(request):
    return nbformat.read(request.param, as_version=4)


def texts(notebook):
    """All that a reader sees of outputs, pictures left out."""
    for cell in code(notebook):
        for output in cell.outputs:
            yield output.get("text", "")
            yield from (str(value) for kind, value in output.get("data", {}).items() if not kind.startswith("image/"))
            yield str(output.get("metadata", {}))


def test_what_the_ledger_names_is_there_and_every_notebook_is_listed():
    assert {entry.notebook for entry in ARTEFACTS if entry.notebook} <= set(IDS)
    listed = set(re.findall(r"^\| \[(\w+)\]\(\1\.ipynb\) \|", (FOLDER / "README.md").read_text("utf-8"), re.M))
    assert listed == set(IDS)
    (quickstart,) = (path for path in NOTEBOOKS if path.stem.startswith("00_"))
    links = re.findall(r"\[(\w+)\]\((\w+)\.ipynb\)", nbformat.read(quickstart, as_version=4).cells[-1].source)
    assert {name for name, file in links if name == file} == set(IDS) - {quickstart.stem}


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
    cell = parameters(notebook)
    assert code(notebook)[1] is cell
    # a reader's own model, and a quick form for the tests
    assert "MODEL = " in cell.source and "WEIGHTS = None" in cell.source and "source = ModelSource(" in cell.source
    assert with_values(cell.source, cell.metadata["quick"]) != cell.source
    assert any("assert" in cell.source for cell in code(notebook))
    assert 5 <= len(code(notebook)) <= 10


@pytest.mark.parametrize("words", ["## How to read it", "## Verdict", "## What to change to make it break", "$$"])
def test_has_every_part(notebook, words):
    assert any(words in cell.source for cell in notebook.cells if cell.cell_type == "markdown")


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
