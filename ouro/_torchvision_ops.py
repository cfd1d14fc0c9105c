"""Lets torchvision be imported when its compiled extension was built for another torch (a CUDA build beside a CPU one).

Source: torchvision 0.28, extension.py (the extension may be missing) and _meta_registrations.py, which registers
shape functions for two of its operators without asking; `import timm` then ends in "operator torchvision::nms does
not exist".
"""

from __future__ import annotations

from importlib.machinery import EXTENSION_SUFFIXES
from importlib.util import find_spec
from pathlib import Path

import torch

_SCHEMAS = (
    "nms(Tensor dets, Tensor scores, float iou_threshold) -> Tensor",
    "qnms(Tensor dets, Tensor scores, float iou_threshold) -> Tensor",
)
# a fragment's operators live as long as the fragment
_fragments: list[torch.library.Library] = []


def declare_missing_ops() -> bool:
    """Declares `torchvision::nms` and `qnms` where the extension does not load; call before `import timm`.

    The operators stay without an implementation: calling one still raises, as it should.

    Returns:
        True if the schemas are ours, False if torchvision brought its own or is not installed.
    """
    if _fragments:
        return True
    if hasattr(torch.ops.torchvision, "nms") or _extension_loads():
        return False
    fragment = torch.library.Library("torchvision", "FRAGMENT")
    for schema in _SCHEMAS:
        fragment.define(schema)
    _fragments.append(fragment)
    return True


def _extension_loads() -> bool:
    """Loads torchvision's extension as torchvision itself does; loading it twice is harmless."""
    spec = find_spec("torchvision")
    if spec is None or spec.origin is None:
        # nothing to repair: the import error that follows names the missing package
        return True
    folder = Path(spec.origin).parent
    for suffix in EXTENSION_SUFFIXES:
        library = folder / f"_C{suffix}"
        if library.exists():
            try:
                torch.ops.load_library(str(library))
            except OSError:
                return False
            return True
    return False
