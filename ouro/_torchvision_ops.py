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

    `nms` is implemented for the CPU, so that detection works without the extension; `torchvision.ops.boxes` asks for the
    extension before it calls it, and is answered. Calling any other operator still raises, as it should.

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
    fragment.impl("nms", _nms, "CPU")
    _fragments.append(fragment)
    # imported late: it needs the schemas
    from torchvision.ops import boxes

    boxes._assert_has_ops = lambda: None
    return True


def _nms(boxes: torch.Tensor, scores: torch.Tensor, threshold: float) -> torch.Tensor:
    """Places of the boxes [n 4] that are kept, best score first: none overlaps a better one by more than the threshold."""
    order = scores.argsort(descending=True, stable=True)
    sorted_boxes = boxes[order]
    area = (sorted_boxes[:, 2:] - sorted_boxes[:, :2]).prod(1)
    kept = torch.ones(len(order), dtype=torch.bool)
    for place in range(len(order)):
        if not kept[place]:
            continue
        rest = sorted_boxes[place + 1 :]
        low, high = rest[:, :2].maximum(sorted_boxes[place, :2]), rest[:, 2:].minimum(sorted_boxes[place, 2:])
        both = (high - low).clamp(min=0).prod(1)
        kept[place + 1 :] &= both <= threshold * (area[place] + area[place + 1 :] - both)
    return order[kept]


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
