"""LocalMamba: Mamba blocks whose paths were searched layer by layer among rows, columns, windows and their reverses.

Source: Huang et al. 2024, agrees with hunto/LocalMamba (classification/lib/models): logits and activations of every
block within 5e-5 of the official code. `LocalVMamba` has stages, after the first version of VMamba.
"""

from __future__ import annotations

import re
from dataclasses import dataclass

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from ouro.models.hierarchical import HierarchicalModel, Stage, halved, hierarchical_info, init_linear
from ouro.models.layers import Linear, PatchEmbed
from ouro.models.mixer import Mixer, MixerSpec
from ouro.models.variant import Variant
from ouro.models.vim import IMAGENET_MEAN, IMAGENET_STD
from ouro.models.vmamba import official_key as stacked_key
from ouro.scan.order import column_major, reverse, row_major, window, with_class_token
from ouro.taps import Tap
from ouro.types import ScanOrder, StageInfo
from ouro.vision import OfficialKey

_DIRECTION = re.compile(r"(?:(h)|(v)|w([1-9]\d*))(_flip)?")


def direction(name: str, grid: tuple[int, int], cls_index: int | None = None) -> ScanOrder:
    """The path that a direction's name stands for: "h" rows, "v" columns, "w7" windows of 7 x 7; "_flip" from the end.

    The class token is no part of the map: it is read at step `cls_index` of every path, reversed or not.

    Raises:
        ValueError: no such direction.
    """
    match = _DIRECTION.fullmatch(name)
    if match is None:
        raise ValueError(f"unknown direction {name!r}; known: h, v, w2, w7 (any window size), each also with _flip")
    # officially a column path is only undone right on square maps; our way back is always the inverse
    order = row_major(grid) if match[1] else column_major(grid) if match[2] else window(grid, int(match[3]))
    if match[4]:
        order = reverse(order)
    return order if cls_index is None else with_class_token(order, cls_index)


@dataclass(frozen=True, slots=True)
class LocalVMambaConfig:
    """What makes one LocalVMamba differ from another; `width` is that of the first stage, doubled in each later one.

    directions: names of the paths of every block, through all stages; see `direction`.
    """

    width: int
    depths: tuple[int, ...]
    directions: tuple[tuple[str, ...], ...]
    expand: float = 2.0
    states: int = 16
    kernel: int = 3
    patch: int = 4
    image: int = 224
    num_classes: int = 1000
    mean: tuple[float, ...] = IMAGENET_MEAN
    std: tuple[float, ...] = IMAGENET_STD
    class_names: tuple[str, ...] = ()


class MapBlock(nn.Module):
    """x + mixer(norm(x)); no MLP."""

    def __init__(self, spec: MixerSpec) -> None:
        super().__init__()
        self.norm = nn.LayerNorm(spec.width)
        self.mixer = Mixer(spec)
        self.tap_out = Tap("block.out", "b l c")

    def forward(self, x: Tensor) -> tuple[Tensor]:
        return (x + self.tap_out(self.mixer(self.norm(x))),)


class Embed(nn.Module):
    """Patches of the image as normalised tokens."""

    def __init__(self, patch: int, width: int) -> None:
        super().__init__()
        self.patches = PatchEmbed(patch, patch, 3, width)
        self.norm = nn.LayerNorm(width)

    def forward(self, images: Tensor) -> Tensor:
        return self.norm(self.patches(images))


class Shrink(nn.Module):
    """Half the grid, twice the channels: every 2 x 2 tokens become one by a linear layer."""

    def __init__(self, grid: tuple[int, int], width: int) -> None:
        super().__init__()
        self.grid = grid
        self.norm = nn.LayerNorm(4 * width)
        self.reduction = Linear(4 * width, 2 * width, bias=False, site="downsample")

    def forward(self, x: Tensor) -> tuple[Tensor]:
        maps = F.pad(x.unflatten(1, self.grid), (0, 0, 0, self.grid[1] % 2, 0, self.grid[0] % 2))
        # down the columns first: (row, column) = (0, 0), (1, 0), (0, 1), (1, 1)
        parts = [maps[:, row::2, column::2] for column in (0, 1) for row in (0, 1)]
        return (self.reduction(self.norm(torch.cat(parts, dim=-1).flatten(1, 2))),)


