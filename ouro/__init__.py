"""Ouro Workbench: data-free quantization of Vision Mamba models, from implicit attention to integer weights.

Everything is imported when first used; `import ouro.models` also registers the model names with timm.
"""

from __future__ import annotations

from importlib import import_module
from typing import Any

__version__ = "0.1.0"

_HOME = {
    "create_model": "ouro.models",
    "load_checkpoint": "ouro.models",
    "record": "ouro.taps",
    "attach": "ouro.taps",
    "detach": "ouro.taps",
    "selective_scan": "ouro.scan",
    "synthesize": "ouro.gen",
    "quantize": "ouro.quant",
    "attach_calibration": "ouro.quant",
}
_PACKAGES = ("attention", "data", "evaluate", "gen", "jobs", "models", "quant", "scan")


def __getattr__(name: str) -> Any:
    if name in _HOME:
        return getattr(import_module(_HOME[name]), name)
    if name in _PACKAGES:
        return import_module(f"ouro.{name}")
    raise AttributeError(f"module 'ouro' has no attribute {name!r}; it has {', '.join(sorted((*_HOME, *_PACKAGES)))}")


def __dir__() -> list[str]:
    return sorted((*_HOME, *_PACKAGES, "__version__"))
