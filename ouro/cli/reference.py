"""The page of all commands, `ouro/cli/README.md`: every option of every command, as the commands themselves have them."""

from __future__ import annotations

import inspect
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import typer

PAGE = Path(__file__).parent / "README.md"


def reference() -> str:
    """Every command with its help and a table of its arguments and options, as Markdown."""
    from ouro.cli import app

    return "\n\n".join(_section(name, command) for name, command in _commands(typer.main.get_command(app), "ouro"))


def page() -> str:
    """The page's text with all commands made anew."""
    from ouro.paper.render import render

    return render(PAGE.read_text("utf-8"), {"commands": reference})


def write() -> Path:
    """Writes the page; its path."""
    from ouro.store import write_bytes

    return write_bytes(PAGE, page().encode())


def _commands(group: Any, prefix: str) -> Iterator[tuple[str, Any]]:
    for name, command in group.commands.items():
        if hasattr(command, "commands"):
            yield from _commands(command, f"{prefix} {name}")
        else:
            yield f"{prefix} {name}", command


def _section(name: str, command: Any) -> str:
    shown = [parameter for parameter in command.params if "--help" not in parameter.opts]
    arguments = [_argument(one) for one in shown if one.param_type_name == "argument"]
    rows = [f"| {_spelled(one)} | {_cell(one.help)} | {_cell(_default(one))} |" for one in shown]
    head = "| option | | default |\n| --- | --- | --- |\n" if rows else ""
    return f"### {' '.join((name, *arguments))}\n\n{_help(command)}\n\n{head}" + "\n".join(rows)


def _help(command: Any) -> str:
    # a line that begins with a brace would be one with the sentence before it
    return inspect.cleandoc(command.help or "").replace("\f", "")


def _argument(parameter: Any) -> str:
    name = parameter.name.upper() + ("..." if parameter.nargs != 1 else "")
    return name if parameter.required else f"[{name}]"


def _spelled(parameter: Any) -> str:
    if parameter.param_type_name == "argument":
        return f"`{parameter.name.upper()}`"
    return ", ".join(f"`{word}`" for word in (*parameter.opts, *parameter.secondary_opts))


def _default(parameter: Any) -> str:
    value = parameter.default
    if parameter.required:
        return "required"
    if callable(value) or value is None or value is False or value == "" or value == () or value == []:
        return ""
    return "yes" if value is True else " ".join(map(str, value)) if isinstance(value, (list, tuple)) else str(value)


def _cell(text: str | None) -> str:
    return " ".join((text or "").split()).replace("|", "\\|")
