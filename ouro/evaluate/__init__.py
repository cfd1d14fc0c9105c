"""What a model is worth: accuracy, fidelity. The package itself can be called: `ouro.evaluate(model, data="scenes")`."""

from __future__ import annotations

import sys
from types import ModuleType
from typing import Any


class _Callable(ModuleType):
    """The design names both a folder and a function `ouro.evaluate`; this is how one name serves as both."""

    def __call__(self, *args: Any, **kwargs: Any) -> dict[str, Any]:
        from ouro.evaluate.accuracy import evaluate

        return evaluate(*args, **kwargs)


sys.modules[__name__].__class__ = _Callable
