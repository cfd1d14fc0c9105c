"""Names of classes as files have them: beside masks, for a checkpoint, for the workbench."""

from __future__ import annotations

import json
import os
from collections import Counter
from pathlib import Path
from typing import Any

from ouro.settings import first_line

_FORM = "give a text file with a name a line, or JSON, a list of names"


def read_names(path: str | os.PathLike[str], called: str = "") -> tuple[str, ...]:
    """Names in the order of the model's classes: a name a line; or as JSON a list, or an object from "0" on.

    Entries of JSON may be [id, name], as those of ImageNet's index; the id is added to a name that two classes have.

    Args:
        called: the file's name in messages, its path by default.

    Raises:
        ValueError: there is no such file, it holds something else or nothing, a name is missing or stands there twice.
    """
    file, called = Path(path), called or f"{path}"
    try:
        # a device has no end
        if file.exists() and not file.is_file():
            raise ValueError(f"{called} is no file")
        text = file.read_text("utf-8-sig")
        names = (
            _of_json(text) if file.suffix.lower() == ".json" else [line.strip() for line in text.rstrip().split("\n")]
        )
    except (OSError, UnicodeDecodeError, RecursionError) as error:
        raise ValueError(f"{called} holds no class names ({type(error).__name__}); {_FORM}") from error
    except ValueError as error:
        raise ValueError(f"{called} holds no class names ({first_line(error)}); {_FORM}") from error
    if not any(names):
        raise ValueError(f"{called} is empty; {_FORM}")
    if "" in names:
        raise ValueError(
            f"line {names.index('') + 1} of {called} is empty, and names behind it would be those of other classes; write "
            "the name of a class in each line"
        )
    name, times = Counter(names).most_common(1)[0]
    if times > 1:
        raise ValueError(f"{called} has {name!r} {times} times; give each class a name of its own")
    return tuple(names)


def _of_json(text: str) -> list[str]:
    content = json.loads(text)
    if isinstance(content, dict):
        numbers = list(map(str, range(len(content))))
        if set(content) != set(numbers):
            raise ValueError(f"its keys are not the numbers 0 to {len(content) - 1}")
        content = [content[number] for number in numbers]
    if not isinstance(content, list):
        raise ValueError("it is neither a list nor an object")
    known = Counter(map(_last, content))
    return [name if known[name := _last(entry)] == 1 else _with_id(entry) for entry in content]


def _last(entry: Any) -> str:
    name = entry[-1] if isinstance(entry, list) and entry else entry
    if not isinstance(name, str):
        raise ValueError(f"{str(name)[:40]!r} is no name")
    return name.strip()


def _with_id(entry: Any) -> str:
    """The name behind an id, with it; a name alone has none."""
    return f"{_last(entry)} ({entry[0]})" if isinstance(entry, list) and len(entry) > 1 else _last(entry)
