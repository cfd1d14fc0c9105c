"""FID by others' code: where it is missing, what is missing."""

from __future__ import annotations

import importlib.util

import pytest
import torch

from ouro.evaluate.inception import WEIGHTS, inception_fid


def test_what_is_missing_is_named(monkeypatch, tmp_path) -> None:
    monkeypatch.setattr(torch.hub, "get_dir", lambda: str(tmp_path))
    there = [name for name in ("torchmetrics", "torch_fidelity") if importlib.util.find_spec(name) is None]
    with pytest.raises(
        ValueError, match="^FID needs torchmetrics, torch-fidelity and Inception's weights; missing: "
    ) as e:
        inception_fid(torch.zeros(2, 3, 8, 8, dtype=torch.uint8), torch.zeros(2, 3, 8, 8, dtype=torch.uint8))
    assert all(name in str(e.value) for name in (*there, str(tmp_path / "checkpoints" / WEIGHTS)))
