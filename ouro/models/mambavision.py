"""MambaVision: two stages of convolutions, then stages whose first blocks scan and whose last blocks attend.

Source: Hatamizadeh & Kautz 2024, agrees with NVlabs/MambaVision (mambavision/models/mamba_vision.py): logits and
activations of every block within 5e-5 of the official code.
"""

from __future__ import annotations

import re
from dataclasses import dataclass, replace

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from ouro.models.config import ClassifierConfig, Depth, Ratio, Size
from ouro.models.hierarchical import HierarchicalModel, Stage, halved, init_linear
from ouro.models.layers import ImageConv, Linear, Mlp, TokenBatchNorm, TokenConv2d
from ouro.models.mixer import Mixer, MixerSpec
from ouro.models.shapes import Shapes, ratio
from ouro.models.variant import Variant
from ouro.models.windows import Windows
from ouro.taps import Tap
from ouro.types import StageInfo

_LAYER_SCALE = 1e-5
"""Where the released models with layer scale started."""


@dataclass(frozen=True, slots=True)
class MambaVisionConfig(ClassifierConfig):
    """What makes one MambaVision differ from another; `width` is that of the first stage, each later one doubles it.

    Args:
        stem: channels between the two convolutions of the stem.
        depths: blocks per stage.
        heads: attention heads per stage; no use in stages of convolutions.
        windows: side of the windows per stage; no use in stages of convolutions.
        conv_stages: how many of the first stages are convolutions; the others scan, then attend.
        layer_scale: start of the learned factor on either branch of a block that scans or attends, None for no factor.
    """

    width: Size
    stem: Size
    depths: tuple[Depth, ...]
    heads: tuple[Size, ...] = (2, 4, 8, 16)
    windows: tuple[Size, ...] = (8, 8, 14, 7)
    conv_stages: int = 2
    layer_scale: float | None = None
    states: Size = 8
    kernel: Size = 3
    mlp_ratio: Ratio = 4.0


class ConvBlock(nn.Module):
    """x + two dense convolutions with batch norm."""

    def __init__(self, grid: tuple[int, int], width: int) -> None:
        super().__init__()
        self.conv1 = TokenConv2d(grid, width, width, site="block")
        self.norm1 = TokenBatchNorm(width)
        self.conv2 = TokenConv2d(grid, width, width, site="block")
        self.norm2 = TokenBatchNorm(width)
        self.tap_out = Tap("block.out", "b l c")

    def forward(self, x: Tensor) -> tuple[Tensor]:
        hidden = F.gelu(self.norm1(self.conv1(x)), approximate="tanh")
        return (x + self.tap_out(self.norm2(self.conv2(hidden))),)


class Attention(nn.Module):
    """Softmax attention over the tokens of a window [b l c], without position embedding."""

    def __init__(self, width: int, heads: int) -> None:
        super().__init__()
        if width % heads:
            raise ValueError(f"{width} channels cannot be divided among {heads} heads; heads must divide the width")
        self.heads = heads
        self.qkv = Linear(width, 3 * width, bias=True)
        self.proj = Linear(width, width, bias=True)
        self.tap_q = Tap("attention.q", "b l c")
        self.tap_k = Tap("attention.k", "b l c")
        self.tap_v = Tap("attention.v", "b l c")

    def forward(self, x: Tensor) -> Tensor:
        q, k, v = self.qkv(x).chunk(3, dim=-1)
        # [b l c] -> [b heads l c / heads]
        q, k, v = (
            tap(part).unflatten(2, (self.heads, -1)).transpose(1, 2)
            for tap, part in ((self.tap_q, q), (self.tap_k, k), (self.tap_v, v))
        )
        return self.proj(F.scaled_dot_product_attention(q, k, v).transpose(1, 2).flatten(2))


class Block(nn.Module):
    """x + mixer(norm(x)) within every window, then x + mlp(norm(x)).

    A map that is no multiple of the window is padded by the first block of its stage and cropped by the last one: in
    between, the padded cells are tokens like others.
    """

    gamma_1: nn.Parameter | None
    gamma_2: nn.Parameter | None

    def __init__(
        self, config: MambaVisionConfig, width: int, windows: Windows, mixer: nn.Module, *, first: bool, last: bool
    ) -> None:
        super().__init__()
        self.windows, self.first, self.last = windows, first, last
        self.norm1 = nn.LayerNorm(width)
        self.mixer = mixer
        self.norm2 = nn.LayerNorm(width)
        self.mlp = Mlp(width, config.mlp_ratio)
        for name in ("gamma_1", "gamma_2"):
            scale = None if config.layer_scale is None else nn.Parameter(torch.full((width,), config.layer_scale))
            self.register_parameter(name, scale)
        self.tap_out = Tap("block.out", "b l c")

    def forward(self, x: Tensor) -> tuple[Tensor]:
        """Tokens [b l c] of the stage's grid, or of the padded one between the first and the last block."""
        x = self.windows.pad(x) if self.first else x
        mixed = self.windows.join(self.mixer(self.windows.split(self.norm1(x))))
        x = x + _scaled(self.tap_out(mixed), self.gamma_1)
        x = x + _scaled(self.mlp(self.norm2(x)), self.gamma_2)
        return (self.windows.crop(x) if self.last else x,)