class LocalVMamba(HierarchicalModel):
    """LocalVMamba classifier; `info` says what the outside may know of it."""

    def __init__(self, config: LocalVMambaConfig, name: str = "localvmamba") -> None:
        super().__init__()
        _check_directions(config.directions, sum(config.depths))
        self.config, self.num_classes = config, config.num_classes
        side, width = config.image // config.patch, config.width
        grid = (side, side)
        self.embed = Embed(config.patch, width)
        self.stages, facts, paths = nn.ModuleList(), [], iter(config.directions)
        for number, depth in enumerate(config.depths, 1):
            inner = int(config.expand * width)
            blocks = []
            for _ in range(depth):
                spec = MixerSpec(
                    width=width, inner=inner, states=config.states, rank=-(-width // 16),
                    orders=tuple(direction(path, grid) for path in next(paths)), tokens=row_major(grid),
                    kernel=config.kernel, conv="grid", norm=True, channel_attention=True,
                )  # fmt: skip
                blocks.append(MapBlock(spec))
            last = number == len(config.depths)
            self.stages.append(Stage(grid, width, blocks, None if last else Shrink(grid, width)))
            facts.append(StageInfo(grid, grid[0] * grid[1], config.states, inner, depth))
            if not last:
                grid, width = halved(grid), 2 * width
        self.norm = nn.LayerNorm(width)
        self.head = Linear(width, config.num_classes, bias=True, site="head", axes="b c")
        self.info = hierarchical_info(name, "localvmamba", config, facts)
        for path, module in self.named_modules():
            # the official code stacks what belongs to one scan, and its start for linear layers passes that by
            if ".scans." not in path:
                init_linear(module)

    def official(self, key: str) -> OfficialKey:
        scans = 1
        if match := re.match(r"stages\.(\d+)\.blocks\.(\d+)\.", key):
            scans = len(self.config.directions[sum(self.config.depths[: int(match[1])]) + int(match[2])])
        return stacked_key(key, scans, _NAMES)


_NAMES = [
    (re.compile(r"^embed\.patches\.proj\."), "patch_embed.0."),
    (re.compile(r"^embed\.norm\."), "patch_embed.2."),
    (re.compile(r"^(norm|head)\."), r"classifier.\1."),
    (re.compile(r"^stages\."), "layers."),
    (re.compile(r"shrink\."), "downsample."),
    (re.compile(r"mixer\.norm\."), "op.out_norm."),
    (re.compile(r"mixer\.conv\."), "op.conv2d."),
    (re.compile(r"mixer\.attention\."), "op.multi_scan.attn."),
    (re.compile(r"attn\.reduce\."), "attn.global_reduce."),
    (re.compile(r"attn\.select\."), "attn.channel_select."),
    (re.compile(r"mixer\."), "op."),
]


def _check_directions(directions: tuple[tuple[str, ...], ...], depth: int) -> None:
    if len(directions) != depth:
        raise ValueError(f"directions are given for {len(directions)} blocks, the depths make {depth}")


def _paths(table: str) -> tuple[tuple[str, ...], ...]:
    """Directions written one block a line."""
    return tuple(tuple(line.split()) for line in table.strip().splitlines())


_RELEASES = "https://github.com/hunto/LocalMamba/releases/download/v1.0.0/"

_LOCALVMAMBA_TINY = _paths("""
    h h_flip w7 w7_flip
    h_flip v_flip w2 w2_flip
    h_flip v_flip w2_flip w7
    h_flip v v_flip w2
    h h_flip v_flip w2_flip
    h_flip v_flip w2 w2_flip
    h w2_flip w7 w7_flip
    h h_flip v v_flip
    h v_flip w7 w7_flip
    h_flip v w2 w7_flip
    v v_flip w2 w7_flip
    h h_flip v_flip w2_flip
    v_flip w2_flip w7 w7_flip
    h_flip v_flip w2_flip w7_flip
    h_flip v w7 w7_flip
""")
_LOCALVMAMBA_SMALL = _paths("""
    h v v_flip w7_flip
    h h_flip v w7
    h_flip v v_flip w7
    h_flip v w2_flip w7
    h_flip v w2_flip w7
    h_flip v_flip w2 w7_flip
    h_flip v v_flip w7
    h v v_flip w7
    h v v_flip w7
    h v v_flip w7_flip
    h h_flip v v_flip
    h v v_flip w2
    v v_flip w2_flip w7
    h h_flip v w2
    h_flip v v_flip w7_flip
    h h_flip v v_flip
    h v v_flip w7_flip
    h v v_flip w7_flip
    h h_flip v_flip w7
    h_flip v_flip w2_flip w7
    h_flip v v_flip w7_flip
    v v_flip w7 w7_flip
    h v v_flip w7_flip
    h_flip v v_flip w2
    h v v_flip w2_flip
    h h_flip v w7
    h h_flip w7 w7_flip
    h v_flip w2 w2_flip
    h v_flip w2 w7
    h v v_flip w7_flip
    h_flip v w2_flip w7
    h_flip v_flip w7 w7_flip
    h v w7 w7_flip
""")

# nobody published weights of the tiny one
localvmamba_tiny = Variant(LocalVMamba, LocalVMambaConfig(96, (2, 2, 9, 2), _LOCALVMAMBA_TINY), top1=82.7)
localvmamba_small = Variant(
    LocalVMamba,
    LocalVMambaConfig(96, (2, 2, 27, 2), _LOCALVMAMBA_SMALL),
    _RELEASES + "local_vssm_small.ckpt",
    top1=83.7,
)
