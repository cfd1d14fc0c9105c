"""LocalMamba: Mamba blocks whose paths were searched layer by layer among rows, columns, windows and their reverses.

Source: Huang et al. 2024, agrees with hunto/LocalMamba (classification/lib/models): logits and activations of every
block within 5e-5 of the official code. `LocalVim` is a plain stack, after Vim; `LocalVMamba` has stages, after the first
version of VMamba.
"""

from __future__ import annotations

import re
from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from ouro.models.config import ClassifierConfig, Depth, Ratio, Size
from ouro.models.family import OfficialKey
from ouro.models.hierarchical import HierarchicalModel, Stage, halved, init_linear
from ouro.models.layers import Linear, PatchEmbed
from ouro.models.mixer import Mixer, MixerSpec
from ouro.models.shapes import Shapes, ratio
from ouro.models.variant import Variant
from ouro.models.vim import Block, StackedModel, rescaled
from ouro.models.vmamba import official_key as stacked_key
from ouro.scan.order import column_major, reverse, row_major, window, with_class_token
from ouro.taps import Tap
from ouro.types import ScanOrder, StageInfo

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
class LocalVimConfig(ClassifierConfig):
    """What makes one LocalVim differ from another.

    directions: names of the paths of every layer, which there are as many of; see `direction`.
    rope: rotate the tokens by their place before every layer.
    """

    width: Size
    directions: tuple[tuple[str, ...], ...]
    rope: bool = True
    class_token: bool = False
    patch: Size = 16
    states: Size = 16
    kernel: Size = 4
    expand: Size = 2

    @property
    def depth(self) -> int:
        """Layers."""
        return len(self.directions)


