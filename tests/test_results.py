"""Numbers of the pages are the stored ones: what tables say is what `ouro paper render` makes of results/."""

from __future__ import annotations

import ast
import re
from pathlib import Path

import pytest

from ouro.paper.render import PAGES, ROOT, TABLES, render

FRONT, ALL = PAGES


def text_of(page: Path) -> str:
    return page.read_text("utf-8")


def test_every_table_stands_on_one_page() -> None:
    marked = [name for page in PAGES for name in re.findall(r"<!-- table: ([\w-]+) -->", text_of(page))]
    assert sorted(marked) == sorted(TABLES)


@pytest.mark.parametrize("page", PAGES, ids=lambda page: str(page.relative_to(ROOT)))
def test_the_tables_of_the_pages_are_those_of_the_stored_results(page: Path) -> None:
    assert render(text_of(page)) == text_of(page), "run ouro paper render"


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


NUMBER = re.compile(r"(?<![\w.,-])(?:\d+\.\d+(?![\d.]|e-)|\d{1,3}(?:,\d{3})+)")
NAMES = re.compile(r"arXiv \d+\.\d+|(?:Python|Triton|torch) \d+\.\d+(?:\.\d+)?(?: (?:to|and) \d+\.\d+(?:\.\d+)?)?")
"""Numbers that are names."""
KNOWN = {"0.5": "the chance of a map", "8.3": "the chance of twelve classes, in %"}
"""What is no measurement."""


def numbers(prose: str) -> list[str]:
    return NUMBER.findall(NAMES.sub("", prose))


def test_what_the_prose_says_in_numbers_stands_in_a_table_beside_it() -> None:
    measured = [one for one in sections(text_of(ALL)) if one[1]]
    assert len(measured) > 15
    for heading, tables, prose in measured:
        stored = set(NUMBER.findall(tables))
        for number in numbers(prose):
            assert number in stored or number in KNOWN, f"{heading}: {number} is in no table of this section"


def test_numbers_of_the_front_page_stand_in_a_table_of_stored_results() -> None:
    stored = {number for page in PAGES for _, tables, _ in sections(text_of(page)) for number in NUMBER.findall(tables)}
    said = [number for _, _, prose in sections(text_of(FRONT)) for number in numbers(prose)]
    assert said and [number for number in said if number not in stored] == []


def test_numbers_of_other_pages_are_in_no_prose() -> None:
    # these pages say how, not how well
    for page in ("workbench/README.md", "notebooks/README.md", "ouro/cli/README.md", "CONTRIBUTING.md"):
        for heading, _, prose in sections(text_of(ROOT / page)):
            assert numbers(prose) == [], f"{page}, {heading}"


def test_a_number_of_the_prose_is_recognized() -> None:
    ((_, tables, prose),) = sections(
        "## A\nIt is 2.5 times `3.5` [x](4.5) 1.2e-6, of 1,234,567 by Python 3.10 to 3.12, arXiv 2501.16738.\n"
        "<!-- table: t -->\n| 6.5 |\n<!-- end -->\n| 7.5 |\n"
    )
    assert numbers(prose) == ["2.5", "1,234,567"] and NUMBER.findall(tables) == ["6.5"]


SIGNS = {
    "0.5": "chance, and half of the way of a diffusion", "0.1": "a legend", "0.001": "a legend", "127.0": "an address",
    "0.2": "the default of a field", "4.5": "an example of an entry",
}  # fmt: skip
"""Numbers in sentences of the app that nobody measured."""


def test_the_app_has_no_measurement_in_its_own_words() -> None:
    for path in sorted((ROOT / "workbench").glob("*.py")):
        tree = ast.parse(path.read_text("utf-8"))
        said = {node for node in ast.walk(tree) if isinstance(node, ast.Constant) and isinstance(node.value, str)}
        # a string that is a statement is a docstring
        said -= {node.value for node in ast.walk(tree) if isinstance(node, ast.Expr)}
        found = {number for node in said if " " in node.value for number in numbers(node.value)}
        assert found <= set(SIGNS), f"{path.name}: {found - set(SIGNS)}"
