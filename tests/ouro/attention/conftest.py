"""Traces of a tiny Vim in float64: what every test of attention looks at."""

from __future__ import annotations

import pytest
import torch

from ouro.models.vim import Vim, VimConfig
from ouro.taps import record
from ouro.types import ScanRecord, Trace

TINY = VimConfig(width=12, depth=2, image=16, patch=4, stride=4, states=3, num_classes=12)
"""4 x 4 patches and a class token in the middle: 17 steps, 24 channels."""


@pytest.fixture(scope="session")
def tiny() -> Vim:
    with torch.random.fork_rng():
        torch.manual_seed(0)
        model = Vim(TINY, "tiny").double().eval()
        for block in model.layers:
            for scan in block.mixer.scans:
                # steps as large as those of a trained model, so that states do decay
                scan.dt_proj.bias.data += 3
    return model


@pytest.fixture(scope="session")
def trace(tiny: Vim) -> Trace:
    images = torch.randn(2, 3, 16, 16, generator=torch.Generator().manual_seed(1), dtype=torch.float64)
    with torch.no_grad(), record(tiny, "*.scans.*") as trace:
        tiny(images)
    return trace


@pytest.fixture(params=[0, 1], ids=["forward", "backward"])
def scan(trace: Trace, request: pytest.FixtureRequest) -> ScanRecord:
    """One direction of the last layer."""
    return trace.scans[2 + request.param]
