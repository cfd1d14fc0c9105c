"""UPerNet: pyramid pooling over the coarsest map, a feature pyramid down to the finest, all fused into one.

Source: Xiao et al. 2018; names and order of operations agree with mmsegmentation's UPerHead and FCNHead, so that its
checkpoints load.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from ouro.models.heads.convs import ConvNorm, MapConv, resized

DROPOUT = 0.1


class UPerHead(nn.Module):
    """Maps [b c_i h_i w_i], fine to coarse -> logits [b k h_0 w_0].

    Args:
        widths: channels of the maps. channels: of everything inside. pools: sides of what the coarsest map is pooled to.
    """

    def __init__(self, widths: Sequence[int], channels: int, classes: int, pools: Sequence[int]) -> None:
        super().__init__()
        self.psp_modules = nn.ModuleList(
            nn.Sequential(nn.AdaptiveAvgPool2d(side), ConvNorm(widths[-1], channels, 1)) for side in pools
        )
        self.bottleneck = ConvNorm(widths[-1] + len(pools) * channels, channels)
        self.lateral_convs = nn.ModuleList(ConvNorm(width, channels, 1) for width in widths[:-1])
        self.fpn_convs = nn.ModuleList(ConvNorm(channels, channels) for _ in widths[:-1])
        self.fpn_bottleneck = ConvNorm(len(widths) * channels, channels)
        self.conv_seg = answer(channels, classes)

    def forward(self, maps: Sequence[Tensor]) -> Tensor:
        levels = [conv(x) for conv, x in zip(self.lateral_convs, maps, strict=False)]
        levels.append(self._pooled(maps[-1]))
        for level in range(len(levels) - 1, 0, -1):
            finer = levels[level - 1]
            levels[level - 1] = finer + resized(levels[level], _size(finer))
        outs = [conv(x) for conv, x in zip(self.fpn_convs, levels, strict=False)] + levels[-1:]
        fused = self.fpn_bottleneck(torch.cat([resized(x, _size(outs[0])) for x in outs], dim=1))
        return self.conv_seg(F.dropout2d(fused, DROPOUT, self.training))

    def _pooled(self, x: Tensor) -> Tensor:
        parts = [x, *(resized(branch(x), _size(x)) for branch in self.psp_modules)]
        return self.bottleneck(torch.cat(parts, dim=1))


class FCNHead(nn.Module):
    """One convolution and the answer, beside the main head while it is trained; nothing of it is quantized."""

    def __init__(self, width: int, channels: int, classes: int) -> None:
        super().__init__()
        self.convs = nn.Sequential(PlainConvNorm(width, channels))
        self.conv_seg = nn.Conv2d(channels, classes, 1)

    def forward(self, x: Tensor) -> Tensor:
        return self.conv_seg(F.dropout2d(self.convs(x), DROPOUT, self.training))


class PlainConvNorm(nn.Module):
    """`ConvNorm` without taps: it is gone when a model is quantized."""

    def __init__(self, c_in: int, c_out: int) -> None:
        super().__init__()
        self.conv = nn.Conv2d(c_in, c_out, 3, padding=1, bias=False)
        self.bn = nn.BatchNorm2d(c_out)

    def forward(self, x: Tensor) -> Tensor:
        return F.relu(self.bn(self.conv(x)))


def answer(channels: int, classes: int) -> MapConv:
    """The last convolution, with mmsegmentation's start."""
    conv = MapConv(channels, classes, 1, site="head")
    nn.init.normal_(conv.weight, std=0.01)
    assert conv.bias is not None
    nn.init.zeros_(conv.bias)
    return conv


def _size(x: Tensor) -> tuple[int, int]:
    return x.shape[2], x.shape[3]
