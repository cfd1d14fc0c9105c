"""A Vim small enough to calibrate in a moment, with activations that have outliers."""

from __future__ import annotations

import pytest
import torch
from torch import nn

from ouro.models import create_model


@pytest.fixture(scope="session")
def tiny_model() -> nn.Module:
    """Two blocks of 32 channels over 7 x 7 patches: 50 time steps, a multiple of the refresh window. Do not change."""
    with torch.random.fork_rng():
        torch.manual_seed(0)
        model = create_model("vim_nano", width=32, depth=2, image=28)
        with torch.no_grad():
            for block in model.layers:
                block.norm.weight[:2] *= 12
            model.head.weight.normal_(std=0.5)
    return model


@pytest.fixture
def model(tiny_model: nn.Module) -> nn.Module:
    """The same, without quantizers."""
    from ouro.taps import detach

    return detach(tiny_model)


@pytest.fixture(scope="session")
def images() -> torch.Tensor:
    """Eight images in model space."""
    return torch.randn(8, 3, 28, 28, generator=torch.Generator().manual_seed(1))
