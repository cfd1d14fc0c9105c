"""Vim: a plain stack of bidirectional Mamba mixers over image patches, class token in the middle.

Source: Zhu et al. 2024, agrees with hustvl/Vim (vim/models_mamba.py, entry points "..._midclstok_div2"): logits and
activations of every layer within 5e-5 of the official code. Its names for weights are translated by `official_key`.
"""

from __future__ import annotations

import re
from abc import abstractmethod
from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import Tensor, nn

from ouro.models.config import ClassifierConfig, Depth, Size
from ouro.models.features import Backbone
from ouro.models.layers import Linear, PatchEmbed, RMSNorm
from ouro.models.mixer import Mixer, MixerSpec
from ouro.models.shapes import Shapes, is_square, read_image
from ouro.models.variant import Variant
from ouro.scan.order import reverse, row_major
from ouro.taps import Tap
from ouro.types import StageInfo


@dataclass(frozen=True, slots=True)
class VimConfig(ClassifierConfig):
    """What makes one Vim differ from another; patches overlap where stride is less than patch.

    class_token: classify from a token in the middle of the sequence, else from the mean token.
    """

    width: Size
    depth: Depth = 24
    patch: Size = 16
    stride: Size = 16
    states: Size = 16
    kernel: Size = 4
    expand: Size = 2
    class_token: bool = True


class Block(nn.Module):
    """mixer(norm(residual)); the residual sum itself is carried by the model."""

    def __init__(self, width: int, mixer: Mixer) -> None:
        super().__init__()
        self.norm = RMSNorm(width)
        self.mixer = mixer
        self.tap_out = Tap("block.out", "b l c")

    def forward(self, hidden: Tensor, residual: Tensor | None) -> tuple[Tensor, Tensor]:
        residual = hidden if residual is None else residual + hidden
        return self.tap_out(self.mixer(self.norm(residual))), residual


