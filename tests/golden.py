"""Goldens of the official model code: made-up weights by a fixed recipe, and the numbers the official code gave.

The weights depend on (key, shape) alone, so whoever has the official key names has bit-identical weights; numpy's legacy
RandomState is used because its stream is frozen. The files in tests/data were made by running the official code.
"""

from __future__ import annotations

import json
import re
import zlib
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

DATA = Path(__file__).parent / "data"

_STEP_BIAS = re.compile(r"(^|\.)dt_projs?(_[a-z0-9]+)*(\.\d+)?[._]bias$")


_STACKED = re.compile(r"(x|dt)_projs?_weight$")


def weight(key: str, shape: tuple[int, ...]) -> Tensor:
    """The recipe's value of one entry of an official state dict, float32."""
    stream = np.random.RandomState(zlib.crc32(key.encode()))
    leaf = key.rsplit(".", 1)[-1]
    if _STEP_BIAS.search(key):
        step = np.exp(np.log(1e-3) + stream.random_sample(shape) * (np.log(1e-1) - np.log(1e-3)))
        return _tensor(step + np.log(-np.expm1(-step)), shape)
    if leaf == "running_var":
        return _tensor(1 + 0.1 * stream.random_sample(shape), shape)
    draw = stream.standard_normal(shape)
    if re.fullmatch(r"A(_[a-z0-9]+)*_logs?|A_logs?(_[a-z0-9]+)*", leaf):
        return _tensor(np.log(np.arange(1, shape[-1] + 1)) + 0.01 * draw, shape)
    norm = leaf.startswith("gamma") or (leaf.endswith("weight") and len(shape) == 1)
    if norm or re.fullmatch(r"D(_[a-z0-9]+)*|Ds", leaf):
        return _tensor(1 + 0.1 * draw, shape)
    if leaf == "running_mean":
        return _tensor(0.1 * draw, shape)
    if leaf.endswith("weight"):
        fan_in = shape[-1] if _STACKED.search(leaf) and len(shape) == 3 else np.prod(shape[1:])
        return _tensor(draw / np.sqrt(fan_in), shape)
    return _tensor(0.02 * draw, shape)


def state(manifest: dict[str, Any]) -> dict[str, Tensor]:
    """The whole official state dict of a manifest, by the recipe; constant tables are left out, counters are 0."""
    made = {}
    for key, shape in manifest["keys"].items():
        leaf = key.rsplit(".", 1)[-1]
        if leaf == "num_batches_tracked":
            made[key] = torch.zeros(tuple(shape), dtype=torch.int64)
        elif not leaf.startswith("freqs"):
            made[key] = weight(key, tuple(shape))
    return made


def load(name: str) -> tuple[dict[str, Any], Any]:
    """(manifest, arrays) of a golden."""
    return json.loads((DATA / f"{name}.manifest.json").read_text()), np.load(DATA / f"{name}.npz")


def images() -> Tensor:
    """The input of every classification golden: two images of noise at 224."""
    return torch.randn(2, 3, 224, 224, generator=torch.Generator().manual_seed(0))


def stats(tensor: Tensor) -> np.ndarray:
    """Mean, standard deviation and first eight values, as the goldens store activations."""
    flat = tensor.detach().double().contiguous().flatten()
    return np.concatenate([[flat.mean().item(), flat.std(unbiased=False).item()], flat[:8].numpy()])


def _tensor(value: np.ndarray, shape: tuple[int, ...]) -> Tensor:
    return torch.from_numpy(np.asarray(value, dtype=np.float32).reshape(shape))
