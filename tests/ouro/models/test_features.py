"""Features of plain stacks: the sum of all layers until then, without the class token, by timm's conventions."""

from __future__ import annotations

import pytest
import timm
import torch
from timm.optim import create_optimizer_v2

import ouro
from ouro.models import create_model
from tests.zoo import inputs

SMALL = {
    "vim_tiny_patch16_224": {"width": 32, "depth": 3, "image": (24, 36), "patch": 4, "stride": 4, "num_classes": 5},
    "vim_tiny_plus_patch16_224": {"width": 32, "depth": 3, "image": 24, "patch": 8, "stride": 4, "num_classes": 5},
    "localvim_tiny": {"width": 32, "image": 24, "patch": 4, "num_classes": 5},
    "localvim_tiny_cls": {"width": 32, "image": 24, "patch": 4, "num_classes": 5},
}


@pytest.fixture(params=SMALL)
def model(request):
    torch.manual_seed(0)
    options = dict(SMALL[request.param])
    if "localvim" in request.param:
        options["directions"] = (("h", "v_flip", "w2", "w3_flip"),) * 3
    return create_model(request.param, **options)


def test_features_are_the_sum_of_the_layers_until_then(model) -> None:
    images, sums = inputs(model), []
    for block in model.blocks().values():
        block.register_forward_hook(lambda _m, _i, out: sums.append(out[0] if out[1] is None else out[0] + out[1]))
    with torch.no_grad():
        tokens, maps = model.forward_intermediates(images)
    rows, columns = model.info.stages[0].grid
    assert len(maps) == len(sums) == 3
    for whole, actual in zip(sums, maps, strict=True):
        places = [place for place in range(whole.shape[1]) if place != model.cls_index]
        assert actual.shape == (3, 32, rows, columns)
        assert torch.equal(actual.flatten(2).transpose(1, 2), whole[:, places])
    with torch.no_grad():
        assert torch.equal(model.forward_head(tokens), model(images))


def test_every_layer_may_be_normed_and_the_walk_may_stop(model) -> None:
    images = inputs(model)
    with torch.no_grad():
        maps = model.forward_intermediates(images, intermediates_only=True)
        normed = model.forward_intermediates(images, norm=True, intermediates_only=True)
        stopped, early = model.forward_intermediates(images, [-2, 0], stop_early=True)
    for plain, one in zip(maps, normed, strict=True):
        assert torch.allclose(one, model.norm_f(plain.permute(0, 2, 3, 1)).permute(0, 3, 1, 2), atol=1e-6)
    assert len(early) == 2 and torch.equal(early[1], maps[1])
    assert torch.equal(stopped, maps[1].flatten(2).transpose(1, 2))


def test_timm_builds_a_backbone_of_a_plain_stack() -> None:
    options = SMALL["vim_tiny_patch16_224"]
    backbone = timm.create_model("vim_tiny_patch16_224", features_only=True, out_indices=(0, 1), **options)
    assert backbone.feature_info.channels() == [32, 32] and backbone.feature_info.reduction() == [4, 4]
    with torch.no_grad():
        maps = backbone(torch.zeros(2, 3, 24, 36))
    assert [tuple(one.shape) for one in maps] == [(2, 32, 6, 9)] * 2
    assert not any(key.startswith(("layers.2", "head", "norm_f")) for key in backbone.state_dict())


@pytest.mark.parametrize("name", ["vim_nano", "vmamba_nano", "localvmamba_nano", "mambavision_nano"])
def test_a_classifier_of_no_classes_gives_its_features(name) -> None:
    whole = create_model(name, pretrained=True)
    backbone = timm.create_model(name, pretrained=True, num_classes=0)
    images = inputs(whole)
    with torch.no_grad():
        assert torch.equal(backbone(images), whole.features(images))
    assert backbone.num_classes == backbone.info.num_classes == 0 and not backbone.info.class_names
    with pytest.raises(ValueError, match=f"^scenes has 12 classes, {name} has 0$"):
        ouro.evaluate(backbone, limit=1)


@pytest.mark.parametrize("name", ["vim_nano", "vmamba_nano", "localvmamba_nano", "mambavision_nano"])
def test_a_classifier_is_reset_as_timm_does(name) -> None:
    model = timm.create_model(name, pretrained=True).double()
    images, before = inputs(model).double(), model.info.num_classes
    assert model.get_classifier().weight.shape == (before, model.num_features)
    with torch.no_grad():
        features = model.features(images)
        model.reset_classifier(3)
        assert torch.equal(model(images), model.get_classifier()(features)) and model(images).shape[1] == 3
        assert (model.num_classes, model.info.num_classes, model.info.class_names) == (3, 3, ())
        model.reset_classifier(0)
        assert torch.equal(model(images), features) and not model.num_classes


def test_timms_optimizers_decay_matrices_only() -> None:
    model = create_model("vim_nano", pretrained=True)
    names = {id(p): path.rpartition(".")[2] for path, p in model.named_parameters()}
    # it asks the model what not to decay
    groups = create_optimizer_v2(model, "adamw", weight_decay=0.05).param_groups
    found = {group["weight_decay"]: {names[id(p)] for p in group["params"]} for group in groups}
    assert found[0.05] == {"weight"} and {"A_log", "D", "cls_token", "pos_embed", "bias"} <= found[0]


def test_weights_without_a_head_make_a_model_of_no_classes() -> None:
    whole = create_model("vim_nano", pretrained=True)
    body = {key: x for key, x in whole.state_dict().items() if not key.startswith("head.")}
    backbone, images = create_model("vim_nano", pretrained=body, num_classes=0), inputs(whole)
    with torch.no_grad():
        assert torch.equal(backbone(images), whole.features(images))


def test_layers_that_are_not_there() -> None:
    model = create_model("vim_tiny_patch16_224", **SMALL["vim_tiny_patch16_224"])
    with pytest.raises(ValueError, match="layer 3 does not exist, vim_tiny_patch16_224 has layers 0 to 2"):
        model.forward_intermediates(inputs(model), [3])
