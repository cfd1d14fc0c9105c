"""The embedded model in miniature, so that jobs run in a moment and need no trained weights."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch
from safetensors.torch import save_file

from ouro.models import zoo


@pytest.fixture
def tiny_zoo(tmp_path, monkeypatch):
    """While it lasts, "vim_nano" is two random blocks of 32 channels over 7 x 7 patches of a scene."""
    return shrink(monkeypatch, tmp_path)


@pytest.fixture(scope="module")
def in_tiny_zoo(tmp_path_factory):
    """Calls a function of (a folder, a monkeypatch) there, once for all tests of a module: (its result, the folder)."""

    def call(work):
        root = tmp_path_factory.mktemp("shared")
        with pytest.MonkeyPatch.context() as patch:
            shrink(patch, root)
            return work(root, patch), root

    return call


def shrink(monkeypatch, folder):
    config = replace(zoo.vim_nano.config, width=32, depth=2, image=28)
    path = folder / "weights" / "tiny.safetensors"
    path.parent.mkdir()
    with torch.random.fork_rng():
        torch.manual_seed(0)
        model = zoo.vim_nano.build(config, "vim_nano")
        with torch.no_grad():
            for block in model.layers:
                block.norm.weight[:2] *= 12
            model.head.weight.normal_(std=0.5)
    save_file(model.state_dict(), path)
    monkeypatch.setattr(zoo, "vim_nano", replace(zoo.vim_nano, config=config, weights=str(path)))
    return path
