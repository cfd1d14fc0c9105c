"""A picture is judged by what the model knows, which is looked at once and kept."""

from __future__ import annotations

import numpy as np
import pytest
from PIL import Image

from ouro.jobs import familiar as module
from ouro.jobs.familiar import FamiliarSpec, familiar
from ouro.progress import finish
from tests.zoo import small


def test_noise_is_far_and_a_held_out_scene_is_not(tmp_path, monkeypatch) -> None:
    path = tmp_path / "noise.png"
    Image.fromarray(np.random.default_rng(0).integers(0, 256, (90, 120, 3), dtype=np.uint8)).save(path)
    sizes = {"known": 16, "held_out": 24}
    report = finish(familiar(FamiliarSpec("vim_nano", image=str(path), **sizes), root=tmp_path))
    values = report.values
    assert values["far"] and values["strangeness"] > values["limit"] > 0
    assert values["data"] == "scenes" and values["source"] == str(path) and values["model"] == "vim_nano"
    # what is known is not looked at again
    monkeypatch.setattr(module, "familiarity", lambda *_, **__: pytest.fail("looked at twice"))
    again = finish(familiar(FamiliarSpec("vim_nano", sample=40, **sizes), root=tmp_path)).values
    assert not again["far"] and again["limit"] == values["limit"] and again["source"] == "scenes 40"


def test_a_model_whose_images_do_not_come_along_is_refused(monkeypatch) -> None:
    monkeypatch.setattr(module, "open_model", lambda *_: small("vim_tiny_patch16_224"))
    with pytest.raises(ValueError, match="the images that vim_tiny_patch16_224 was trained on do not come along"):
        finish(familiar(FamiliarSpec("vim_tiny_patch16_224", sample=0)))


def test_a_number_below_one_is_refused() -> None:
    with pytest.raises(ValueError, match="known is 0, expected 1 or more"):
        FamiliarSpec("vim_nano", sample=0, known=0)
