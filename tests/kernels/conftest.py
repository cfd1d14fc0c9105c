"""Kernels run on a CUDA device where there is one and in Triton's interpreter elsewhere; machine code has no choice."""

from __future__ import annotations

import json
import os
import subprocess
import sys

import pytest
import torch

from ouro.kernels.launch import interpreted

_EMPTIES = ("empty", "empty_like")


@pytest.fixture
def where() -> torch.device:
    """Where kernels run."""
    return torch.device("cpu" if interpreted() else "cuda")


@pytest.fixture(autouse=True)
def poison_integers(monkeypatch: pytest.MonkeyPatch, poison_empty: None) -> None:
    """Fills integer memory that torch leaves undefined with a number that the expected codes seldom are."""

    def poisoned(allocate):
        def allocate_poisoned(*args, **kwargs):
            x = allocate(*args, **kwargs)
            return x if x.is_floating_point() or x.dtype == torch.bool else x.fill_(86)

        return allocate_poisoned

    for name in _EMPTIES:
        monkeypatch.setattr(torch, name, poisoned(getattr(torch, name)))
    monkeypatch.setattr(torch.Tensor, "new_empty", poisoned(torch.Tensor.new_empty))


@pytest.fixture(scope="session")
def audited() -> dict[str, list[dict]]:
    """What `ouro.kernels.audit` says, in a process of its own: interpreted functions cannot be compiled."""
    environment = {name: value for name, value in os.environ.items() if name != "TRITON_INTERPRET"}
    run = subprocess.run(
        [sys.executable, "-m", "ouro.kernels.audit"], env=environment, capture_output=True, text=True, check=False
    )
    # 1 where something complains, which the tests say one by one
    assert run.stdout, run.stderr
    return json.loads(run.stdout)


@pytest.fixture(scope="session")
def machine_code(audited) -> list[dict]:
    """Figures of every build."""
    return audited["builds"]
