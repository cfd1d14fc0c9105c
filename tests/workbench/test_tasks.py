"""The fifteen tasks of `walk`, each once; light and dark, desk and phone, mouse and keyboard take turns."""

from __future__ import annotations

import pytest

from tests.workbench.walk import HANDS, TASKS, THEMES, WIDTHS, before_the_page


@pytest.mark.full
@pytest.mark.parametrize("number", TASKS)
def test_task(server: str, browser, number: int):
    # the bits of the number: every pair of choices comes up
    theme, width, hand = (options[number >> bit & 1] for bit, options in enumerate((THEMES, tuple(WIDTHS), HANDS)))
    with before_the_page(browser, server, theme, width, hand) as person:
        TASKS[number](person)
    # how long it took is measured by the walk, on a machine that does nothing else
    assert ("cancel" in person.seconds) == (number in (6, 11))


def test_there_are_fifteen():
    assert list(TASKS) == list(range(1, 16)) and all(task.__doc__ for task in TASKS.values())
