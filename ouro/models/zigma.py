"""ZigMa: a diffusion backbone on latents whose layers scan the map along eight zigzag paths in turn.

Source: Hu et al. 2024, agrees with CompVis/zigma (model_zigma.py, configuration zigzag8_b1_pe2, without text): output
and activations of every block within 5e-5 of the official code.
"""

from __future__ import annotations

import math
import re
from dataclasses import dataclass, field, replace
from typing import cast

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from ouro.models.config import InputConfig
from ouro.models.family import Family
from ouro.models.layers import Linear, PatchEmbed, RMSNorm
from ouro.models.mixer import Mixer, MixerSpec
from ouro.models.shapes import Shapes, read_image
from ouro.models.variant import Variant
from ouro.scan.order import ZIGZAGS, row_major, zigzag
from ouro.taps import Tap
from ouro.types import ModelInfo, StageInfo


@dataclass(frozen=True, slots=True)
class ZigMaConfig(InputConfig):
    """What makes one ZigMa differ from another; `image` is the size of the latent, `channels` are its own."""

    width: int
    depth: int = 24
    patch: int = 1
    channels: int = 4
    states: int = 16
    kernel: int = 4
    expand: int = 2
    image: int | tuple[int, int] = field(default=32, kw_only=True)
    mean: tuple[float, ...] = field(default=(0.0,) * 4, kw_only=True)
    std: tuple[float, ...] = field(default=(1.0,) * 4, kw_only=True)


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


class Block(nn.Module):
    """x + gate * mixer(x * (1 + scale) + shift) of the normalised residual x; the condition makes the three factors."""

    def __init__(self, width: int, mixer: Mixer) -> None:
        super().__init__()
        self.norm = RMSNorm(width)
        self.mixer = mixer
        self.modulation = nn.Linear(width, 3 * width)
        # official start: the mixers are switched on by training
        nn.init.zeros_(self.modulation.weight)
        nn.init.zeros_(self.modulation.bias)
        self.tap_out = Tap("block.out", "b l c")

    def forward(self, hidden: Tensor, residual: Tensor | None, condition: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        residual = hidden if residual is None else residual + hidden
        x = self.norm(residual)
        shift, scale, gate = self.modulation(F.silu(condition)).unsqueeze(1).chunk(3, dim=-1)
        mixed = self.tap_out(self.mixer(x * (1 + scale) + shift))
        # x is part of the output, so the residual takes up the normalised activations too, not the mixer's share alone
        return x + gate * mixed, residual, condition


class ZigMa(Family):
    """Latents and times -> the field (velocity or noise, as it was trained) that a sampler follows; no classifier."""

    mark = "layers.0.modulation.weight"

    def __init__(self, config: ZigMaConfig, name: str = "zigma") -> None:
        super().__init__()
        if any(side % config.patch for side in config.size):
            raise ValueError(f"image is {config.image}, expected a multiple of patch = {config.patch} on either side")
        grid = (config.size[0] // config.patch, config.size[1] // config.patch)
        cells, inner = grid[0] * grid[1], config.expand * config.width
        self.config, self.num_classes = config, 0
        self.info = ModelInfo(
            name=name, family="zigma", stages=(StageInfo(grid, cells, config.states, inner, config.depth),),
            cls_index=None, input_size=(config.channels, *config.size),
            mean=config.mean, std=config.std, num_classes=0, task="diffusion",
        )  # fmt: skip
        self.patch_embed = PatchEmbed(config.patch, config.patch, config.channels, config.width)
        nn.init.xavier_uniform_(self.patch_embed.proj.weight.flatten(1))
        nn.init.zeros_(cast(Tensor, self.patch_embed.proj.bias))
        self.pos_embed = nn.Parameter(torch.zeros(1, cells, config.width))
        self.time_embed = TimeEmbed(config.width)
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
            self.layers.append(Block(config.width, mixer))
        self.norm_f = RMSNorm(config.width)
        self.head = Linear(config.width, config.patch**2 * config.channels, bias=True, site="head", axes="b l c")
        nn.init.zeros_(cast(Tensor, self.head.bias))

    def stem(self, latents: Tensor, t: Tensor | None = None) -> tuple[Tensor, None, Tensor]:
        """latents [b 4 h w], times [b] -> (hidden, residual, condition).

        Raises:
            ValueError: the latents do not have the model's input size, or there is not one time for each.
        """
        self.check_images(latents)
        if t is None:
            t = latents.new_full((len(latents),), 0.5)
        if t.shape != (len(latents),):
            raise ValueError(f"t is {tuple(t.shape)}, expected ({len(latents)},): one time in [0, 1] for each latent")
        return self.patch_embed(latents) + self.pos_embed, None, self.time_embed(t.to(latents))

    def blocks(self) -> dict[str, nn.Module]:
        return {f"layers.{i}": block for i, block in enumerate(self.layers)}

    def tail(self, hidden: Tensor, residual: Tensor | None, condition: Tensor) -> Tensor:
        """The last state -> normalised tokens [b l c]; the condition has done its work."""
        return self.norm_f(hidden if residual is None else residual + hidden)

    def forward_head(self, tokens: Tensor, pre_logits: bool = False) -> Tensor:
        """Mean features [b c], or the field [b 4 h w]."""
        if pre_logits:
            return tokens.mean(1)
        patch, grid = self.config.patch, self.info.stages[0].grid
        out = self.head(F.layer_norm(tokens, tokens.shape[-1:], eps=1e-6))
        pixels = out.unflatten(2, (patch, patch, -1)).unflatten(1, grid)  # [b rows columns y x channels]
        return pixels.permute(0, 5, 1, 3, 2, 4).flatten(4, 5).flatten(2, 3)

    def forward_features(self, latents: Tensor, t: Tensor | None = None) -> Tensor:
        """latents [b 4 h w], times [b] -> normalised tokens [b l c]."""
        state = self.stem(latents, t)
        for block in self.layers:
            state = block(*state)
        return self.tail(*state)

    def forward(self, latents: Tensor, t: Tensor | None = None) -> Tensor:
        """The field at latents [b 4 h w] and times t [b] in [0, 1], 0.5 for all where t is None -> [b 4 h w]."""
        return self.forward_head(self.forward_features(latents, t))

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
        cells = shapes.size("pos_embed", 1, 0)
        return replace(
            config,
            width=width,
            patch=patch,
            channels=shapes.size("patch_embed.proj.weight", 1, config.channels),
            depth=shapes.count("layers.") or config.depth,
            states=shapes.size(f"{scan}.A_log", -1, config.states),
            kernel=shapes.size(f"{scan}.conv1d.weight", -1, config.kernel),
            expand=shapes.size("layers.0.mixer.out_proj.weight", 1, config.expand * width) // max(width, 1),
            image=read_image(cells, config.image, patch, patch, shapes.grid) if cells else config.image,
        )


_NAMES = [
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
