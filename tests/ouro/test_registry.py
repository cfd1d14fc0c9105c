"""Names are unique, targets exist, and a wrong name is answered with the right ones."""

import re

import pytest

from ouro import registry
from ouro.registry import Registry

SHIPPED = [value for value in vars(registry).values() if isinstance(value, Registry)]


@pytest.fixture
def shapes():
    shapes = Registry("shape")
    shapes.add("ordered", "collections:OrderedDict")
    shapes.add("counter", "collections:Counter")
    return shapes


def test_get_imports_the_target(shapes):
    from collections import Counter

    assert shapes.get("counter") is Counter
    assert list(shapes) == ["ordered", "counter"]
    assert "counter" in shapes and "deque" not in shapes


def test_add_does_not_import(shapes):
    shapes.add("absent", "no.such.module:Thing")
    with pytest.raises(ModuleNotFoundError):
        shapes.get("absent")


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("countr", "unknown shape 'countr' (did you mean 'counter'?); known: ordered, counter"),
        ("zzz", "unknown shape 'zzz'; known: ordered, counter"),
        ([7], "unknown shape [7]; known: ordered, counter"),
    ],
)
def test_unknown_name_lists_the_known(shapes, name, message):
    with pytest.raises(ValueError, match=f"^{re.escape(message)}$"):
        shapes.get(name)


def test_double_name_fails(shapes):
    message = "shape 'counter' is registered twice: collections:Counter and other:Thing"
    with pytest.raises(ValueError, match=f"^{re.escape(message)}$"):
        shapes.add("counter", "other:Thing")


def test_target_needs_a_colon(shapes):
    message = "shape 'deque' points to 'collections.deque', expected 'package.module:attribute'"
    with pytest.raises(ValueError, match=f"^{re.escape(message)}$"):
        shapes.add("deque", "collections.deque")


@pytest.mark.parametrize(
    ("shipped", "name"),
    [pytest.param(shipped, name, id=f"{shipped.kind}-{name}") for shipped in SHIPPED for name in shipped],
)
def test_shipped_entries_resolve(shipped, name):
    entry = shipped.get(name)
    # a model is data that knows how to build it; everything else is built by calling it
    assert callable(entry.build if shipped.kind == "model" else entry)
