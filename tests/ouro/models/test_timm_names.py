"""What timm knows of our models."""

from __future__ import annotations

import pytest
import timm

from ouro.registry import MODELS


@pytest.mark.parametrize("name", [name for name in MODELS if not MODELS.get(name).embedded])
def test_where_published_weights_lie_is_known_to_timm(name) -> None:
    weights, cfg = MODELS.get(name).weights, timm.get_pretrained_cfg(name)
    if weights is None:
        assert cfg.url is None and cfg.hf_hub_id is None
    elif weights.startswith("https://"):
        assert cfg.url == weights and cfg.hf_hub_id is None
    else:
        assert f"{cfg.hf_hub_id}:{cfg.hf_hub_filename}" == weights and cfg.url is None


def test_a_model_that_is_no_square_says_so() -> None:
    model = timm.create_model("vim_nano", image=(56, 112))
    assert model.default_cfg["input_size"] == model.info.input_size == (3, 56, 112)
    assert timm.data.resolve_model_data_config(model)["input_size"] == (3, 56, 112)
