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

from workbench import library, who
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
    """An event handler that knows whom it answers, and whose exceptions become toasts; what was unforeseen goes to the log."""
    if inspect.isgeneratorfunction(handler):

        def generator(*args: Any, **kwargs: Any) -> Any:
            name, args = _asked(args)
            steps = handler(*args, **kwargs)
            try:
                # each step may be taken in a thread of its own
                while True:
                    with who.being(name):
                        try:
                            update = next(steps)
                        except StopIteration:
                            return
                        except Exception as error:
                            raise _converted(error) from error
                    yield update
            finally:
                steps.close()

        return _like(handler, generator)

    def function(*args: Any, **kwargs: Any) -> Any:
        name, args = _asked(args)
        try:
            with who.being(name):
                return handler(*args, **kwargs)
        except Exception as error:
            raise _converted(error) from error

    return _like(handler, function)


def _asked(args: tuple[Any, ...]) -> tuple[str, tuple[Any, ...]]:
    """(who asks, the handler's own arguments): Gradio puts the request first, other callers have none.

    Returns once the library is there, so that no handler imports a part of it while another one does.
    """
    library.ready()
    if args and isinstance(args[0], gr.Request):
        return who.asks(args[0]), args[1:]
    return who.current(), args


def _like(handler: Callable[..., Any], guard: Callable[..., Any]) -> Callable[..., Any]:
    """The guard under the handler's name and signature, with the request before its arguments, which Gradio looks for."""
    guard = functools.wraps(handler)(guard)
    signature = inspect.signature(handler)
    asking = inspect.Parameter("asking", inspect.Parameter.POSITIONAL_ONLY, annotation=gr.Request)
    guard.__signature__ = signature.replace(parameters=[asking, *signature.parameters.values()])  # type: ignore[attr-defined]
    guard.__annotations__ = {"asking": gr.Request, **handler.__annotations__}
    return guard


def _converted(error: Exception) -> Exception:
    if isinstance(error, gr.Error):
        return error
    if not isinstance(error, EXPECTED):
        log.exception("unforeseen error")
    return toast(error)
