"""Packed models as jobs use them: what packing brought, and what it cost."""

from __future__ import annotations

import os
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from ouro.jobs.inputs import open_quantized
from ouro.quant.packed.files import weighs
from ouro.store import read_tensors
from ouro.tasks import task_of
from ouro.vision import VisionModel


def packed_values(
    exact: VisionModel, simulated: VisionModel, logits: Tensor, shown: Sequence[Tensor], path: str | os.PathLike[str]
) -> dict[str, Any]:
    """What packing brought and cost, for a report.

    Args:
        logits: of the packed model for what it was shown: images, and what a model is given beside them.

    Returns:
        {ratio: bytes of the float model's parameters in float32 by bytes of the file, parts: its bytes by kind,
        load_seconds, agreement: share of equal answers, max_error: of logits, by the largest}.
    """
    started = time.perf_counter()
    open_quantized(path, device="cpu")
    seconds = time.perf_counter() - started
    size = sum(4 * tensor.numel() for tensor in exact.state_dict().values())
    return {
        "ratio": round(size / Path(path).stat().st_size, 3),
        "parts": weighs(read_tensors(path)[0]),
        "load_seconds": round(seconds, 3),
        **compared(simulated, logits, *shown),
    }


def compared(simulated: VisionModel, logits: Tensor, *shown: Tensor) -> dict[str, float]:
    """{agreement: share of equal answers, max_error: of logits, by the largest} of logits against the simulation's."""
    with torch.no_grad():
        wanted = simulated(*shown)
    same = task_of(simulated).agreement(wanted, logits).mean().item()
    return {"agreement": same, "max_error": ((logits - wanted).abs().max() / wanted.abs().max()).item()}
