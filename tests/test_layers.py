"""The house rules that the imports and the first lines of the source have to keep."""

from __future__ import annotations

import ast
import re
from collections.abc import Iterator
from functools import cache
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parent.parent

LAYERS = {
    "ouro.kernels": 0,
    "ouro.types": 1,
    "ouro.registry": 1,
    "ouro.progress": 1,
    "ouro.settings": 1,
    "ouro.metrics": 1,
    "ouro.streams": 1,
    "ouro.store": 1,
    "ouro._torchvision_ops": 1,
    "ouro.taps": 2,
    "ouro.vision": 2,
    "ouro.scan": 2,
    "ouro.data": 2,
    "ouro.models": 3,
    "ouro.tasks": 3,
    "ouro.diffusion": 3,
    "ouro.attention": 4,
    "ouro.quant": 4,
    "ouro.fused": 5,
    "ouro.gen": 5,
    "ouro.evaluate": 5,
    "ouro.onnx": 5,
    "ouro.figures": 6,
    "ouro.paper": 6,
    "ouro.jobs": 7,
    "ouro.cli": 8,
    "ouro.__main__": 8,
    "ouro": 8,
    "workbench": 8,
}
"""Package or module -> layer; a lower one never imports a higher one. `ouro` itself is the front door."""

BLIND = {
    "ouro.attention": ("ouro.quant", "ouro.models"),
    "ouro.quant": ("ouro.attention", "ouro.models"),
    "workbench": ("torch",),
}
"""Package -> what it must not see, whatever the layers say."""

ONLY = {"ouro.figures": ("ouro.figures", "ouro.types", "ouro.metrics")}
"""Package -> all that it may see of this project."""


def sources(*folders: str) -> list[Path]:
    return sorted(path for folder in folders for path in (ROOT / folder).rglob("*.py"))


def module_name(path: Path) -> str:
    """Import name of a source file; the folder kernels/ is imported as ouro.kernels."""
    parts = path.relative_to(ROOT).with_suffix("").parts
    parts = ("ouro", *parts) if parts[0] == "kernels" else parts
    return ".".join(parts[:-1] if parts[-1] == "__init__" else parts)


MODULES = {module_name(path): path for path in sources("ouro", "kernels", "workbench")}


def home(module: str) -> str:
    """The entry of LAYERS a module belongs to."""
    parts = module.split(".")
    return next((name for end in range(len(parts), 0, -1) if (name := ".".join(parts[:end])) in LAYERS), module)


@cache
def parsed(path: Path) -> ast.Module:
    """The tree of a file, which several rules look at."""
    return ast.parse(path.read_text("utf-8"))


