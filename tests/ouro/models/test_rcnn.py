"""Mask R-CNN: pooling as RoIAlign, both stages by formulas from mmdetection's names, and its official checkpoint keys."""

from __future__ import annotations

import inspect
import math

import pytest
import torch
from torch.nn import functional as F
from torchvision.ops import batched_nms, nms
from torchvision.ops.roi_align import _roi_align

from ouro.models import create_model, identify, load_checkpoint, read_checkpoint
from ouro.models.heads.rcnn import ExactAnchors, as_candidates, regions
from ouro.tasks.detection import detections
from tests.zoo import inputs, official, small


@pytest.fixture(scope="module")
def model():
    return small("vmamba_tiny_coco")


@pytest.mark.parametrize("side", [7, 14])
def test_pooling_is_roi_align(side) -> None:
    stream = torch.Generator().manual_seed(0)
    x = torch.randn(2, 5, 30, 40, generator=stream)
    corners = torch.rand(12, 2, generator=stream) * torch.tensor([140.0, 100.0])
    boxes = torch.cat([corners, corners + 1 + 60 * torch.rand(12, 2, generator=stream)], dim=1)
    boxes = boxes.minimum(torch.tensor([160.0, 120.0, 160.0, 120.0]))
    boxes[0] = torch.tensor([0.0, 0.0, 160.0, 120.0])
    rows = torch.cat([torch.ones(12, 1), boxes], dim=1)
    # as it is written: compiling it, as torchvision does at the first call, takes ten seconds
    wanted = inspect.unwrap(_roi_align)(x, rows, 0.25, side, side, 0, True)
    actual = regions([x], boxes, 1, (120, 160), side)
    torch.testing.assert_close(actual, wanted, rtol=1e-4, atol=1e-5)