def _scaled(x: Tensor, gamma: Tensor | None) -> Tensor:
    return x if gamma is None else x * gamma


class Embed(nn.Module):
    """Two convolutions of stride 2 with batch norm and ReLU: image -> tokens of a quarter of its size."""

    def __init__(self, stem: int, width: int, grid: tuple[int, int]) -> None:
        super().__init__()
        self.conv1 = ImageConv(3, stem, bias=False)
        self.norm1 = TokenBatchNorm(stem, eps=1e-4)
        self.conv2 = TokenConv2d(grid, stem, width, stride=2, site="embed", bias=False)
        self.norm2 = TokenBatchNorm(width, eps=1e-4)

    def forward(self, images: Tensor) -> Tensor:
        return F.relu(self.norm2(self.conv2(F.relu(self.norm1(self.conv1(images))))))


class Shrink(nn.Module):
    """Half the grid, twice the channels."""

    def __init__(self, grid: tuple[int, int], width: int) -> None:
        super().__init__()
        self.conv = TokenConv2d(grid, width, 2 * width, stride=2, site="downsample", bias=False)

    def forward(self, x: Tensor) -> tuple[Tensor]:
        return (self.conv(x),)


class MambaVision(HierarchicalModel):
    """MambaVision classifier; `info` says what the outside may know of it.

    A scan runs within a window. Where one window holds the whole map, as in every released model at its own size, the
    scan's order is that of the map; where there are several, its rows are images x windows (an image's windows row
    by row) and its order is that of one window.
    """

    mark = "stages.0.blocks.0.mixer.conv_gate.weight"

    def __init__(self, config: MambaVisionConfig, name: str = "mambavision") -> None:
        super().__init__()
        stages = (len(config.depths), len(config.heads), len(config.windows))
        if len(set(stages)) > 1:
            raise ValueError(
                f"depths, heads and windows are for {stages[0]}, {stages[1]} and {stages[2]} stages; "
                "give one of each per stage"
            )
        self.config, self.num_classes = config, config.num_classes
        halfway = halved(config.size)
        grid, width = halved(halfway), config.width
        self.embed = Embed(config.stem, width, halfway)
        self.stages, facts = nn.ModuleList(), []
        for number, depth in enumerate(config.depths):
            if number < config.conv_stages:
                blocks: list[nn.Module] = [ConvBlock(grid, width) for _ in range(depth)]
                facts.append(StageInfo(grid, L=grid[0] * grid[1], N=0, E=0, depth=0))
            else:
                windows = Windows(grid, config.windows[number])
                blocks = _token_blocks(config, width, windows, depth, config.heads[number])
                facts.append(StageInfo(grid, windows.side**2, config.states, width // 2, _scanning(depth)))
            last = number + 1 == len(config.depths)
            self.stages.append(Stage(grid, width, blocks, None if last else Shrink(grid, width)))
            if not last:
                grid, width = halved(grid), 2 * width
        self.norm = TokenBatchNorm(width)
        self.head = Linear(width, config.num_classes, bias=True, site="head", axes="b c")
        self.info = config.info(name, "mambavision", facts)
        # the official start: it also sets the biases of the step sizes to zero, which other families leave as drawn
        self.apply(init_linear)

    @classmethod
    def official_name(cls, key: str) -> str:
        return official_key(key)

    @classmethod
    def config_from(cls, shapes: Shapes, config: MambaVisionConfig) -> MambaVisionConfig:
        """Everything but heads and windows, which leave no trace in a checkpoint.

        Raises:
            ValueError: they are known for another number of stages.
        """
        width = shapes.size("embed.conv2.weight", 0, config.width)
        depths = shapes.depths()
        if depths and {len(config.heads), len(config.windows)} != {len(depths)}:
            raise ValueError(
                f"it has {len(depths)} stages, heads and windows are known for {len(config.heads)} and "
                f"{len(config.windows)}, and no checkpoint says what they are; give heads and windows, one for each stage"
            )
        convs = [f"stages.{stage}.blocks.0.conv1.weight" in shapes for stage in range(len(depths))]
        first = convs.index(False) if False in convs else len(depths)
        block, last = f"stages.{first}.blocks.0", max(len(depths) - 1, 0)
        # in the widest stage: of a factor that is rounded off in the others, it has lost least
        hidden = shapes.size(f"stages.{last}.blocks.0.mlp.fc1.weight", 0, int(config.mlp_ratio * width * 2**last))
        scale = config.layer_scale or _LAYER_SCALE
        return replace(
            config,
            width=width,
            stem=shapes.size("embed.conv1.weight", 0, config.stem),
            depths=depths or config.depths,
            conv_stages=first if depths else config.conv_stages,
            layer_scale=scale if f"{block}.gamma_1" in shapes else None,
            states=shapes.size(f"{block}.mixer.scans.0.A_log", -1, config.states),
            kernel=shapes.size(f"{block}.mixer.conv.weight", -1, config.kernel),
            mlp_ratio=ratio(hidden, width * 2**last, config.mlp_ratio),
            num_classes=shapes.size("head.weight", 0, config.num_classes),
        )


def _scanning(depth: int) -> int:
    """How many blocks of a stage scan: the first half, and one more where the depth is odd; the others attend."""
    return (depth + 1) // 2


def _token_blocks(config: MambaVisionConfig, width: int, windows: Windows, depth: int, heads: int) -> list[nn.Module]:
    """Blocks of a stage that scans first and attends then."""
    order = windows.order()
    spec = MixerSpec(
        width=width, inner=width // 2, states=config.states, rank=-(-width // 16), orders=(order,), tokens=order,
        kernel=config.kernel, conv="line", conv_bias=False, gate="concat",
        # the official code adds the bias in dt_proj and hands it to the scan once more; its weights were trained so
        step_biases=2,
    )  # fmt: skip
    return [
        Block(
            config, width, windows, Mixer(spec) if j < _scanning(depth) else Attention(width, heads),
            first=j == 0, last=j + 1 == depth,
        )
        for j in range(depth)
    ]  # fmt: skip


_NAMES = [
    (re.compile(r"^embed\.conv1\."), "patch_embed.conv_down.0."),
    (re.compile(r"^embed\.norm1\."), "patch_embed.conv_down.1."),
    (re.compile(r"^embed\.conv2\."), "patch_embed.conv_down.3."),
    (re.compile(r"^embed\.norm2\."), "patch_embed.conv_down.4."),
    (re.compile(r"^stages\."), "levels."),
    (re.compile(r"shrink\.conv\."), "downsample.reduction.0."),
    (re.compile(r"mixer\.scans\.0\."), "mixer."),
    (re.compile(r"mixer\.conv\."), "mixer.conv1d_x."),
    (re.compile(r"mixer\.conv_gate\."), "mixer.conv1d_z."),
]


def official_key(key: str) -> str:
    """Our state-dict key -> the key of the official checkpoint; one to one."""
    for pattern, name in _NAMES:
        key = pattern.sub(name, key)
    return key


def _released(config: MambaVisionConfig, size: str, top1: float, crop_pct: float = 1.0) -> Variant:
    """`size` as the hub writes it: "T2 tiny2" lies in nvidia/MambaVision-T2-1K as mambavision_tiny2_1k.pth.tar."""
    short, long = size.split()
    file = f"nvidia/MambaVision-{short}-1K:mambavision_{long}_1k.pth.tar"
    return Variant(MambaVision, config, file, top1=top1, crop_pct=crop_pct, license="cc-by-nc-sa-4.0")


mambavision_t = _released(MambaVisionConfig(80, 32, (1, 3, 8, 4)), "T tiny", 82.3)
mambavision_t2 = _released(MambaVisionConfig(80, 32, (1, 3, 11, 4)), "T2 tiny2", 82.7, crop_pct=0.98)
mambavision_s = _released(MambaVisionConfig(96, 64, (3, 3, 7, 5)), "S small", 83.3, crop_pct=0.93)
mambavision_b = _released(MambaVisionConfig(128, 64, (3, 3, 10, 5), layer_scale=_LAYER_SCALE), "B base", 84.2)
mambavision_l = _released(
    MambaVisionConfig(196, 64, (3, 3, 10, 5), (4, 8, 16, 32), layer_scale=_LAYER_SCALE), "L large", 85.0
)
mambavision_l2 = _released(
    MambaVisionConfig(196, 64, (3, 3, 12, 5), (4, 8, 16, 32), layer_scale=_LAYER_SCALE), "L2 large2", 85.3
)