class StackedModel(Backbone):
    """Blocks over one grid of patches that hand on their own output and the sum of all before; a family makes the blocks.

    Classified from a class token in the middle of the sequence, or from the mean token where there is none. The features
    behind a block are the sum of all until then, without the class token.
    """

    state_parts = 2
    unit = "layer"
    head: nn.Module
    norm_f: nn.Module

    def __init__(self, config: Any, name: str, family: str, *, stride: int, class_token: bool) -> None:
        super().__init__()
        if min(config.size) < config.patch:
            raise ValueError(f"image is {config.image}, expected at least one patch of {config.patch} on either side")
        height, width = ((side - config.patch) // stride + 1 for side in config.size)
        grid, cells = (height, width), height * width
        # the class token sits in the middle of the sequence, where both directions have read half the image
        self.cls_index = cells // 2 if class_token else None
        length = cells + class_token
        self.config = config
        self.num_classes = config.num_classes
        stage = StageInfo(grid, length, config.states, config.expand * config.width, config.depth)
        self.info = config.info(name, family, (stage,), self.cls_index)
        self.patch_embed = PatchEmbed(config.patch, stride, 3, config.width)
        self.cls_token = nn.Parameter(torch.zeros(1, 1, config.width)) if class_token else None
        self.pos_embed = nn.Parameter(torch.zeros(1, length, config.width))
        if self.cls_token is not None:
            nn.init.trunc_normal_(self.cls_token, std=0.02)
        nn.init.trunc_normal_(self.pos_embed, std=0.02)
        self.layers = nn.ModuleList(self.make_block(number) for number in range(config.depth))
        self.norm_f = RMSNorm(config.width)
        self.head = Linear(config.width, config.num_classes, bias=True, site="head", axes="b c")
        nn.init.trunc_normal_(self.head.weight, std=0.02)
        nn.init.zeros_(self.head.bias)

    @classmethod
    def config_from(cls, shapes: Shapes, config: Any) -> Any:
        """Everything but the stride of the patches, which is taken to overlap as much as those of `config`."""
        scan = "layers.0.mixer.scans.0"
        width = shapes.size("patch_embed.proj.weight", 0, config.width)
        patch = shapes.size("patch_embed.proj.weight", -1, config.patch)
        inner = shapes.size("layers.0.mixer.out_proj.weight", 1, config.expand * width)
        changes = {
            "width": width,
            "patch": patch,
            "states": shapes.size(f"{scan}.A_log", -1, config.states),
            "kernel": shapes.size(f"{scan}.conv1d.weight", -1, config.kernel),
            "expand": inner // max(width, 1),
            "num_classes": shapes.size("head.weight", 0, config.num_classes),
        } | cls.read_layers(shapes, config, patch)
        stride = changes.get("stride", patch)
        rows, class_token = shapes.size("pos_embed", 1, 0), "cls_token" in shapes
        if rows:
            # a square and one more: the token belongs there, and its tensor was lost
            class_token |= is_square(rows - 1) and not is_square(rows)
            changes["class_token"] = class_token
            changes["image"] = read_image(rows - class_token, config.image, patch, stride, shapes.grid)
        return replace(config, **changes)

    @classmethod
    @abstractmethod
    def read_layers(cls, shapes: Shapes, config: Any, patch: int) -> dict[str, Any]:
        """What the family's own fields are, by the layers in a checkpoint."""

    @abstractmethod
    def make_block(self, number: int) -> Block:
        """The block of layer `number`; `config` and `info` are there already."""

    def stem(self, images: Tensor) -> tuple[Tensor, None]:
        """images [b 3 h w] -> (hidden, residual)."""
        self.check_images(images)
        tokens = self.patch_embed(images)
        if self.cls_token is not None:
            cls_token = self.cls_token.expand(tokens.shape[0], -1, -1)
            tokens = torch.cat([tokens[:, : self.cls_index], cls_token, tokens[:, self.cls_index :]], dim=1)
        return tokens + self.pos_embed, None

    def blocks(self) -> dict[str, nn.Module]:
        return {f"layers.{i}": block for i, block in enumerate(self.layers)}

    @property
    def feature_info(self) -> list[dict[str, Any]]:
        stride = self.patch_embed.proj.stride[0]
        return [
            {"num_chs": self.config.width, "reduction": stride, "module": f"layers.{i}"}
            for i in range(len(self.layers))
        ]

    def feature_grid(self, index: int) -> tuple[int, int]:
        return self.info.stages[0].grid

    def spatial(self, hidden: Tensor, residual: Tensor | None) -> Tensor:
        tokens = hidden if residual is None else residual + hidden
        if self.cls_index is None:
            return tokens
        return torch.cat([tokens[:, : self.cls_index], tokens[:, self.cls_index + 1 :]], dim=1)

    def normed(self, tokens: Tensor, index: int) -> Tensor:
        return self.norm_f(tokens)

    def keep(self, count: int) -> None:
        self.layers = self.layers[:count]

    def drop_ends(self, norm: bool, head: bool) -> None:
        self.norm_f = nn.Identity() if norm else self.norm_f
        self.head = nn.Identity() if head else self.head

    def tail(self, hidden: Tensor, residual: Tensor | None) -> Tensor:
        """The last state -> normalised tokens [b l c], class token at `info.cls_index`."""
        return self.norm_f(hidden if residual is None else residual + hidden)

    def forward_head(self, tokens: Tensor, pre_logits: bool = False) -> Tensor:
        """The class token's or the mean token's features [b c], or logits [b k]."""
        features = tokens.mean(1) if self.cls_index is None else tokens[:, self.cls_index]
        return features if pre_logits else self.head(features)


class Vim(StackedModel):
    """Vision Mamba classifier; `info` says what the outside may know of it."""

    mark = "layers.0.mixer.scans.1.conv1d.weight"

    def __init__(self, config: VimConfig, name: str = "vim") -> None:
        super().__init__(config, name, "vim", stride=config.stride, class_token=config.class_token)

    @classmethod
    def read_layers(cls, shapes: Shapes, config: VimConfig, patch: int) -> dict[str, Any]:
        return {
            "depth": shapes.count("layers.") or config.depth,
            "stride": max(1, config.stride * patch // config.patch),
        }

    @classmethod
    def foreign(cls, shapes: Shapes) -> str:
        if "cls_token_head" in shapes:
            return "two class tokens (use_double_cls_token)"
        if "rope.freqs_cos" in shapes:
            return "a rotary position embedding (if_rope)"
        if "pos_embed" not in shapes:
            return "no position embedding (if_abs_pos_embed=False)"
        return "" if shapes.anywhere(cls.mark) else "scans in one direction (bimamba_type other than v2)"

    def make_block(self, number: int) -> Block:
        config, stage = self.config, self.info.stages[0]
        forward = row_major(stage.grid, self.cls_index)
        spec = MixerSpec(
            width=config.width, inner=stage.E, states=stage.N, rank=-(-config.width // 16),
            orders=(forward, reverse(forward)), tokens=forward, kernel=config.kernel, scale=1 / 2,
        )  # fmt: skip
        return Block(config.width, rescaled(Mixer(spec), config.depth))

    @classmethod
    def official_name(cls, key: str) -> str:
        return official_key(key)


def rescaled(mixer: Mixer, depth: int) -> Mixer:
    """The mixer with the official start of its last projection: the residual stream sums `depth` of its kind."""
    nn.init.kaiming_uniform_(mixer.out_proj.weight, a=5**0.5)
    mixer.out_proj.weight.data /= depth**0.5
    return mixer


_SCAN_KEY = re.compile(r"mixer\.scans\.([01])\.(.+)")


def official_key(key: str) -> str:
    """Our state-dict key -> the key of the official checkpoint; one to one."""

    def translate(match: re.Match[str]) -> str:
        backward, leaf = match[1] == "1", match[2]
        if not backward:
            return f"mixer.{leaf}"
        first, dot, rest = leaf.partition(".")
        return "mixer." + ("A_b_log" if first == "A_log" else first + "_b") + dot + rest

    return _SCAN_KEY.sub(translate, key)


_HUB = "hustvl/Vim-{}-midclstok:vim_{}_midclstok_{}acc.pth"

vim_tiny_patch16_224 = Variant(Vim, VimConfig(192), _HUB.format("tiny", "t", "76p1"), top1=76.1)
vim_small_patch16_224 = Variant(Vim, VimConfig(384), _HUB.format("small", "s", "80p5"), top1=80.5)
vim_base_patch16_224 = Variant(Vim, VimConfig(768), _HUB.format("base", "b", "81p9"), top1=81.9)
# fine-tuned with overlapping patches: 27 x 27 of them at 224
vim_tiny_plus_patch16_224 = Variant(Vim, VimConfig(192, stride=8), _HUB.format("tiny", "t", "ft_78p3"), top1=78.3)
vim_small_plus_patch16_224 = Variant(Vim, VimConfig(384, stride=8), _HUB.format("small", "s", "ft_81p6"), top1=81.6)
