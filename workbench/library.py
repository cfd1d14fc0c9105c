"""The library under the page: imported whole, by one thread, while everybody else waits.

The page is built without it and stands at once. Its first events come in threads of their own; where each imported the part
that it needs, two of them could meet halfway in packages that name one another, and one of them got half of a module.
"""

from __future__ import annotations

import gc
import threading
from importlib import import_module
from pkgutil import iter_modules
from types import ModuleType

_GATE = threading.Lock()
_imported = threading.Event()
_NOT_ASKED = ("ouro.__main__", "ouro.cli", "ouro.kernels", "ouro.jobs.bench")
"""What no event of the page needs before it says so."""


def imported() -> bool:
    """Whether nobody has to wait any more."""
    return _imported.is_set()


def ready() -> None:
    """Returns when all of it is imported, by whoever came first."""
    if imported():
        return
    with _GATE:
        if not imported():
            _import(import_module("ouro"))
            # stays while the page does: to look through it for garbage takes a quarter of a second in which nobody is served
            gc.freeze()
            # what is to be looked through whole from now on is little, and Python does so the oftener
            gc.collect()
            _imported.set()


def _import(package: ModuleType) -> None:
    for module in iter_modules(package.__path__, f"{package.__name__}."):
        if module.name in _NOT_ASKED:
            continue
        try:
            found = import_module(module.name)
        except ImportError:
            # of a package that is not installed, which whoever asks for it is told
            continue
        if module.ispkg:
            _import(found)
