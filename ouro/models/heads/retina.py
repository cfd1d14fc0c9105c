"""RetinaNet: a feature pyramid, and two towers of convolutions that rate and move anchors at every place.

Source: Lin et al. 2017, torchvision's `FeaturePyramidNetwork`, `RetinaNetHead` (as in retinanet_resnet50_fpn_v2, with
group norm), `AnchorGenerator` and `BoxCoder`. The modules are torchvision's, with taps on their convolutions.
"""

from __future__ import annotations

from collections.abc import Sequence
from functools import partial
from typing import Any

import torch
from torch import Tensor, nn

from ouro._torchvision_ops import declare_missing_ops
from ouro.models.heads.convs import MapConv

declare_missing_ops()

from torchvision.models.detection._utils import BoxCoder  # noqa: E402
from torchvision.models.detection.anchor_utils import AnchorGenerator  # noqa: E402
from torchvision.models.detection.image_list import ImageList  # noqa: E402
from torchvision.models.detection.retinanet import RetinaNetHead  # noqa: E402
from torchvision.ops import FeaturePyramidNetwork  # noqa: E402
from torchvision.ops.feature_pyramid_network import LastLevelMaxPool, LastLevelP6P7  # noqa: E402

_ANSWERS = ("cls_logits", "bbox_reg")
_SCALES = (1.0, 2 ** (1 / 3), 2 ** (2 / 3))
"""Three anchors of each shape in every octave, as in the paper."""
_RATIOS = (0.5, 1.0, 2.0)


def pyramid(widths: Sequence[int], channels: int, more: int) -> FeaturePyramidNetwork:
    """Maps of these widths -> as many of `channels`, and `more` coarser ones: 0, 1 (max pooling) or 2 (P6 and P7).

    Raises:
        ValueError: another number of coarser ones.
    """
    extra = {0: None, 1: LastLevelMaxPool(), 2: LastLevelP6P7(channels, channels)}
    if more not in extra:
        raise ValueError(f"{more} coarser maps were asked for, allowed are {', '.join(map(str, extra))}")
    return tapped(FeaturePyramidNetwork(list(widths), channels, extra[more]))


def retina_head(channels: int, classes: int, groups: int = 32) -> RetinaNetHead:
    """The two towers, for nine anchors at every place."""
    anchors = len(_SCALES) * len(_RATIOS)
    return tapped(RetinaNetHead(channels, anchors, classes, norm_layer=partial(nn.GroupNorm, groups)))


def anchors(strides: Sequence[int], grids: Sequence[tuple[int, int]], size: tuple[int, int], scale: float) -> Tensor:
    """Boxes [a 4] over all places of all maps, nine at each; the smallest square is `scale` times the map's stride."""
    sizes = tuple(tuple(scale * stride * step for step in _SCALES) for stride in strides)
    make = AnchorGenerator(sizes, (_RATIOS,) * len(strides))
    maps = [torch.empty(1, 1, *grid) for grid in grids]
    return make(ImageList(torch.empty(1, 3, *size), [size]), maps)[0]


def moved(offsets: Tensor, boxes: Tensor) -> Tensor:
    """Boxes [a 4] moved and stretched by what a tower says [b a 4]."""
    flat = BoxCoder((1.0, 1.0, 1.0, 1.0)).decode_single(offsets.flatten(0, 1), boxes.repeat(len(offsets), 1))
    return flat.view_as(offsets)


def tapped(module: Any) -> Any:
    """The module with every convolution in it made one with taps; the names of its weights stay."""
    for name, child in list(module.named_children()):
        if type(child) is nn.Conv2d:
            conv = MapConv(
                child.in_channels, child.out_channels, child.kernel_size[0], bias=child.bias is not None,
                site="head" if name in _ANSWERS else "decoder", stride=child.stride[0],
            )  # fmt: skip
            conv.weight, conv.bias = child.weight, child.bias
            setattr(module, name, conv)
        else:
            tapped(child)
    return module