def test_larger_boxes_are_read_from_coarser_maps() -> None:
    maps = [torch.full((1, 1, 64 // 2**level, 64 // 2**level), float(level)) for level in range(4)]
    sides = torch.tensor([10.0, 111.0, 113.0, 223.0, 225.0, 256.0])
    boxes = torch.stack([torch.zeros(6), torch.zeros(6), sides, sides], dim=1)
    assert regions(maps, boxes, 0, (256, 256), 7).mean((1, 2, 3)).tolist() == [0.0, 0.0, 1.0, 1.0, 2.0, 2.0]


def test_anchors_are_not_rounded() -> None:
    (made,) = (ExactAnchors(((32.0,),), ((0.5, 1.0, 2.0),)).generate_anchors((32.0,), (0.5, 1.0, 2.0)),)
    wide = 32 * math.sqrt(2)
    assert made[0].tolist() == pytest.approx([-wide / 2, -wide / 4, wide / 2, wide / 4], rel=1e-5)
    assert made[1].tolist() == [-16, -16, 16, 16]


def neck(state, maps):
    """mmdetection's FPN with five outputs."""
    lateral = [F.conv2d(x, state[f"neck.lateral_convs.{i}.conv.weight"], state[f"neck.lateral_convs.{i}.conv.bias"])
               for i, x in enumerate(maps)]  # fmt: skip
    for i in reversed(range(1, len(maps))):
        lateral[i - 1] = lateral[i - 1] + F.interpolate(lateral[i], size=lateral[i - 1].shape[2:], mode="nearest")
    outs = [F.conv2d(x, state[f"neck.fpn_convs.{i}.conv.weight"], state[f"neck.fpn_convs.{i}.conv.bias"], padding=1)
            for i, x in enumerate(lateral)]  # fmt: skip
    return [*outs, F.max_pool2d(outs[-1], 1, stride=2)]


def decoded(boxes, offsets, spreads):
    """DeltaXYWHBBoxCoder."""
    size, center = boxes[:, 2:] - boxes[:, :2], (boxes[:, :2] + boxes[:, 2:]) / 2
    offsets = offsets * torch.tensor(spreads)
    center = center + offsets[:, :2] * size
    size = size * offsets[:, 2:].clamp(max=math.log(1000 / 16)).exp()
    return torch.cat([center - size / 2, center + size / 2], dim=1)


def first_stage(state, maps, size, most):
    """Proposals of image 0: every level's best, suppressed by themselves."""
    found, scores, levels = [], [], []
    for level, x in enumerate(maps):
        hidden = F.relu(F.conv2d(x, state["rpn_head.rpn_conv.weight"], state["rpn_head.rpn_conv.bias"], padding=1))
        logits = F.conv2d(hidden, state["rpn_head.rpn_cls.weight"], state["rpn_head.rpn_cls.bias"])[0]
        offsets = F.conv2d(hidden, state["rpn_head.rpn_reg.weight"], state["rpn_head.rpn_reg.bias"])[0]
        stride, base = size[0] // x.shape[2], 32.0 * 2**level
        for row in range(x.shape[2]):
            for column in range(x.shape[3]):
                for place, ratio in enumerate((0.5, 1.0, 2.0)):
                    high, wide = base * math.sqrt(ratio), base / math.sqrt(ratio)
                    x0, y0 = column * stride - wide / 2, row * stride - high / 2
                    anchor = torch.tensor([[x0, y0, x0 + wide, y0 + high]])
                    box = decoded(anchor, offsets[4 * place : 4 * place + 4, row, column][None], (1.0, 1.0, 1.0, 1.0))[
                        0
                    ]
                    found.append(box.clamp(min=0).minimum(torch.tensor([size[1], size[0]] * 2).float()))
                    scores.append(logits[place, row, column].sigmoid())
                    levels.append(level)
    boxes, scores, levels = torch.stack(found), torch.stack(scores), torch.tensor(levels)
    there = ((boxes[:, 2:] - boxes[:, :2]) >= 1e-3).all(1)
    boxes, scores, levels = boxes[there], scores[there], levels[there]
    kept = [(levels == level).nonzero()[:, 0] for level in range(len(maps))]
    kept = torch.cat([one[nms(boxes[one], scores[one], 0.7)] for one in kept])
    return boxes[kept[scores[kept].argsort(descending=True, stable=True)][:most]]


def test_detections_are_those_of_the_formulas(model) -> None:
    state, images = official(model), inputs(model, 1)
    size = model.info.input_size[1:]
    with torch.no_grad():
        maps = neck(state, list(model.forward_features(images)))
        boxes = first_stage(state, maps, size, model.config.proposals)
        pooled = regions(maps[:-1], boxes, 0, size, 7).flatten(1)
        for name in ("shared_fcs.0", "shared_fcs.1"):
            pooled = F.relu(
                F.linear(pooled, *(state[f"roi_head.bbox_head.{name}.{part}"] for part in ("weight", "bias")))
            )
        logits, offsets = (
            F.linear(pooled, *(state[f"roi_head.bbox_head.{name}.{part}"] for part in ("weight", "bias")))
            for name in ("fc_cls", "fc_reg")
        )
        # nothing is the last class, as in mmdetection
        scores = logits.softmax(1)[:, :-1]
        rows = []
        for label in range(scores.shape[1]):
            moved = decoded(boxes, offsets[:, 4 * label : 4 * label + 4], (0.1, 0.1, 0.2, 0.2))
            moved = moved.clamp(min=0).minimum(torch.tensor([size[1], size[0]] * 2).float())
            for box, score in zip(moved, scores[:, label], strict=True):
                if score > 0.05:
                    rows.append(torch.cat([box, torch.tensor([label, float(score)])]))
        rows = torch.stack(rows)
        wanted = rows[batched_nms(rows[:, :4], rows[:, 5], rows[:, 4].long(), 0.5)][:100]
        found = detections(model(images)[0])
    torch.testing.assert_close(found, wanted, rtol=1e-4, atol=1e-3)


def test_masks_belong_to_detections(model) -> None:
    with torch.no_grad():
        instances = model.instances(inputs(model))
        candidates = model(inputs(model))
    for (found, masks), rows in zip(instances, candidates, strict=True):
        assert masks.shape == (len(found), 28, 28) and masks.min() >= 0 and masks.max() <= 1
        torch.testing.assert_close(detections(rows), found, rtol=1e-4, atol=1e-4)


def test_candidates_hold_what_was_found() -> None:
    found = torch.tensor([[1.0, 2.0, 8.0, 9.0, 1.0, 0.9], [3.0, 2.0, 5.0, 9.0, 0.0, 0.4]])
    rows = as_candidates([found, found[:0]], 3)
    assert rows.shape == (2, 100, 11) and len(detections(rows[1])) == 0
    torch.testing.assert_close(detections(rows[0]), found)


def test_official_names_are_mmdetections(tmp_path) -> None:
    with torch.device("meta"):
        whole = create_model("vmamba_tiny_coco")
    assert whole.info.input_size == (3, 800, 1344) and whole.info.num_classes == 80
    shapes = {whole.official(key).key: tuple(value.shape) for key, value in whole.state_dict().items()}
    for name, shape in {
        "neck.lateral_convs.3.conv.weight": (256, 768, 1, 1), "neck.fpn_convs.0.conv.bias": (256,),
        "rpn_head.rpn_cls.weight": (3, 256, 1, 1), "rpn_head.rpn_reg.bias": (12,),
        "roi_head.bbox_head.shared_fcs.0.weight": (1024, 256 * 49), "roi_head.bbox_head.fc_cls.weight": (81, 1024),
        "roi_head.bbox_head.fc_reg.weight": (320, 1024), "roi_head.mask_head.convs.3.conv.weight": (256, 256, 3, 3),
        "roi_head.mask_head.upsample.weight": (256, 256, 2, 2), "roi_head.mask_head.conv_logits.weight": (80, 256, 1, 1),
        "backbone.outnorm2.weight": (384,),
    }.items():  # fmt: skip
        assert shapes[name] == shape, name
    model, other = small("vmamba_tiny_coco"), small("vmamba_tiny_coco", seed=1)
    torch.save({"meta": {}, "state_dict": official(model)}, tmp_path / "epoch_12.pth")
    load_checkpoint(other, tmp_path / "epoch_12.pth")
    with torch.no_grad():
        assert torch.equal(model(inputs(model)), other(inputs(model)))
    name = identify(read_checkpoint(tmp_path / "epoch_12.pth"))
    assert type(create_model(name, pretrained=tmp_path / "epoch_12.pth", image=32)) is type(model)
