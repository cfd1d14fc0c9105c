"""ZigMa: a diffusion backbone on latents whose layers scan the map along eight zigzag paths in turn.

Source: Hu et al. 2024, agrees with CompVis/zigma (model_zigma.py, configuration zigzag8_b1_pe2, without text): output
and activations of every block within 5e-5 of the official code. Classes are added to the time as its LabelEmbedder does,
and text is attended to as its `has_text` does (a block with the same weights agrees to the last bit).
A row for "no class", which guidance needs, is ours: the official code never drops a label (dropout 0), and its
`forward_with_cfg` raises NotImplementedError. So is what a model of text is given where there is none.
"""

from __future__ import annotations

import math
import re
from dataclasses import dataclass, field, replace
from typing import Any, cast

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from ouro.models.config import Depth, InputConfig, Size
from ouro.models.family import Family
from ouro.models.layers import Linear, PatchEmbed, RMSNorm
from ouro.models.mixer import Mixer, MixerSpec
from ouro.models.shapes import Shapes, read_image
from ouro.models.variant import Variant
from ouro.scan.order import ZIGZAGS, row_major, zigzag
from ouro.taps import Tap
from ouro.types import NO_CLASS, ModelInfo, StageInfo


@dataclass(frozen=True, slots=True)
class ZigMaConfig(InputConfig):
    """What makes one ZigMa differ from another; `image` is the size of the latent, `channels` are its own.

    num_classes: 0 for a model that is not told a class. guided: "no class" has a row of its own, after the classes.
    context: width of the text features that it is told (768 of CLIP), 0 for a model without text.
    """

    width: Size
    depth: Depth = 24
    patch: Size = 1
    channels: Size = 4
    states: Size = 16
    kernel: Size = 4
    expand: Size = 2
    image: int | tuple[int, int] = field(default=32, kw_only=True)
    mean: tuple[float, ...] = field(default=(0.0,) * 4, kw_only=True)
    std: tuple[float, ...] = field(default=(1.0,) * 4, kw_only=True)
    num_classes: int = field(default=0, kw_only=True)
    class_names: tuple[str, ...] = field(default=(), kw_only=True)
    guided: bool = field(default=False, kw_only=True)
    context: int = field(default=0, kw_only=True)


class TimeEmbed(nn.Module):
    """Times [b] in [0, 1] -> conditions [b c], through cosines and sines of falling frequency."""

    def __init__(self, width: int, waves: int = 256) -> None:
        super().__init__()
        self.waves = waves
        self.fc1 = nn.Linear(waves, width)
        self.fc2 = nn.Linear(width, width)
        for linear in (self.fc1, self.fc2):
            nn.init.normal_(linear.weight, std=0.02)
            nn.init.zeros_(linear.bias)

    def forward(self, t: Tensor) -> Tensor:
        half = self.waves // 2
        frequencies = torch.exp(-math.log(10000) * torch.arange(half, device=t.device) / half)
        # official times run to 1000
        angles = 1000 * t[:, None] * frequencies
        return self.fc2(F.silu(self.fc1(torch.cat([angles.cos(), angles.sin()], dim=-1))))


class TextAttention(nn.Module):
    """Softmax attention of tokens [b l c] to text [b m c], 8 heads of 64 channels whatever the width."""

    def __init__(self, width: int, heads: int = 8, size: int = 64) -> None:
        super().__init__()
        self.heads = heads
        self.query = Linear(width, heads * size, bias=False)
        # the text is a condition, as the time is: nothing of it is rounded
        self.key = nn.Linear(width, heads * size, bias=False)
        self.value = nn.Linear(width, heads * size, bias=False)
        self.out = Linear(heads * size, width, bias=True)

    def forward(self, x: Tensor, text: Tensor) -> Tensor:
        parts = (self.query(x), self.key(text), self.value(text))
        q, k, v = (part.unflatten(2, (self.heads, -1)).transpose(1, 2) for part in parts)
        return self.out(F.scaled_dot_product_attention(q, k, v).transpose(1, 2).flatten(2))


class Block(nn.Module):
    """x + gate * mixer(x * (1 + scale) + shift) of the normalised residual x; the condition makes the three factors.

    With text the same once more, with attention to it in place of the mixer and a norm of its own.
    """

    def __init__(self, width: int, mixer: Mixer, text: bool = False) -> None:
        super().__init__()
        self.norm = RMSNorm(width)
        self.mixer = mixer
        self.attention = TextAttention(width) if text else None
        self.modulation = nn.Linear(width, (6 if text else 3) * width)
        # official start: the mixers are switched on by training
        nn.init.zeros_(self.modulation.weight)
        nn.init.zeros_(self.modulation.bias)
        self.tap_out = Tap("block.out", "b l c")

    def forward(self, hidden: Tensor, residual: Tensor | None, condition: Tensor, *text: Tensor) -> tuple[Tensor, ...]:
        residual = hidden if residual is None else residual + hidden
        x = self.norm(residual)
        shift, scale, gate, *more = self.modulation(F.silu(condition)).unsqueeze(1).split(x.shape[-1], dim=-1)
        mixed = self.tap_out(self.mixer(x * (1 + scale) + shift))
        # x is part of the output, so the residual takes up the normalised activations too, not the mixer's share alone
        x = x + gate * mixed
        if self.attention is not None:
            shift, scale, gate = more
            x = x + gate * self.attention(F.layer_norm(x, x.shape[-1:], eps=1e-6) * (1 + scale) + shift, *text)
        return x, residual, condition, *text


