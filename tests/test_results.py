"""README's numbers are the stored ones: what the tables say is what `python results/render.py` makes of results/."""

from __future__ import annotations

import importlib.util
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent


def test_the_tables_of_the_readme_are_those_of_the_stored_results() -> None:
    spec = importlib.util.spec_from_file_location("render", ROOT / "results" / "render.py")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    text = (ROOT / "README.md").read_text()
    assert all(f"<!-- table: {name} -->" in text for name in module.TABLES)
    assert module.render(text) == text, "run python results/render.py"
