"""Dense models: heads by formula, official names, features of every backbone, and a start from a classifier."""

from __future__ import annotations

import pytest
import torch
from torch import nn
from torch.nn import functional as F

from ouro.models import create_model, identify, inspect, load_checkpoint, read_checkpoint
from ouro.models.dense import Rescale
from ouro.models.heads.retina import anchors, moved, pyramid
from tests.zoo import inputs, official, small

SEGMENTERS = ["vmamba_nano_seg", "localvmamba_nano_seg", "mambavision_nano_seg", "vim_nano_seg", "vmamba_tiny_ade20k"]
DETECTORS = ["vmamba_nano_det", "localvmamba_nano_det", "mambavision_nano_det", "vim_nano_det"]


def conv_module(state, name, x):
    """mmcv's ConvModule in eval mode: convolution, batch norm, ReLU."""
    weight = state[f"{name}.conv.weight"]
    x = F.conv2d(x, weight, padding=weight.shape[-1] // 2)
    norm = [state[f"{name}.bn.{part}"] for part in ("running_mean", "running_var", "weight", "bias")]
    return F.relu(F.batch_norm(x, *norm))


def grown(x, like):
    return F.interpolate(x, like.shape[2:], mode="bilinear", align_corners=False)


def upernet(state, maps, pools, size):
    """UPerHead's forward, written from the names of mmsegmentation's checkpoints alone."""
    name = "decode_head"
    last = [maps[-1]]
    for number, side in enumerate(pools):
        last.append(
            grown(conv_module(state, f"{name}.psp_modules.{number}.1", F.adaptive_avg_pool2d(maps[-1], side)), maps[-1])
        )
    levels = [conv_module(state, f"{name}.lateral_convs.{i}", x) for i, x in enumerate(maps[:-1])]
    levels.append(conv_module(state, f"{name}.bottleneck", torch.cat(last, 1)))
    for i in reversed(range(1, len(levels))):
        levels[i - 1] = levels[i - 1] + grown(levels[i], levels[i - 1])
    outs = [conv_module(state, f"{name}.fpn_convs.{i}", x) for i, x in enumerate(levels[:-1])] + [levels[-1]]
    fused = conv_module(state, f"{name}.fpn_bottleneck", torch.cat([grown(x, outs[0]) for x in outs], 1))
    logits = F.conv2d(fused, state[f"{name}.conv_seg.weight"], state[f"{name}.conv_seg.bias"])
    return F.interpolate(logits, size, mode="bilinear", align_corners=False)


@pytest.mark.parametrize("name", SEGMENTERS)
def test_the_head_is_mmsegmentations_by_formula(name) -> None:
    model = small(name)
    with torch.no_grad():
        for module in model.modules():
            if isinstance(module, nn.BatchNorm2d):
                module.running_mean.normal_(std=0.3)
                module.running_var.uniform_(0.5, 2)
        images = inputs(model)
        maps = model.forward_features(images)
        wanted = upernet(official(model), list(maps), model.config.pools, model.info.input_size[1:])
        torch.testing.assert_close(model(images), wanted, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("name", [*SEGMENTERS, *DETECTORS])
def test_maps_are_the_backbones_features_behind_norms(name) -> None:
    model = small(name)
    images = inputs(model)
    with torch.no_grad():
        maps = model.forward_features(images)
        plain = model.backbone.forward_intermediates(images, model.config.features or None, intermediates_only=True)
    assert len(maps) == len(plain) == len(model.outs)
    for number, (x, norm) in enumerate(zip(plain, model.outs, strict=True)):
        wanted = norm(x.permute(0, 2, 3, 1)).permute(0, 3, 1, 2)
        wanted = model.rescale[number](wanted) if len(model.rescale) else wanted
        torch.testing.assert_close(maps[number], wanted)


def test_official_names_are_mmsegmentations() -> None:
    with torch.device("meta"):
        model = create_model("vmamba_tiny_ade20k")
    names = {model.official(key).key for key in model.state_dict()}
    for name in (
        "backbone.patch_embed.0.weight", "backbone.layers.0.blocks.0.op.x_proj_weight", "backbone.outnorm0.weight",
        "backbone.outnorm3.bias", "decode_head.psp_modules.3.1.bn.running_var", "decode_head.lateral_convs.2.conv.weight",
        "decode_head.fpn_bottleneck.bn.weight", "decode_head.conv_seg.bias", "auxiliary_head.convs.0.conv.weight",
    ):  # fmt: skip
        assert name in names, name
    assert model.state_dict()["decode_head.bottleneck.conv.weight"].shape == (512, 768 + 4 * 512, 3, 3)
    assert model.state_dict()["auxiliary_head.convs.0.conv.weight"].shape == (256, 384, 3, 3)
    assert not any(name.startswith(("backbone.classifier", "backbone.head")) for name in names)


@pytest.mark.parametrize("name", ["vmamba_tiny_ade20k", "vim_nano_seg", "mambavision_nano_seg"])
def test_a_checkpoint_of_the_whole_model_goes_in_and_says_what_it_is(name, tmp_path) -> None:
    model = small(name)
    path = tmp_path / "iter_160000.pth"
    torch.save({"meta": {"iter": 160000}, "state_dict": official(model), "optimizer": {}}, path)
    other = small(name, seed=1)
    load_checkpoint(other, path)
    images = inputs(model)
    with torch.no_grad():
        assert torch.equal(model(images), other(images))
    # of the others more has to be said: which layers, which windows
    if name == "vmamba_tiny_ade20k":
        seen = inspect(path, name)
        assert seen.problem == "" and seen.missing == seen.unmatched == 0 and seen.classes == 5
        assert type(create_model(identify(read_checkpoint(path)), pretrained=path, image=24)) is type(model)


def test_a_classifier_still_takes_the_backbone_alone(tmp_path) -> None:
    model = small("vmamba_tiny_ade20k")
    path = tmp_path / "whole.pth"
    torch.save({"state_dict": official(model)}, path)
    classifier = create_model("vmamba_tiny", pretrained=path, image=24, num_classes=3)
    assert torch.equal(classifier.stages[0].blocks[0].norm.weight, model.backbone.stages[0].blocks[0].norm.weight)
    assert set(classifier.loaded_from.fresh) == {"norm.weight", "norm.bias", "head.weight", "head.bias"}


def test_other_classes_leave_the_answer_fresh(tmp_path) -> None:
    for name, answers in (
        ("vmamba_nano_seg", ("decode_head.conv_seg.", "auxiliary_head.conv_seg.")),
        ("vmamba_nano_det", ("head.classification_head.cls_logits.",)),
    ):
        model = small(name)
        changed = create_model(name, pretrained=model.state_dict(), num_classes=3)
        assert changed.info.num_classes == 3
        assert set(changed.loaded_from.fresh) == {key for key in model.state_dict() if key.startswith(answers)}


@pytest.mark.parametrize("scale", [4, 2, 1, 0.5])
def test_growing_is_a_transposed_convolution(scale) -> None:
    torch.manual_seed(0)
    grow, x = Rescale(6, scale).eval(), torch.randn(2, 6, 5, 3)
    wanted = x
    with torch.no_grad():
        for number, linear in enumerate(grow.grow):
            # outputs of the linear layer are (channel, row, column) of the 2 x 2 places
            kernel = linear.weight.view(6, 2, 2, 6).permute(3, 0, 1, 2)
            bias = linear.bias.view(6, 4)
            linear.bias.copy_(bias.mean(1, keepdim=True).expand(6, 4).reshape(-1))
            wanted = F.conv_transpose2d(wanted, kernel, linear.bias.view(6, 4)[:, 0], stride=2)
            wanted = F.gelu(grow.norm(wanted)) if scale == 4 and number == 0 else wanted
        wanted = F.max_pool2d(x, 2, ceil_mode=True) if scale == 0.5 else wanted
        torch.testing.assert_close(grow(x), wanted)
    with pytest.raises(ValueError, match="scale is 3, expected 4, 2, 1 or 0.5"):
        Rescale(6, 3)


def test_a_dense_model_starts_from_a_classifier() -> None:
    model, classifier = create_model("vmamba_nano_det"), create_model("vmamba_nano", pretrained=True)
    model.begin_from(classifier)
    own = classifier.state_dict()
    assert all(torch.equal(value, own[key]) for key, value in model.backbone.state_dict().items())
    with pytest.raises(
        ValueError, match="localvmamba_nano is not the backbone of vmamba_nano_det: 'embed.conv1.weight'"
    ):
        model.begin_from(create_model("localvmamba_nano"))


def test_anchors_lie_over_their_places_and_offsets_move_them() -> None:
    boxes = anchors([8, 16], [(3, 4), (2, 2)], (24, 32), 2.0)
    assert boxes.shape == (9 * (12 + 4), 4)
    sizes = boxes[:, 2:] - boxes[:, :2]
    areas = sizes.prod(1).sqrt()
    assert areas[:9].min() > 15 and areas[:9].max() < 27 and areas[-1] > 30
    centers = (boxes[:, :2] + boxes[:, 2:]) / 2
    assert torch.equal(centers[9 * 5], torch.tensor([8.0, 8.0]))
    assert torch.allclose(moved(torch.zeros(2, len(boxes), 4), boxes), boxes.expand(2, -1, -1), atol=1e-4)
    shifted = moved(torch.tensor([0.5, 0, 0, 0]).expand(1, len(boxes), 4), boxes)[0]
    assert torch.allclose(shifted[:, 0], boxes[:, 0] + 0.5 * sizes[:, 0], atol=1e-4)


def test_four_stages_make_a_pyramid_of_six() -> None:
    fpn = pyramid([8, 16, 24, 32], 12, 2)
    maps = {str(i): torch.randn(1, 8 * (i + 1), 32 // 2**i, 32 // 2**i) for i in range(4)}
    outs = list(fpn(maps).values())
    assert [tuple(x.shape[1:]) for x in outs] == [
        (12, 32, 32),
        (12, 16, 16),
        (12, 8, 8),
        (12, 4, 4),
        (12, 2, 2),
        (12, 1, 1),
    ]
    with pytest.raises(ValueError, match="3 coarser maps were asked for, allowed are 0, 1, 2"):
        pyramid([8], 12, 3)


def test_settings_that_do_not_fit() -> None:
    with pytest.raises(ValueError, match="scales are for 2 features, there are 3; give one for each"):
        create_model("vim_nano_seg", scales=(2, 1))
    with pytest.raises(ValueError, match="layer 6 does not exist, vim_nano_det has layers 0 to 5"):
        create_model("vim_nano_det", features=(6,))
