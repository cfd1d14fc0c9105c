"""Models of several stages: timm's conventions for dense use, checked against timm's own wrapper and against hooks."""

from __future__ import annotations

import pytest
import timm
import torch
from timm.models._features import FeatureGetterNet

from ouro.models import create_model
from ouro.models.layers import as_map
from ouro.vision import VisionModel

SMALL = {
    "vmamba_tiny": {"width": 16, "depths": (1, 2, 1, 1), "image": 64, "num_classes": 5},
    "localvmamba_tiny": {"image": 64, "num_classes": 5},
    "mambavision_t": {"width": 16, "stem": 8, "depths": (1, 1, 2, 2), "windows": (8, 8, 3, 2), "image": 64,
                      "num_classes": 5},
}  # fmt: skip
WIDTHS = {"vmamba_tiny": 16, "localvmamba_tiny": 96, "mambavision_t": 16}


@pytest.fixture(params=SMALL)
def model(request) -> VisionModel:
    torch.manual_seed(0)
    return create_model(request.param, **SMALL[request.param])


@pytest.fixture
def images() -> torch.Tensor:
    return torch.randn(2, 3, 64, 64, generator=torch.Generator().manual_seed(0))


@pytest.mark.parametrize(
    ("name", "channels"), [("vmamba_tiny", [96, 192, 384, 768]), ("mambavision_t", [80, 160, 320, 640])]
)
def test_timm_builds_a_backbone(name: str, channels: list[int]) -> None:
    backbone = timm.create_model(name, features_only=True, out_indices=(0, 1, 2, 3))
    with torch.no_grad():
        maps = backbone(torch.zeros(1, 3, 224, 224))
    assert [tuple(m.shape) for m in maps] == [
        (1, c, side, side) for c, side in zip(channels, (56, 28, 14, 7), strict=True)
    ]
    assert backbone.feature_info.channels() == channels
    assert backbone.feature_info.reduction() == [4, 8, 16, 32]
    assert timm.data.resolve_model_data_config(backbone)["input_size"] == (3, 224, 224)
    assert "num_classes" not in backbone.pretrained_cfg


def test_features_are_what_the_last_block_of_each_stage_puts_out(model, images) -> None:
    seen = {}
    for info in model.feature_info:
        module = model.get_submodule(info["module"])
        module.register_forward_hook(lambda _m, _i, out, path=info["module"]: seen.update({path: out[0]}))
    with torch.no_grad():
        logits = model(images)
        tokens, maps = model.forward_intermediates(images)
        assert torch.equal(model.forward_head(tokens), logits)
    assert len(maps) == len(model.info.stages)
    for info, stage, actual in zip(model.feature_info, model.info.stages, maps, strict=True):
        assert torch.equal(actual, as_map(seen[info["module"]], stage.grid))
        assert actual.shape == (2, info["num_chs"], 64 // info["reduction"], 64 // info["reduction"])


def test_formats_norm_and_stopping_early(model, images) -> None:
    with torch.no_grad():
        tokens, maps = model.forward_intermediates(images)
        nhwc = model.forward_intermediates(images, output_fmt="NHWC", intermediates_only=True)
        normed = model.forward_intermediates(images, norm=True, intermediates_only=True)
        stopped, early = model.forward_intermediates(images, [-3, 0], stop_early=True)
        last_two = model.forward_intermediates(images, 2, intermediates_only=True)
    assert all(torch.equal(a.permute(0, 3, 1, 2), b) for a, b in zip(nhwc, maps, strict=True))
    assert torch.equal(normed[-1], as_map(tokens, model.info.stages[-1].grid))
    assert all(torch.equal(a, b) for a, b in zip(normed[:-1], maps[:-1], strict=True))
    assert len(early) == 2 and torch.equal(early[0], maps[0]) and torch.equal(early[1], maps[1])
    assert torch.equal(as_map(stopped, model.info.stages[1].grid), maps[1])
    assert len(last_two) == 2 and torch.equal(last_two[0], maps[2])


@pytest.mark.parametrize(("indices", "kept"), [((0, 2), [0, 2]), ([2, -4], [0, 2]), (2, [2, 3]), (None, [0, 1, 2, 3])])
@pytest.mark.parametrize("norm", [False, True])
def test_timms_wrapper_prunes_and_gives_the_same_maps(model, images, indices, kept, norm) -> None:
    width, stages = WIDTHS[model.info.name], len(model.stages)
    with torch.no_grad():
        expected = model.forward_intermediates(images, norm=norm, intermediates_only=True)
        backbone = FeatureGetterNet(model, out_indices=indices, norm=norm)
        maps = backbone(images)
    assert backbone.feature_info.out_indices == tuple(kept)
    assert backbone.feature_info.channels() == [width * 2**i for i in kept]
    assert len(maps) == len(kept) and all(torch.equal(m, expected[i]) for m, i in zip(maps, kept, strict=True))
    keys = set(model.state_dict())
    assert not any(key.startswith(("head", f"stages.{max(kept) + 1}", f"stages.{max(kept)}.shrink")) for key in keys)
    assert any(key.startswith("norm") for key in keys) == (norm and max(kept) + 1 == stages)
    assert model.num_classes == 0


def test_strides_are_counted_where_grids_are_rounded_up() -> None:
    model = create_model("mambavision_t", **SMALL["mambavision_t"] | {"image": 72})
    assert [stage.grid[0] for stage in model.info.stages] == [18, 9, 5, 3]
    assert [info["reduction"] for info in model.feature_info] == [4, 8, 16, 32]


def test_errors_say_what_is_allowed(model, images) -> None:
    name = model.info.name
    with pytest.raises(ValueError, match=f"stage 4 does not exist, {name} has stages 0 to 3"):
        model.forward_intermediates(images, [4])
    with pytest.raises(ValueError, match=f"5 last stages wanted, {name} has 4"):
        model.prune_intermediate_layers(5)
    with pytest.raises(ValueError, match="output_fmt is 'NLC', expected NCHW or NHWC"):
        model.forward_intermediates(images, output_fmt="NLC")


def test_out_indices_belong_to_features() -> None:
    with pytest.raises(ValueError, match="out_indices chooses stages for features_only=True"):
        timm.create_model("vmamba_tiny", out_indices=(0, 1))


@pytest.mark.parametrize("name", [*SMALL, "vim_nano"])
def test_timm_knows_where_a_model_begins_and_ends(name: str) -> None:
    model = timm.create_model(name, num_classes=3)
    first, last = (model.get_submodule(model.default_cfg[key]) for key in ("first_conv", "classifier"))
    assert first.in_channels == 3 and last.out_features == 3
