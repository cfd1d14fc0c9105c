"""What a wheel holds: all that the library, its kernels and the app need, and the stored results; `make wheel` tries it."""

from __future__ import annotations

import shutil
import subprocess
import sys
import zipfile
from collections.abc import Iterator
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parent.parent
PLACES = {"ouro": "ouro", "kernels": "ouro/kernels", "workbench": "workbench", "results": "ouro/results"}
"""Folder of the checkout -> its place in an installed package."""
BUILD = "import sys; from setuptools.build_meta import build_wheel; build_wheel(sys.argv[1])"


def due() -> Iterator[tuple[str, Path]]:
    """(name in the wheel, file) of what has to go along: of results/ the measurements, of all else everything but READMEs."""
    for folder, place in PLACES.items():
        for path in (ROOT / folder).rglob("*"):
            inside = path.relative_to(ROOT / folder)
            left = "__pycache__" in inside.parts or path.suffix in (".md", ".pyi", ".nbi", ".nbc")
            measured = path.suffix == ".json" and len(inside.parts) == 1
            if path.is_file() and not left and (measured or folder != "results"):
                yield f"{place}/{inside.as_posix()}", path


@pytest.fixture(scope="module")
def wheel(tmp_path_factory: pytest.TempPathFactory) -> Iterator[zipfile.ZipFile]:
    # setuptools builds in the source tree, and takes what an older build has left there
    source, out = tmp_path_factory.mktemp("source"), tmp_path_factory.mktemp("dist")
    for folder in PLACES:
        shutil.copytree(ROOT / folder, source / folder, ignore=shutil.ignore_patterns("__pycache__"))
    for name in ("pyproject.toml", "README.md", "LICENSE"):
        shutil.copyfile(ROOT / name, source / name)
    built = subprocess.run(
        [sys.executable, "-c", BUILD, str(out)], cwd=source, capture_output=True, text=True, check=False
    )
    assert built.returncode == 0, built.stderr
    (path,) = out.glob("*.whl")
    assert path.name.endswith("-py3-none-any.whl")
    with zipfile.ZipFile(path) as file:
        yield file


def test_the_wheel_has_every_file_and_nothing_else(wheel):
    held = {name for name in wheel.namelist() if ".dist-info/" not in name}
    wanted = dict(due())
    assert {"workbench/first_view.npz", "workbench/first_samples.json", "workbench/assets/wb.css",
            "ouro/results/equal_vim_nano_lin.json", "ouro/models/weights/vim_nano.safetensors",
            "ouro/kernels/selective_scan/kernel.py"} <= set(wanted)  # fmt: skip
    assert sorted(wanted.keys() - held) == [] and sorted(held - wanted.keys()) == []
    for name, path in wanted.items():
        assert wheel.getinfo(name).file_size == path.stat().st_size, name


def test_the_wheel_offers_the_commands(wheel):
    (name,) = (name for name in wheel.namelist() if name.endswith(".dist-info/entry_points.txt"))
    commands = wheel.read(name).decode().split("[console_scripts]\n")[1].split("\n")
    assert [line for line in commands if line] == ["ouro = ouro.cli:main", "ouro-workbench = workbench.app:main"]
