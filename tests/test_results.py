"""README's numbers are the stored ones: what the tables say is what `ouro paper render` makes of results/."""

from __future__ import annotations

import re

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


def sections(text: str) -> list[tuple[str, str, str]]:
    """(heading, its tables, its prose): what is made of stored results, and sentences, without code, links and tables."""
    parts = []
    for section in filter(None, re.split(r"(?m)^(?=##+ )", text)):
        tables = " ".join(re.findall(r"<!-- table.*?<!-- end -->", section, flags=re.DOTALL))
        prose = re.sub(r"<!-- table.*?<!-- end -->|```.*?```|`[^`\n]*`|\]\([^)]*\)", "", section, flags=re.DOTALL)
        prose = "\n".join(line for line in prose.splitlines() if not line.startswith("|"))
        parts.append((section.splitlines()[0], tables, prose))
    return parts


NUMBER = re.compile(r"(?<![\w.-])\d+\.\d+(?![\d.]|e-)")
KNOWN = {"0.5": "the chance of a map", "8.3": "the chance of twelve classes, in %"}
"""What is no measurement."""


def test_what_the_prose_says_in_numbers_stands_in_a_table_beside_it() -> None:
    text = (ROOT / "README.md").read_text()
    measured = [one for one in sections(text) if one[1]]
    assert len(measured) > 8
    for heading, tables, prose in measured:
        stored = set(NUMBER.findall(tables))
        for number in NUMBER.findall(re.sub(r"arXiv \d+\.\d+", "", prose)):
            assert number in stored or number in KNOWN, f"{heading}: {number} is in no table of this section"


def test_a_number_of_the_prose_is_recognized() -> None:
    ((_, tables, prose),) = sections(
        "## A\nIt is 2.5 times `3.5` [x](4.5) 1.2e-6.\n<!-- table: t -->\n| 6.5 |\n<!-- end -->\n| 7.5 |\n"
    )
    assert NUMBER.findall(prose) == ["2.5"] and NUMBER.findall(tables) == ["6.5"]