def imports(path: Path) -> Iterator[tuple[int, str]]:
    """(line, module) of every import in a file, wherever it stands; `from p import m` gives p.m if that is a module."""
    for node in ast.walk(parsed(path)):
        if isinstance(node, ast.Import):
            yield from ((node.lineno, alias.name) for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{path}:{node.lineno} imports relatively; write the absolute name"
            for alias in node.names:
                full = f"{node.module}.{alias.name}"
                yield node.lineno, full if full in MODULES else str(node.module)


def is_inside(module: str, packages: tuple[str, ...]) -> bool:
    return any(module == package or module.startswith(package + ".") for package in packages)


def complaints(module: str, path: Path) -> Iterator[str]:
    """What is wrong with the imports of one module."""
    own = home(module)
    if own == "ouro" and module != "ouro":
        yield f"{path}: {module} has no layer; give it one in LAYERS"
    for line, target in imports(path):
        place = f"{path.relative_to(ROOT)}:{line}: {own}"
        if is_inside(target, ("ouro", "workbench")):
            other = home(target)
            if LAYERS[other] > LAYERS[own]:
                yield f"{place} (layer {LAYERS[own]}) imports {target} (layer {LAYERS[other]})"
            if own in ONLY and not is_inside(target, ONLY[own]):
                yield f"{place} imports {target}, may only see {', '.join(ONLY[own])}"
        if is_inside(target, BLIND.get(own, ())):
            yield f"{place} imports {target}, which it must not see"


def test_no_layer_imports_a_higher_one():
    violations = [text for module, path in MODULES.items() if module != "ouro" for text in complaints(module, path)]
    assert not violations, "\n".join(violations)


@pytest.mark.parametrize(
    ("module", "line", "expected"),
    [
        ("ouro.scan.cpu", "from ouro.models import vim", "(layer 2) imports ouro.models (layer 3)"),
        ("ouro.quant.grid", "import ouro.attention.maps", "must not see"),
        ("ouro.quant.grid", "from ouro import attention", "must not see"),
        ("ouro.attention.maps", "def f():\n    from ouro.models.vim import Vim", "must not see"),
        ("ouro.taps", "from ouro import record", "imports ouro (layer 8)"),
        ("ouro.figures.map", "from ouro.registry import QUANTIZERS", "may only see"),
        ("workbench.app", "from torch import nn", "must not see"),
        ("ouro.surprise", "import os", "has no layer"),
    ],
)
def test_layers_complain(tmp_path, monkeypatch, module, line, expected):
    monkeypatch.setattr(f"{__name__}.ROOT", tmp_path)
    monkeypatch.setattr(f"{__name__}.MODULES", {"ouro.attention": tmp_path})
    path = tmp_path / "file.py"
    path.write_text(line)
    assert expected in "\n".join(complaints(module, path))


@pytest.mark.parametrize(
    ("module", "line"),
    [
        ("ouro.scan.dispatch", "from ouro.kernels import selective_scan"),
        ("ouro.gen.losses", "from ouro.quant import grid\nfrom ouro.models import vim"),
        ("ouro.figures.map", "import ouro.types\nimport plotly"),
        ("ouro.jobs.doctor", "import torch"),
    ],
)
def test_layers_allow(tmp_path, monkeypatch, module, line):
    monkeypatch.setattr(f"{__name__}.ROOT", tmp_path)
    path = tmp_path / "file.py"
    path.write_text(line)
    assert not list(complaints(module, path))


def circles(graph: dict[str, set[str]]) -> list[list[str]]:
    """Groups of modules that import one another, directly or around some corners."""
    reach = {module: set(targets) for module, targets in graph.items()}
    grown = True
    while grown:
        grown = False
        for seen in reach.values():
            wider = seen.union(*(reach.get(target, set()) for target in seen))
            grown |= len(wider) > len(seen)
            seen |= wider
    groups = {frozenset(other for other in reach[module] if module in reach.get(other, ())) for module in reach}
    return sorted(sorted(group) for group in groups if len(group) > 1)


def test_imports_run_one_way():
    graph = {module: {target for _, target in imports(path) if target in MODULES} for module, path in MODULES.items()}
    # a package's front door may name what lies inside it
    graph = {module: targets for module, targets in graph.items() if MODULES[module].name != "__init__.py"}
    assert not circles(graph), "modules that import each other: move what both need into a third"


def test_circles_are_detected():
    assert circles({"a": {"b"}, "b": {"c"}, "c": {"a", "d"}, "d": set()}) == [["a", "b", "c"]]


def test_every_file_begins_with_a_docstring():
    trees = {path: parsed(path) for path in sources("ouro", "kernels", "workbench", "tests")}
    missing = [str(path.relative_to(ROOT)) for path, tree in trees.items() if tree.body and not ast.get_docstring(tree)]
    assert not missing, f"no docstring at the top of {', '.join(missing)}"


def test_library_does_not_print():
    places = [
        f"{path.relative_to(ROOT)}:{node.lineno}"
        for path in sources("ouro", "kernels")
        for node in ast.walk(parsed(path))
        if isinstance(node, ast.Call) and isinstance(node.func, ast.Name) and node.func.id == "print"
    ]
    assert not places, f"print() in {', '.join(places)}; use logging"


def test_every_package_is_installed():
    folders = {path.parent for path in sources("ouro", "kernels", "workbench")}
    bare = sorted(str(folder.relative_to(ROOT)) for folder in folders if not (folder / "__init__.py").exists())
    assert not bare, f"no __init__.py in {', '.join(bare)}"
    # a TOML list of strings reads as a Python list; Python 3.10 has no TOML reader
    listed = re.search(r"^packages = (\[.*?\])", (ROOT / "pyproject.toml").read_text("utf-8"), re.DOTALL | re.MULTILINE)
    assert listed is not None
    packages = {module_name(folder / "__init__.py") for folder in folders}
    # the stored measurements are a package of files
    assert set(ast.literal_eval(listed[1])) == packages | {"ouro.results"}
