"""FID as others report it, by torchmetrics, on features of Inception: only where both are on this machine already."""

from __future__ import annotations

from importlib.util import find_spec
from pathlib import Path

import torch
from torch import Tensor

WEIGHTS = "weights-inception-2015-12-05-6726825d.pth"
"""File of torch-fidelity's Inception, the one that the original FID was computed with."""


def inception_fid(made: Tensor, real: Tensor) -> float:
    """FID of pictures uint8 [n 3 h w] against real ones. It takes thousands of either for a number that means something.

    Raises:
        ValueError: torchmetrics, torch-fidelity or the weights are missing; nothing is downloaded here.
    """
    weights = Path(torch.hub.get_dir()) / "checkpoints" / WEIGHTS
    missing = [package for package in ("torchmetrics", "torch_fidelity") if find_spec(package) is None]
    missing += [] if weights.is_file() else [str(weights)]
    if missing:
        raise ValueError(
            f"FID needs torchmetrics, torch-fidelity and Inception's weights; missing: {', '.join(missing)}. The Frechet "
            "distance of `ouro evaluate` needs none of them"
        )
    from torchmetrics.image.fid import FrechetInceptionDistance

    metric = FrechetInceptionDistance(feature_extractor_weights_path=str(weights))
    metric.update(real, real=True)
    metric.update(made, real=False)
    return metric.compute().item()
