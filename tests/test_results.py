"""README's numbers are the stored ones: what the tables say is what `ouro paper render` makes of results/."""

from __future__ import annotations

from ouro.paper.render import ROOT, TABLES, render


def test_the_tables_of_the_readme_are_those_of_the_stored_results() -> None:
    text = (ROOT / "README.md").read_text()
    assert all(f"<!-- table: {name} -->" in text for name in TABLES)
    assert render(text) == text, "run ouro paper render"


def test_a_marker_without_an_end_does_not_swallow_the_next_table() -> None:
    text = "<!-- table: zoo -->\n\n## Next\n<!-- table: state -->\nold\n<!-- end -->\nlast\n"
    made = render(text)
    assert "## Next" in made and "last" in made and made.count("<!-- end -->") == 2 and "old" not in made
    assert render(made) == made
