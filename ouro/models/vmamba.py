"""VMamba: four stages of blocks whose mixer scans the map along rows and columns, forward and backward.

Source: Liu et al. 2024, agrees with MzeroMiko/VMamba (classification/models/vmamba.py, forward type "v05_noz", as
released): logits and activations of every block within 5e-5 of the official code.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass, replace

from torch import Tensor, nn
from torch.nn import functional as F

from ouro.models.config import ClassifierConfig, Depth, Ratio, Size
from ouro.models.family import OfficialKey
from ouro.models.hierarchical import HierarchicalModel, Stage, halved, init_linear
from ouro.models.layers import ImageConv, Linear, Mlp, TokenConv2d
from ouro.models.mixer import Mixer, MixerSpec
from ouro.models.shapes import Shapes, ratio
from ouro.models.variant import Variant
from ouro.scan.order import column_major, reverse, row_major
from ouro.taps import Tap
from ouro.types import StageInfo


@dataclass(frozen=True, slots=True)
class VMambaConfig(ClassifierConfig):
    """What makes one VMamba differ from another; `width` is that of the first stage, each later one has twice as much.

    expand: channels of a scan per channel of the tokens ("ssm_ratio").
    """

    width: Size
    depths: tuple[Depth, ...]
    expand: Ratio
    states: Size = 1
    kernel: Size = 3
    mlp_ratio: Ratio = 4.0


class Block(nn.Module):
    """x + mixer(norm(x)), then x + mlp(norm(x))."""

    def __init__(self, spec: MixerSpec, mlp_ratio: float) -> None:
        super().__init__()
        self.norm = nn.LayerNorm(spec.width)
        self.mixer = Mixer(spec)
        self.norm2 = nn.LayerNorm(spec.width)
        self.mlp = Mlp(spec.width, mlp_ratio)
        self.tap_out = Tap("block.out", "b l c")

    def forward(self, x: Tensor) -> tuple[Tensor]:
        x = x + self.tap_out(self.mixer(self.norm(x)))
        return (x + self.mlp(self.norm2(x)),)


class Embed(nn.Module):
    """Two convolutions of stride 2: image -> tokens of a quarter of its size."""

    def __init__(self, width: int, grid: tuple[int, int]) -> None:
        super().__init__()
        self.conv1 = ImageConv(3, width // 2, bias=True)
        self.norm1 = nn.LayerNorm(width // 2)
        self.conv2 = TokenConv2d(grid, width // 2, width, stride=2, site="embed")
        self.norm2 = nn.LayerNorm(width)

    def forward(self, images: Tensor) -> Tensor:
        return self.norm2(self.conv2(F.gelu(self.norm1(self.conv1(images)))))


class Shrink(nn.Module):
    """Half the grid, twice the channels."""

    def __init__(self, grid: tuple[int, int], width: int) -> None:
        super().__init__()
        self.conv = TokenConv2d(grid, width, 2 * width, stride=2, site="downsample")
        self.norm = nn.LayerNorm(2 * width)

    def forward(self, x: Tensor) -> tuple[Tensor]:
        return (self.norm(self.conv(x)),)


class VMamba(HierarchicalModel):
    """VMamba classifier; `info` says what the outside may know of it."""

    mark = "stages.0.blocks.0.mixer.scans.0.x_proj.weight"

    def __init__(self, config: VMambaConfig, name: str = "vmamba") -> None:
        super().__init__()
        self.config, self.num_classes = config, config.num_classes
        halfway = halved(config.size)
        grid, width = halved(halfway), config.width
        self.embed = Embed(width, halfway)
        self.stages, facts = nn.ModuleList(), []
        for number, depth in enumerate(config.depths, 1):
            rows, columns = row_major(grid), column_major(grid)
            spec = MixerSpec(
                width=width, inner=int(config.expand * width), states=config.states, rank=-(-width // 16),
                orders=(rows, columns, reverse(rows), reverse(columns)), tokens=rows, kernel=config.kernel,
                conv="grid", conv_bias=False, gate="none", norm=True,
            )  # fmt: skip
            blocks = [Block(spec, config.mlp_ratio) for _ in range(depth)]
            last = number == len(config.depths)
            self.stages.append(Stage(grid, width, blocks, None if last else Shrink(grid, width)))
            facts.append(StageInfo(grid, grid[0] * grid[1], config.states, spec.inner, depth))
            if not last:
                grid, width = halved(grid), 2 * width
        self.norm = nn.LayerNorm(width)
        self.head = Linear(width, config.num_classes, bias=True, site="head", axes="b c")
        self.info = config.info(name, "vmamba", facts)
        _init(self)

    @classmethod
    def official_name(cls, key: str) -> str:
        return official_key(current_name(key)).key

    @classmethod
    def config_from(cls, shapes: Shapes, config: VMambaConfig) -> VMambaConfig:
        first, width = "stages.0.blocks.0", shapes.size("embed.conv2.weight", 0, config.width)
        depths = shapes.depths() or config.depths
        # in the widest stage: of a factor that is rounded off in the others, it has lost least
        last, widest = f"stages.{len(depths) - 1}.blocks.0", width * 2 ** (len(depths) - 1)
        inner = shapes.size(f"{last}.mixer.out_proj.weight", 1, int(config.expand * widest))
        hidden = shapes.size(f"{last}.mlp.fc1.weight", 0, int(config.mlp_ratio * widest))
        return replace(
            config,
            width=width,
            depths=depths,
            expand=ratio(inner, widest, config.expand),
            states=shapes.size(f"{first}.mixer.scans.0.A_log", -1, config.states),
            kernel=shapes.size(f"{first}.mixer.conv.weight", -1, config.kernel),
            mlp_ratio=ratio(hidden, widest, config.mlp_ratio),
            num_classes=shapes.size("head.weight", 0, config.num_classes),
        )

    @classmethod
    def foreign(cls, shapes: Shapes) -> str:
        first = "stages.0.blocks.0"
        inner = shapes.size(f"{first}.mixer.out_proj.weight", 1, 0)
        signs = {
            "a patch embedding in one step (patchembed_version v1)": "embed.conv2.weight" not in shapes,
            "blocks without MLP (mlp_ratio 0)": not shapes.anywhere(f"{first}.mlp.fc1.weight"),
            "a gate in its mixers (forward_type without noz)": shapes.size(f"{first}.mixer.in_proj.weight", 0, inner)
            != inner,
            "a bias in its mixers' convolutions (ssm_conv_bias)": shapes.anywhere(f"{first}.mixer.conv.bias"),
            "patch merging between its stages (downsample_version v1)": "layers.0.downsample.reduction.weight"
            in shapes,
            "2 x 2 convolutions between its stages (downsample_version v2)": shapes.size(
                "stages.0.shrink.conv.weight", -1, 3
            )
            == 2,
            "no LayerNorm in its mixers (forward_type ...none)": not shapes.anywhere(f"{first}.mixer.norm.weight"),
        }
        return ", ".join(sign for sign, there in signs.items() if there)

    def official(self, key: str) -> OfficialKey:
        return official_key(key)

    def from_official(self, state: dict[str, Tensor]) -> dict[str, Tensor]:
        """As for every family; also takes the names of early releases, and 1x1 convolutions for linear layers."""
        wanted = self.state_dict()
        renamed = super().from_official({current_name(key): value for key, value in state.items()})
        return {
            key: value.flatten(1) if key in wanted and _is_pointwise(value, wanted[key]) else value
            for key, value in renamed.items()
        }


_STACKED = {
    "x_proj.weight": "x_proj_weight",
    "dt_proj.weight": "dt_projs_weight",
    "dt_proj.bias": "dt_projs_bias",
    "A_log": "A_logs",
    "D": "Ds",
}
"""Tensor of one scan -> official tensor in which those of all scans are stacked."""
_SCAN = re.compile(r"(.*)mixer\.scans\.(\d)\.(.+)")
_NAMES = [
    (re.compile(r"^embed\.conv1\."), "patch_embed.0."),
    (re.compile(r"^embed\.norm1\."), "patch_embed.2."),
    (re.compile(r"^embed\.conv2\."), "patch_embed.5."),
    (re.compile(r"^embed\.norm2\."), "patch_embed.7."),
    (re.compile(r"^(norm|head)\."), r"classifier.\1."),
    (re.compile(r"^stages\."), "layers."),
    (re.compile(r"shrink\.conv\."), "downsample.1."),
    (re.compile(r"shrink\.norm\."), "downsample.3."),
    (re.compile(r"mixer\.norm\."), "op.out_norm."),
    (re.compile(r"mixer\.conv\."), "op.conv2d."),
    (re.compile(r"mixer\."), "op."),
]


def official_key(key: str, scans: int = 4, names: Sequence[tuple[re.Pattern[str], str]] = _NAMES) -> OfficialKey:
    """Our state-dict key -> its place in an official checkpoint that stacks what belongs to single scans."""
    part, parts = 0, 1
    if (match := _SCAN.match(key)) and match[3] in _STACKED:
        key, part, parts = f"{match[1]}mixer.{_STACKED[match[3]]}", int(match[2]), scans
    for pattern, name in names:
        key = pattern.sub(name, key)
    return OfficialKey(key, part, parts)


_EARLY = [
    (re.compile(r"^patch_embed\.proj\."), "patch_embed.0."),
    (re.compile(r"^patch_embed\.norm\."), "patch_embed.2."),
    (re.compile(r"^(layers\.\d+\.blocks\.\d+)\.ln_1\."), r"\1.norm."),
    (re.compile(r"^(layers\.\d+\.blocks\.\d+)\.self_attention\."), r"\1.op."),
    (re.compile(r"^(norm|head)\."), r"classifier.\1."),
]


def current_name(key: str) -> str:
    """A key of an early official checkpoint -> what the official code has called it since."""
    for pattern, name in _EARLY:
        key = pattern.sub(name, key)
    return key


def _is_pointwise(value: Tensor, wanted: Tensor) -> bool:
    return value.dim() == 4 and wanted.dim() == 2 and value.shape[2:] == (1, 1)


def _init(model: VMamba) -> None:
    """Official start: truncated normal linears; those that make a scan's operands stay as the mixer draws them."""
    for path, module in model.named_modules():
        if not path.endswith(("x_proj", "dt_proj")):
            init_linear(module)


_RELEASES = "https://github.com/MzeroMiko/VMamba/releases/download/%23v2cls/"


def _small(width: int, file: str, top1: float) -> Variant:
    return Variant(VMamba, VMambaConfig(width, (2, 2, 15, 2), expand=2.0), _RELEASES + file, top1=top1, license="mit")


vmamba_tiny = Variant(
    VMamba, VMambaConfig(96, (2, 2, 8, 2), expand=1.0), _RELEASES + "vssm1_tiny_0230s_ckpt_epoch_264.pth",
    top1=82.6, license="mit",
)  # fmt: skip
vmamba_small = _small(96, "vssm_small_0229_ckpt_epoch_222.pth", 83.6)
vmamba_base = _small(128, "vssm_base_0229_ckpt_epoch_237.pth", 83.9)
