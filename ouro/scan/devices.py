"""Where things run: compiled loops take tensors in the memory of a CPU, everything else goes by the definitions in torch.

A definition runs on any device. What is drawn at random is drawn on the CPU by a seeded generator and then moved, so that
a seed means the same images, channels and classes everywhere.
"""

from __future__ import annotations

import torch
from torch import Tensor


def compiles(x: Tensor) -> bool:
    """Whether compiled loops take x: on the CPU, unless torch traces the model, with tensors that hold no numbers."""
    return x.device.type == "cpu" and not torch.compiler.is_compiling()
