"""What a user sees when something fails: one clear line, never a stack trace or a bare pill."""

from __future__ import annotations

import functools
import inspect
import logging
import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

import gradio as gr

from workbench.runner import EXPECTED, first_line

log = logging.getLogger(__name__)


def line_of(error: Exception) -> str:
    """What an exception says, in one line for a person; the home folder is not shown."""
    words = first_line(error)
    if not isinstance(error, EXPECTED):
        words = f"{type(error).__name__}: {words}"
    words = words.replace(str(Path.home()) + os.sep, "~/")
    # the name of a file stays as it is
    return words[:1].upper() + words[1:] if words.split(" ")[0].isalpha() else words


def toast(error: Exception) -> gr.Error:
    """The exception as a toast."""
    return gr.Error(line_of(error), duration=12, print_exception=False)


def guarded(handler: Callable[..., Any]) -> Callable[..., Any]:
    """An event handler whose exceptions become toasts; what was unforeseen also goes to the log."""
    if inspect.isgeneratorfunction(handler):

        @functools.wraps(handler)
        def generator(*args: Any, **kwargs: Any) -> Any:
            try:
                yield from handler(*args, **kwargs)
            except Exception as error:
                raise _converted(error) from error

        return generator

    @functools.wraps(handler)
    def function(*args: Any, **kwargs: Any) -> Any:
        try:
            return handler(*args, **kwargs)
        except Exception as error:
            raise _converted(error) from error

    return function


def _converted(error: Exception) -> Exception:
    if isinstance(error, gr.Error):
        return error
    if not isinstance(error, EXPECTED):
        log.exception("unforeseen error")
    return toast(error)
