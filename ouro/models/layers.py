"""Layers whose operands can be tapped: linear, convolutions, norms, MLP. Everything takes and returns tokens [b l c].

Tokens of a map are row-major, so a convolution over their grid is a view of the same memory (channels last), not a copy.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from ouro.taps import Tap


def as_map(tokens: Tensor, grid: tuple[int, int]) -> Tensor:
    """Tokens [b l c] of a row-major grid -> map [b c h w], a view in channels-last layout."""
    return tokens.unflatten(1, grid).permute(0, 3, 1, 2)


def as_tokens(maps: Tensor) -> Tensor:
    """Map [b c h w] -> row-major tokens [b l c]."""
    return maps.permute(0, 2, 3, 1).flatten(1, 2)


class Linear(nn.Linear):
    """nn.Linear with taps on its input and its weight; `site` is "linear" or "head", `role` is for methods to know."""

    def __init__(
        self, c_in: int, c_out: int, bias: bool, *, site: str = "linear", axes: str = "b l c", role: str = ""
    ) -> None:
        super().__init__(c_in, c_out, bias=bias)
        self.tap_in = Tap(f"{site}.in", axes, role=role)
        self.tap_w = Tap(f"{site}.weight", "o c", role=role)

    def forward(self, x: Tensor) -> Tensor:
        return F.linear(self.tap_in(x), self.tap_w(self.weight), self.bias)


class TokenConv1d(nn.Conv1d):
    """Depthwise convolution along the tokens [b l e].

    causal: step t sees t - kernel + 1 .. t; otherwise as many steps on either side ("same").
    """

    def __init__(self, channels: int, kernel: int, *, causal: bool = True, bias: bool = True) -> None:
        super().__init__(channels, channels, kernel, groups=channels, bias=bias)
        self.before = kernel - 1 if causal else (kernel - 1) // 2
        self.tap_in = Tap("conv.in", "b l e")
        self.tap_w = Tap("conv.weight", "o c k")

    def forward(self, x: Tensor) -> Tensor:
        after = self.kernel_size[0] - 1 - self.before
        # as a 2-D convolution over a channels-last view: no copy, and 8x faster than conv1d on a CPU
        image = F.pad(self.tap_in(x), (0, 0, self.before, after)).transpose(1, 2).unsqueeze(2)
        out = F.conv2d(image, self.tap_w(self.weight).unsqueeze(2), self.bias, groups=self.groups)
        return out.squeeze(2).transpose(1, 2)


class TokenConv2d(nn.Conv2d):
    """Convolution over the grid of the tokens [b l c], zero-padded by half a kernel.

    `site` is "conv" for the depthwise one of a mixer, "downsample" or "block" for dense ones.
    """

    def __init__(
        self, grid: tuple[int, int], c_in: int, c_out: int, kernel: int = 3,
        *, site: str, stride: int = 1, depthwise: bool = False, bias: bool = True,
    ) -> None:  # fmt: skip
        groups = c_in if depthwise else 1
        super().__init__(c_in, c_out, kernel, stride, kernel // 2, groups=groups, bias=bias)
        self.grid = grid
        self.tap_in = Tap(f"{site}.in", "b l e" if depthwise else "b l c")
        self.tap_w = Tap(f"{site}.weight", "o c h w")

    def forward(self, x: Tensor) -> Tensor:
        image = as_map(self.tap_in(x), self.grid)
        weight = self.tap_w(self.weight)
        return as_tokens(F.conv2d(image, weight, self.bias, self.stride, self.padding, groups=self.groups))


class PatchEmbed(nn.Module):
    """Non-overlapping (or overlapping, stride < patch) patches of an image as tokens [b p c], row-major."""

    def __init__(self, patch: int, stride: int, c_in: int, width: int) -> None:
        super().__init__()
        self.proj = nn.Conv2d(c_in, width, patch, stride=stride)
        self.tap_in = Tap("embed.in", "b c h w")
        self.tap_w = Tap("embed.weight", "o c h w")

    def forward(self, images: Tensor) -> Tensor:
        weight = self.tap_w(self.proj.weight)
        return as_tokens(F.conv2d(self.tap_in(images), weight, self.proj.bias, self.proj.stride))


class ImageConv(nn.Conv2d):
    """First convolution of a stem: image [b 3 h w] -> tokens [b l c] of the halved grid."""

    def __init__(self, c_in: int, width: int, *, bias: bool) -> None:
        super().__init__(c_in, width, 3, 2, 1, bias=bias)
        self.tap_in = Tap("embed.in", "b c h w")
        self.tap_w = Tap("embed.weight", "o c h w")

    def forward(self, images: Tensor) -> Tensor:
        weight = self.tap_w(self.weight)
        return as_tokens(F.conv2d(self.tap_in(images), weight, self.bias, self.stride, self.padding))


class TokenBatchNorm(nn.BatchNorm1d):
    """Batch norm over the channels of tokens [b l c]; the same numbers as BatchNorm2d over their map."""

    def forward(self, x: Tensor) -> Tensor:
        return super().forward(x.transpose(1, 2)).transpose(1, 2)


class RMSNorm(nn.Module):
    """x / rms(x) * weight over the last axis, no bias."""

    def __init__(self, width: int, eps: float = 1e-5) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.ones(width))
        self.eps = eps

    def forward(self, x: Tensor) -> Tensor:
        return F.rms_norm(x, self.weight.shape, self.weight, self.eps)


class Mlp(nn.Module):
    """Linear, exact GELU, linear."""

    def __init__(self, width: int, ratio: float = 4.0) -> None:
        super().__init__()
        self.fc1 = Linear(width, int(ratio * width), bias=True)
        self.fc2 = Linear(int(ratio * width), width, bias=True)

    def forward(self, x: Tensor) -> Tensor:
        return self.fc2(F.gelu(self.fc1(x)))
