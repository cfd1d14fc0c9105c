"""The examples of CONTRIBUTING.md, put where they say that they belong: tests grow the library by them and shrink it again."""

from __future__ import annotations

import re
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from importlib import import_module
from pathlib import Path
from types import ModuleType

from ouro import kernels, metrics, registry

PAGE = Path(__file__).resolve().parent.parent / "CONTRIBUTING.md"
REGISTRIES = tuple(one for one in vars(registry).values() if isinstance(one, registry.Registry))
_BLOCK = re.compile(r"^```python(?: (\S+))?\n(.*?)^```", re.DOTALL | re.MULTILINE)


@dataclass
class Example:
    """files: new ones, path -> text. lines: added to files that there are, (path, text). checks: what must hold then."""

    files: dict[str, str] = field(default_factory=dict)
    lines: list[tuple[str, str]] = field(default_factory=list)
    checks: list[str] = field(default_factory=list)


def examples() -> dict[str, Example]:
    """Heading -> example, of every section of the page that has one."""
    found: dict[str, Example] = {}
    for section in re.split(r"(?m)^## ", PAGE.read_text("utf-8"))[1:]:
        heading = section.splitlines()[0]
        for place, text in _BLOCK.findall(section):
            example = found.setdefault(heading, Example())
            if not place:
                example.checks.append(text)
            elif (PAGE.parent / place).is_file():
                example.lines.append((place, text))
            else:
                example.files[place] = text
    return found


def module_of(path: str) -> str:
    """The module that a file is imported as."""
    parts = Path(path).with_suffix("").parts
    parts = ("ouro", *parts) if parts[0] == "kernels" else parts
    return ".".join(parts[:-1] if parts[-1] == "__init__" else parts)


@contextmanager
def grown(example: Example, folder: Path) -> Iterator[None]:
    """The library with an example's files, written below `folder`, and its lines; as it was before afterwards."""
    tables = [*(one._targets for one in REGISTRIES), metrics.METRICS]
    before, names = [dict(one) for one in tables], kernels.NAMES
    modules = {module_of(path): path for path in example.files}
    packages: dict[ModuleType, list[str]] = {}
    for path, text in example.files.items():
        file = folder / path
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_text(text, "utf-8")
    try:
        for name, path in modules.items():
            package = name.rpartition(".")[0]
            if package not in modules:
                # one of the library's, which looks for its modules in the example's folder too
                home = import_module(package)
                packages[home] = list(home.__path__)
                place = folder / path.removesuffix("/__init__.py")
                home.__path__ = [*home.__path__, str(place.parent)]
        for path, text in example.lines:
            exec(compile(text, path, "exec"), vars(import_module(module_of(path))))
        yield
    finally:
        for one, kept in zip(tables, before, strict=True):
            one.clear()
            one.update(kept)
        kernels.NAMES = names
        for home, kept_path in packages.items():
            home.__path__ = kept_path
        for name in modules:
            sys.modules.pop(name, None)
            package, _, leaf = name.rpartition(".")
            if package in sys.modules:
                vars(sys.modules[package]).pop(leaf, None)
