"""README's numbers are the stored ones: what the tables say is what `python -m ouro.paper.render` makes of results/."""

from __future__ import annotations

from ouro.paper.render import ROOT, TABLES, render


def test_the_tables_of_the_readme_are_those_of_the_stored_results() -> None:
    text = (ROOT / "README.md").read_text()
    assert all(f"<!-- table: {name} -->" in text for name in TABLES)
    assert render(text) == text, "run python -m ouro.paper.render"