class Rope(nn.Module):
    """Rotates tokens [b l c] by their place in the grid: the first half of the channels by row, the other by column.

    Every pair of neighbouring channels turns by place * 10000^(-pair / pairs). Places run to 14 on a grid of any size;
    this is the table of the official code for that size, which official checkpoints hold and we make anew.
    """

    cos: Tensor
    sin: Tensor

    def __init__(self, width: int, grid: tuple[int, int]) -> None:
        super().__init__()
        speeds = 10000.0 ** -(torch.arange(0, width // 2, 2).float() / (width // 2))
        row, column = (
            torch.outer(torch.arange(side) / side * 14, speeds).repeat_interleave(2, dim=1)  # [side c/2]
            for side in grid
        )
        angles = torch.cat([row.repeat_interleave(grid[1], dim=0), column.repeat(grid[0], 1)], dim=1)  # [l c]
        self.register_buffer("cos", angles.cos(), persistent=False)
        self.register_buffer("sin", angles.sin(), persistent=False)

    def forward(self, x: Tensor) -> Tensor:
        even, odd = x.unflatten(-1, (-1, 2)).unbind(-1)
        return x * self.cos + torch.stack([-odd, even], dim=-1).flatten(-2) * self.sin


class RotatingBlock(Block):
    """A block that turns its tokens by their place first."""

    def __init__(self, width: int, mixer: Mixer, rope: Rope) -> None:
        super().__init__(width, mixer)
        self.rope = rope

    def forward(self, hidden: Tensor, residual: Tensor | None) -> tuple[Tensor, Tensor]:
        # officially the running sum is turned as well, once more by every layer
        return super().forward(self.rope(hidden), None if residual is None else self.rope(residual))


class LocalVim(StackedModel):
    """LocalVim classifier; `info` says what the outside may know of it."""

    mark = "layers.0.mixer.attention.select.weight"

    def __init__(self, config: LocalVimConfig, name: str = "localvim") -> None:
        if any(side % config.patch for side in config.size) or config.width % 4:
            raise ValueError(
                f"image is {config.image} and width {config.width}, expected multiples of patch = {config.patch} and of 4"
            )
        if config.rope and config.class_token:
            raise ValueError("a class token has no place to be rotated by; set rope or class_token to False")
        super().__init__(config, name, "localvim", stride=config.patch, class_token=config.class_token)
        _init_localvim(self)

    def make_block(self, number: int) -> Block:
        config, stage = self.config, self.info.stages[0]
        spec = MixerSpec(
            width=config.width, inner=stage.E, states=stage.N, rank=-(-config.width // 16),
            orders=tuple(direction(path, stage.grid, self.cls_index) for path in config.directions[number]),
            tokens=row_major(stage.grid, self.cls_index), kernel=config.kernel, gate="path", channel_attention=True,
        )  # fmt: skip
        mixer = rescaled(Mixer(spec), config.depth)
        return (
            RotatingBlock(config.width, mixer, Rope(config.width, stage.grid))
            if config.rope
            else Block(config.width, mixer)
        )

    @classmethod
    def official_name(cls, key: str) -> str:
        for pattern, name in _VIM_NAMES:
            key = pattern.sub(name, key)
        return key

    @classmethod
    def read_layers(cls, shapes: Shapes, config: LocalVimConfig, patch: int) -> dict[str, Any]:
        tables, class_token = "rope.freqs_cos" in shapes, "cls_token" in shapes
        # our own files hold no tables, so that there are none says nothing
        rope = tables or (config.rope and not class_token)
        return {"rope": rope, "directions": _directions_for(shapes.count("layers."), config.directions)}

    def from_official(self, state: dict[str, Tensor]) -> dict[str, Tensor]:
        """As for every family; the official tables of angles are left out, they follow from the grid."""
        return super().from_official({key: value for key, value in state.items() if not key.startswith("rope.freqs_")})


def _init_localvim(model: LocalVim) -> None:
    """Official start: unlike Vim's it gives every linear layer but out_proj small weights and no bias."""
    if model.cls_token is not None:
        nn.init.zeros_(model.cls_token)
    for path, module in model.layers.named_modules():
        # step sizes too lose what the mixer drew: they all start at softplus(0)
        if not path.endswith("out_proj"):
            init_linear(module)


@dataclass(frozen=True, slots=True)
class LocalVMambaConfig(ClassifierConfig):
    """What makes one LocalVMamba differ from another; `width` is that of the first stage, doubled in each later one.

    directions: names of the paths of every block, through all stages; see `direction`.
    """

    width: Size
    depths: tuple[Depth, ...]
    directions: tuple[tuple[str, ...], ...]
    expand: Ratio = 2.0
    states: Size = 16
    kernel: Size = 3
    patch: Size = 4


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

    mark = "stages.0.blocks.0.mixer.attention.select.weight"

    def __init__(self, config: LocalVMambaConfig, name: str = "localvmamba") -> None:
        super().__init__()
        _check_directions(config.directions, sum(config.depths))
        self.config, self.num_classes = config, config.num_classes
        if min(config.size) < config.patch:
            raise ValueError(f"image is {config.image}, expected at least one patch of {config.patch} on either side")
        grid, width = (config.size[0] // config.patch, config.size[1] // config.patch), config.width
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
        self.info = config.info(name, "localvmamba", facts)
        for path, module in self.named_modules():
            # the official code stacks what belongs to one scan, and its start for linear layers passes that by
            if ".scans." not in path:
                init_linear(module)

    @classmethod
    def official_name(cls, key: str) -> str:
        return stacked_key(key, 1, _VMAMBA_NAMES).key

    @classmethod
    def config_from(cls, shapes: Shapes, config: LocalVMambaConfig) -> LocalVMambaConfig:
        first = "stages.0.blocks.0.mixer"
        width = shapes.size("embed.patches.proj.weight", 0, config.width)
        depths = shapes.depths() or config.depths
        # in the widest stage: of a factor that is rounded off in the others, it has lost least
        last, widest = f"stages.{len(depths) - 1}.blocks.0.mixer", width * 2 ** (len(depths) - 1)
        inner = shapes.size(f"{last}.out_proj.weight", 1, int(config.expand * widest))
        return replace(
            config,
            width=width,
            patch=shapes.size("embed.patches.proj.weight", -1, config.patch),
            depths=depths,
            directions=_directions_for(sum(depths), config.directions),
            expand=ratio(inner, widest, config.expand),
            states=shapes.size(f"{first}.scans.0.A_log", -1, config.states),
            kernel=shapes.size(f"{first}.conv.weight", -1, config.kernel),
            num_classes=shapes.size("head.weight", 0, config.num_classes),
        )

    def official(self, key: str) -> OfficialKey:
        scans = 1
        if match := re.match(r"stages\.(\d+)\.blocks\.(\d+)\.", key):
            scans = len(self.config.directions[sum(self.config.depths[: int(match[1])]) + int(match[2])])
        return stacked_key(key, scans, _VMAMBA_NAMES)


_VIM_NAMES = [
    (re.compile(r"mixer\.scans\.(\d+)\.(A_log|D|conv1d|x_proj|dt_proj)"), r"mixer.\2_\1"),
    (re.compile(r"mixer\.attention\."), "mixer.attn."),
    (re.compile(r"attn\.reduce\."), "attn.global_reduce."),
    (re.compile(r"attn\.select\."), "attn.channel_select."),
]
_VMAMBA_NAMES = [
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


def _directions_for(blocks: int, directions: tuple[tuple[str, ...], ...]) -> tuple[tuple[str, ...], ...]:
    """The paths of so many blocks: the known ones, if they are as many.

    Raises:
        ValueError: no checkpoint says which paths its blocks were trained on.
    """
    if not blocks or len(directions) == blocks:
        return directions
    raise ValueError(
        f"it has {blocks} blocks, paths are known for {len(directions)}, and no checkpoint says which it was trained on; "
        f"give directions, for each block a tuple such as {directions[0]}"
    )


def _check_directions(directions: tuple[tuple[str, ...], ...], depth: int) -> None:
    if len(directions) != depth:
        raise ValueError(f"directions are given for {len(directions)} blocks, the depths make {depth}")


def _paths(table: str) -> tuple[tuple[str, ...], ...]:
    """Directions written one block a line."""
    return tuple(tuple(line.split()) for line in table.strip().splitlines())


_RELEASES = "https://github.com/hunto/LocalMamba/releases/download/v1.0.0/"

_LOCALVIM_TINY = _paths("""
    h v_flip w7 w7_flip
    h_flip w2_flip w7 w7_flip
    h h_flip v w7
    h h_flip v v_flip
    h h_flip v v_flip
    h h_flip v v_flip
    h_flip v v_flip w7
    h_flip v v_flip w2_flip
    h h_flip v v_flip
    h h_flip v v_flip
    h v v_flip w2
    h v v_flip w2_flip
    h h_flip v_flip w7
    h_flip v v_flip w2
    h h_flip v v_flip
    h v w2 w2_flip
    v v_flip w2 w7
    h h_flip v w2
    h h_flip w2_flip w7
    v v_flip w2 w2_flip
""")
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

localvim_tiny = Variant(LocalVim, LocalVimConfig(192, _LOCALVIM_TINY), _RELEASES + "local_vim_tiny.ckpt", top1=76.2)
localvim_tiny_cls = Variant(
    LocalVim, LocalVimConfig(192, _LOCALVIM_TINY, rope=False, class_token=True),
    _RELEASES + "local_vim_tiny_middle_cls_token.ckpt", top1=77.8,
)  # fmt: skip
# officially defined twice: the second definition wins, and has the same four paths in every layer instead of searched
# ones; no weights, because the link to them leads to those of localvmamba_small
localvim_small = Variant(LocalVim, LocalVimConfig(384, (("h", "h_flip", "w2", "w2_flip"),) * 20), top1=81.1)
# nobody published weights of the tiny one
localvmamba_tiny = Variant(LocalVMamba, LocalVMambaConfig(96, (2, 2, 9, 2), _LOCALVMAMBA_TINY), top1=82.7)
localvmamba_small = Variant(
    LocalVMamba,
    LocalVMambaConfig(96, (2, 2, 27, 2), _LOCALVMAMBA_SMALL),
    _RELEASES + "local_vssm_small.ckpt",
    top1=83.7,
)
