"""Image files become a model's input as timm's configuration of the model says."""

from __future__ import annotations

from types import SimpleNamespace

import numpy as np
import pytest
import timm
import torch
from PIL import Image
from timm.data import create_transform, resolve_data_config

import ouro.evaluate
from ouro.data import normalize
from ouro.evaluate.images import open_data, transform
from ouro.models import create_model
from ouro.registry import MODELS
from tests.testing import assert_close


def _first_of_each_view() -> list[str]:
    """One classifier of ImageNet per way in which images are wanted."""
    seen = {}
    for name in MODELS:
        entry, config = MODELS.get(name), MODELS.get(name).config
        if entry.data == "folder" and getattr(config, "num_classes", 0):
            seen.setdefault((config.image, config.mean, config.std, entry.crop_pct, entry.interpolation), name)
    return list(seen.values())


@pytest.mark.parametrize("name", _first_of_each_view())
def test_a_folder_is_seen_through_timms_evaluation_transform(name, tmp_path) -> None:
    pixels = np.random.default_rng(0).integers(0, 256, (300, 410, 3), dtype=np.uint8)
    Image.fromarray(pixels).save(tmp_path / "x.png")
    cfg, config = timm.get_pretrained_cfg(name), MODELS.get(name).config
    wanted = create_transform(**resolve_data_config(pretrained_cfg=cfg.to_dict()))(Image.fromarray(pixels))
    info = SimpleNamespace(input_size=cfg.input_size, mean=config.mean, std=config.std)
    data = open_data(f"folder:{tmp_path}", "test", name, info)
    assert_close(normalize(data.images(0, 1)[0], info.mean, info.std)[0], wanted, atol=1e-6)
    told = transform(f"folder:{tmp_path}", name, info)
    assert {key: tuple(value) if isinstance(value, list) else value for key, value in told.items()} == {
        key: getattr(cfg, key) for key in ("input_size", "interpolation", "crop_pct", "mean", "std")
    }


def test_the_released_models_differ_in_their_crop() -> None:
    crops = {MODELS.get(name).crop_pct for name in _first_of_each_view()}
    assert {0.875, 0.93, 0.98, 1.0} <= crops


def test_evaluate_sees_a_folder_as_the_model_does(tmp_path, monkeypatch) -> None:
    for label in range(12):
        (tmp_path / f"{label:02d}").mkdir()
    Image.new("RGB", (70, 70)).save(tmp_path / "03" / "x.png")
    model = create_model("vim_nano", width=16, depth=1, image=28)
    seen = []
    model.register_forward_pre_hook(lambda _, args: seen.append(args[0]))
    found = ouro.evaluate(model, data=f"folder:{tmp_path}")
    # a pixel that is 0 in the file, in model space
    assert found["n"] == 1 and seen[0].shape == (1, 3, 28, 28)
    assert torch.allclose(seen[0][0, 0, 0, 0], torch.tensor(-model.info.mean[0] / model.info.std[0]))


def test_a_set_drawn_at_the_size_of_the_input_is_not_cropped() -> None:
    told = transform("scenes", "vim_nano", create_model("vim_nano").info)
    assert told["crop_pct"] is None and told["interpolation"] is None and told["input_size"] == [3, 56, 56]


def test_a_model_that_nobody_registered_gets_timms_defaults(tmp_path) -> None:
    told = transform(f"folder:{tmp_path}", "mine", create_model("vim_nano").info)
    assert (told["crop_pct"], told["interpolation"]) == (0.875, "bicubic")
