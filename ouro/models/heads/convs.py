"""Convolutions of heads over maps [b c h w], with taps on what they multiply."""

from __future__ import annotations

from torch import Tensor, nn
from torch.nn import functional as F

from ouro.taps import Tap


class MapConv(nn.Conv2d):
    """A convolution padded by half a kernel; `site` is "decoder", or "head" for the one that gives the answer."""

    def __init__(
        self, c_in: int, c_out: int, kernel: int = 3, *, bias: bool = True, site: str = "decoder", stride: int = 1
    ) -> None:
        super().__init__(c_in, c_out, kernel, stride, padding=kernel // 2, bias=bias)
        self.tap_in = Tap(f"{site}.in", "b c h w")
        self.tap_w = Tap(f"{site}.weight", "o c h w")

    def forward(self, x: Tensor) -> Tensor:
        return F.conv2d(self.tap_in(x), self.tap_w(self.weight), self.bias, self.stride, self.padding)


class ConvNorm(nn.Module):
    """Convolution without bias, batch norm, ReLU; mmcv's ConvModule, whose names it keeps."""

    def __init__(self, c_in: int, c_out: int, kernel: int = 3) -> None:
        super().__init__()
        self.conv = MapConv(c_in, c_out, kernel, bias=False)
        self.bn = nn.BatchNorm2d(c_out)
        nn.init.kaiming_normal_(self.conv.weight, mode="fan_out", nonlinearity="relu")

    def forward(self, x: Tensor) -> Tensor:
        return F.relu(self.bn(self.conv(x)))


def resized(x: Tensor, size: tuple[int, int]) -> Tensor:
    """The map bilinearly at another size, corners not aligned."""
    return x if x.shape[2:] == size else F.interpolate(x, size, mode="bilinear", align_corners=False)