class ZigMa(Family):
    """Latents, times and classes -> the field (velocity or noise, as it was trained) that a sampler follows."""

    mark = "layers.0.modulation.weight"

    def __init__(self, config: ZigMaConfig, name: str = "zigma") -> None:
        super().__init__()
        if any(side % config.patch for side in config.size):
            raise ValueError(f"image is {config.image}, expected a multiple of patch = {config.patch} on either side")
        grid = (config.size[0] // config.patch, config.size[1] // config.patch)
        cells, inner = grid[0] * grid[1], config.expand * config.width
        if config.class_names and len(config.class_names) != config.num_classes:
            raise ValueError(
                f"class_names is {len(config.class_names)} names, {name} has {config.num_classes} classes; give one name "
                "for each class"
            )
        if config.guided and not config.num_classes:
            raise ValueError(f"{name} has no classes to be guided by; give num_classes, or guided=False")
        if config.context and config.num_classes:
            raise ValueError(
                f"{name} has {config.num_classes} classes and text features of {config.context}; it is told one or the other"
            )
        self.config, self.num_classes = config, config.num_classes
        self.info = ModelInfo(
            name=name, family="zigma", stages=(StageInfo(grid, cells, config.states, inner, config.depth),),
            cls_index=None, input_size=(config.channels, *config.size),
            mean=config.mean, std=config.std, num_classes=config.num_classes, class_names=tuple(config.class_names),
            task="diffusion",
        )  # fmt: skip
        self.patch_embed = PatchEmbed(config.patch, config.patch, config.channels, config.width)
        nn.init.xavier_uniform_(self.patch_embed.proj.weight.flatten(1))
        nn.init.zeros_(cast(Tensor, self.patch_embed.proj.bias))
        self.pos_embed = nn.Parameter(torch.zeros(1, cells, config.width))
        self.time_embed = TimeEmbed(config.width)
        rows = config.num_classes + config.guided
        self.class_embed = nn.Embedding(rows, config.width) if rows else None
        self.text_embed = nn.Linear(config.context, config.width) if config.context else None
        self.layers = nn.ModuleList()
        for layer in range(config.depth):
            spec = MixerSpec(
                width=config.width, inner=inner, states=config.states, rank=-(-config.width // 16),
                orders=(zigzag(grid, layer % ZIGZAGS),), tokens=row_major(grid), kernel=config.kernel,
            )  # fmt: skip
            mixer = Mixer(spec)
            # the residual stream sums `depth` outputs: official rescaling of the last projection
            nn.init.kaiming_uniform_(mixer.out_proj.weight, a=5**0.5)
            mixer.out_proj.weight.data /= config.depth**0.5
            self.layers.append(Block(config.width, mixer, text=config.context > 0))
        self.norm_f = RMSNorm(config.width)
        self.head = Linear(config.width, config.patch**2 * config.channels, bias=True, site="head", axes="b l c")
        nn.init.zeros_(cast(Tensor, self.head.bias))

    def stem(self, latents: Tensor, t: Tensor | None = None, y: Tensor | None = None) -> tuple[Any, ...]:
        """latents [b c h w], times [b], classes [b] -> (hidden, residual, condition) and text; see `forward`."""
        self.check_images(latents)
        # not len(latents), which torch.export would keep as a constant
        batch = latents.shape[0]
        if t is None:
            t = latents.new_full((batch,), 0.5)
        if t.shape != (batch,):
            raise ValueError(f"t is {tuple(t.shape)}, expected ({batch},): one time in [0, 1] for each latent")
        condition = self.time_embed(t.to(latents))
        if self.class_embed is not None:
            condition = condition + self.class_embed(self._rows(latents, y))
        text: tuple[Tensor, ...] = ()
        if self.text_embed is not None:
            text = (self.text_embed(self._features(latents, y)),)
            condition = condition + text[0].mean(1)
        elif y is not None and self.class_embed is None:
            raise ValueError(f"{self.info.name} is told the time alone; leave y out")
        return self.patch_embed(latents) + self.pos_embed, None, condition, *text

    def _features(self, latents: Tensor, y: Tensor | None) -> Tensor:
        """Features of the text."""
        wide = self.config.context
        if y is None:
            return latents.new_zeros(len(latents), 1, wide)
        if y.dim() != 3 or (len(y), y.shape[2]) != (len(latents), wide) or not y.is_floating_point():
            raise ValueError(
                f"y is {y.dtype} {tuple(y.shape)}, expected floats ({len(latents)}, m, {wide}): features of m words for each "
                "latent"
            )
        return y.to(latents)

    def _rows(self, latents: Tensor, y: Tensor | None) -> Tensor:
        """Rows of the class embedding."""
        name, classes, batch = self.info.name, self.num_classes, latents.shape[0]
        if y is None:
            y = torch.full((batch,), NO_CLASS, device=latents.device)
        if y.shape != (batch,) or y.is_floating_point():
            raise ValueError(
                f"y is {y.dtype} {tuple(y.shape)}, expected int64 ({batch},): one of {classes} classes for each latent"
            )
        # looked at where it can be wrong alone: a CUDA graph cannot
        if not self.config.guided and bool((y < 0).any()):
            raise ValueError(f"{name} knows no latent without class; give y, one of {classes} classes for each latent")
        return torch.where(y < 0, classes, y)

    def blocks(self) -> dict[str, nn.Module]:
        return {f"layers.{i}": block for i, block in enumerate(self.layers)}

    def tail(self, hidden: Tensor, residual: Tensor | None, *conditions: Tensor) -> Tensor:
        """The last state -> normalised tokens [b l c]; the conditions have done their work."""
        return self.norm_f(hidden if residual is None else residual + hidden)

    def forward_head(self, tokens: Tensor, pre_logits: bool = False) -> Tensor:
        """Mean features [b c], or the field [b channels h w]."""
        if pre_logits:
            return tokens.mean(1)
        patch, grid = self.config.patch, self.info.stages[0].grid
        out = self.head(F.layer_norm(tokens, tokens.shape[-1:], eps=1e-6))
        pixels = out.unflatten(2, (patch, patch, -1)).unflatten(1, grid)  # [b rows columns y x channels]
        return pixels.permute(0, 5, 1, 3, 2, 4).flatten(4, 5).flatten(2, 3)

    def forward_features(self, latents: Tensor, t: Tensor | None = None, y: Tensor | None = None) -> Tensor:
        """latents [b c h w], times [b], classes [b] -> normalised tokens [b l c]."""
        state = self.stem(latents, t, y)
        for block in self.layers:
            state = block(*state)
        return self.tail(*state)

    def forward(self, latents: Tensor, t: Tensor | None = None, y: Tensor | None = None) -> Tensor:
        """The field at latents [b c h w] -> [b c h w].

        Args:
            t: times [b] in [0, 1], 0 for noise and 1 for data; 0.5 for all where None.
            y: classes [b], NO_CLASS for any; None is NO_CLASS for all. Of a model of text features [b m context] of m words
                for each latent; None is one word of zeros.

        Raises:
            ValueError: the latents do not have the model's input size, there is not one time or y for each, the model is
                told neither class nor text, or it knows nothing without a class.
        """
        return self.forward_head(self.forward_features(latents, t, y))

    @classmethod
    def official_name(cls, key: str) -> str:
        return official_key(key)

    @classmethod
    def config_from(cls, shapes: Shapes, config: ZigMaConfig) -> ZigMaConfig:
        scan = "layers.0.mixer.scans.0"
        width, patch = (
            shapes.size("patch_embed.proj.weight", axis, known)
            for axis, known in ((0, config.width), (-1, config.patch))
        )
        cells, rows = shapes.size("pos_embed", 1, 0), shapes.size("class_embed.weight", 0, 0)
        return replace(
            config,
            width=width,
            patch=patch,
            channels=shapes.size("patch_embed.proj.weight", 1, config.channels),
            depth=shapes.count("layers.") or config.depth,
            states=shapes.size(f"{scan}.A_log", -1, config.states),
            kernel=shapes.size(f"{scan}.conv1d.weight", -1, config.kernel),
            expand=shapes.size("layers.0.mixer.out_proj.weight", 1, config.expand * width) // max(width, 1),
            num_classes=max(0, rows - config.guided),
            guided=config.guided and rows > 1,
            context=shapes.size("text_embed.weight", 1, 0),
            image=read_image(cells, config.image, patch, patch, shapes.grid) if cells else config.image,
        )


_NAMES: list[tuple[re.Pattern[str], Any]] = [
    (re.compile(r"^class_embed\."), "y_embedder.embedding_table."),
    (re.compile(r"^text_embed\."), "y_embedder."),
    (re.compile(r"\.attention\.(query|key|value)\."), lambda match: f".msa.to_{match[1][0]}."),
    (re.compile(r"\.attention\.out\."), ".msa.to_out.0."),
    (re.compile(r"^patch_embed\."), "x_embedder."),
    (re.compile(r"^time_embed\.fc1\."), "t_embedder.mlp.0."),
    (re.compile(r"^time_embed\.fc2\."), "t_embedder.mlp.2."),
    (re.compile(r"^layers\."), "blocks."),
    (re.compile(r"mixer\.scans\.0\."), "mixer."),
    (re.compile(r"\.modulation\."), ".adaLN_modulation.1."),
    (re.compile(r"^head\."), "final_layer.linear."),
]


def official_key(key: str) -> str:
    """Our state-dict key -> the key of the official checkpoint; one to one."""
    for pattern, name in _NAMES:
        key = pattern.sub(name, key)
    return key


zigma_zigzag8 = Variant(ZigMa, ZigMaConfig(768), "taohu/zigma:churches256_0280000.pt", data="latents")
