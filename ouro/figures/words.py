"""Answers and targets of any task in a line, as `answer` and `told` of `ouro.tasks.Task` give them; imports nothing heavy."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

MOST = 12
"""Objects that are named."""


def words(answer: Mapping[str, Any]) -> str:
    """An answer, or a target, in a line: "heart (93 %)", "background 80.1 %, ring 19.9 %", "heart 0.93, bar 0.41"."""
    if "predicted" in answer:
        return f"{named(answer['predicted'])} ({100 * answer['confidence']:.0f} %)"
    if "classes" in answer:
        shares = (f"{plain(name)} {100 * share:.1f} %" for name, share in answer["classes"].items())
        return ", ".join(shares) or "nothing known"
    if "objects" in answer:
        found = [_object(one) for one in answer["objects"]]
        more = [f"{len(found) - MOST} more"] if len(found) > MOST else []
        return ", ".join([*found[:MOST], *more]) or "no object"
    if "recognized" in answer:
        share = answer["recognized"]
        return "pictures" if share is None else f"{100 * share:.0f} % of the pictures recognized by the judge"
    if "speed" in answer:
        return f"a velocity of {answer['speed']:.2f} (root mean square)"
    return named(answer.get("label", ""))


def named(name: object) -> str:
    """A class for people; without a name it is a number."""
    return f"class {name}" if isinstance(name, int) else plain(name)


def plain(name: object) -> str:
    """A name as people write it."""
    return str(name).replace("_", " ")


def _object(one: Mapping[str, Any]) -> str:
    return f"{plain(one['class'])} {one['score']:.2f}" if "score" in one else plain(one["class"])
