"""Packed models as jobs use them: opening their files, and saying what packing brought and cost."""

from __future__ import annotations

import json
import os
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from ouro.models import create_model
from ouro.quant.lower import restore, weighs
from ouro.store import read_tensors
from ouro.types import Calibration
from ouro.vision import VisionModel


def open_packed(tensors: Mapping[str, Tensor], metadata: Mapping[str, str]) -> tuple[VisionModel, Calibration]:
    """The packed model of a file's tensors and header, and its calibration.

    Raises:
        ValueError: no packed model, a damaged one, or that of a model that is not known here.
    """
    try:
        name = str(json.loads(metadata["provenance"])["model"])
    except (KeyError, TypeError, ValueError) as error:
        raise ValueError(f"this packed model's header is damaged ({error!r}); quantize again") from error
    return restore(create_model(name), tensors, metadata)


def packed_values(
    exact: VisionModel, simulated: VisionModel, logits: Tensor, images: Tensor, path: str | os.PathLike[str]
) -> dict[str, Any]:
    """What packing brought and cost, for a report.

    Args:
        logits: of the packed model for these images.

    Returns:
        {ratio: bytes of the float model's parameters in float32 by bytes of the file, parts: its bytes by kind,
        load_seconds, agreement: share of equal top-1, max_error: of logits, by the largest}.
    """
    started = time.perf_counter()
    tensors, metadata = read_tensors(path)
    open_packed(tensors, metadata)
    seconds = time.perf_counter() - started
    size = sum(4 * tensor.numel() for tensor in exact.state_dict().values())
    return {
        "ratio": round(size / Path(path).stat().st_size, 3),
        "parts": weighs(tensors),
        "load_seconds": round(seconds, 3),
        **compared(simulated, logits, images),
    }


def compared(simulated: VisionModel, logits: Tensor, images: Tensor) -> dict[str, float]:
    with torch.no_grad():
        wanted = simulated(images)
    same = (wanted.argmax(1) == logits.argmax(1)).float().mean().item()
    return {"agreement": same, "max_error": ((logits - wanted).abs().max() / wanted.abs().max()).item()}
