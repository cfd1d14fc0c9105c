"""Models of several stages: tokens of a shrinking grid, with timm's conventions for dense use.

A state is one tensor, the tokens [b l c] of the stage's grid, row-major. Features are what a stage puts out before it
is shrunk, as detection and segmentation heads want them.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence
from typing import Any, cast

from torch import Tensor, nn

from ouro.models.family import Family
from ouro.models.layers import as_map

_DENSE_NORM = re.compile(r"outnorm\d+\.")


class Stage(nn.Module):
    """Blocks over one grid, then an optional step to the next grid; each maps (tokens,) to (tokens,)."""

    blocks: nn.ModuleList
    shrink: nn.Module | None

    def __init__(self, grid: tuple[int, int], width: int, blocks: Sequence[nn.Module], shrink: nn.Module | None):
        super().__init__()
        self.grid, self.width = grid, width
        self.blocks = nn.ModuleList(blocks)
        self.shrink = shrink


class HierarchicalModel(Family):
    """A family with stages: it builds `stages`, `embed`, `norm` and `head`, and is classified from the mean token."""

    stages: nn.ModuleList
    embed: nn.Module
    norm: nn.Module
    head: nn.Module
    # a backbone for dense use has a norm for every stage instead of the last one
    classifier = ("norm.", "head.")

    def from_official(self, state: dict[str, Tensor]) -> dict[str, Tensor]:
        """As for every family; the norms of a backbone for dense use are left out, they are no part of a classifier."""
        return super().from_official({key: value for key, value in state.items() if not _DENSE_NORM.match(key)})

    def stem(self, images: Tensor) -> tuple[Tensor]:
        """images [b 3 h w] -> tokens [b l c] of the first grid."""
        self.check_images(images)
        return (self.embed(images),)

    def blocks(self) -> dict[str, nn.Module]:
        return dict(self._walk())

    def tail(self, tokens: Tensor) -> Tensor:
        return self.norm(tokens)

    def forward_head(self, tokens: Tensor, pre_logits: bool = False) -> Tensor:
        features = tokens.mean(1)
        return features if pre_logits else self.head(features)

    @property
    def feature_info(self) -> list[dict[str, Any]]:
        """timm's description of the stages: channels, stride, and the module whose output they are."""
        # a grid that is rounded up has fewer cells than the stride says, so the stride is counted, not divided
        first = -(-self.info.input_size[1] // self.info.stages[0].grid[0])
        return [
            {"num_chs": stage.width, "reduction": first * 2**i, "module": f"stages.{i}.blocks.{len(stage.blocks) - 1}"}
            for i, stage in enumerate(self._stages())
        ]

    def forward_intermediates(
        self,
        x: Tensor,
        indices: int | Sequence[int] | None = None,
        norm: bool = False,
        stop_early: bool = False,
        output_fmt: str = "NCHW",
        intermediates_only: bool = False,
    ) -> list[Tensor] | tuple[Tensor, list[Tensor]]:
        """Feature maps of stages, in the order of the stages; arguments and results as timm's.

        Args:
            x: images [b 3 h w].
            indices: stages wanted, negative from the end; a number for that many of the last, None for all.
            norm: apply the final norm to the last stage's map; it does not fit the others.
            stop_early: leave out the stages behind the last one wanted.
            output_fmt: "NCHW" or "NHWC".
            intermediates_only: return the maps alone, instead of (final tokens [b l c], maps). Tokens of a walk that
                stopped early have not seen the final norm.

        Raises:
            ValueError: another output format, or a stage that does not exist.
        """
        if output_fmt not in ("NCHW", "NHWC"):
            raise ValueError(f"output_fmt is {output_fmt!r}, expected NCHW or NHWC")
        wanted = self._wanted(indices)
        (tokens,) = self.stem(x)
        stages, last, maps = self._stages(), len(self.info.stages) - 1, []
        for index, stage in enumerate(stages[: max(wanted) + 1] if stop_early else stages):
            if index > 0:
                (tokens,) = cast(nn.Module, stages[index - 1].shrink)(tokens)
            for block in stage.blocks:
                (tokens,) = block(tokens)
            if index in wanted:
                out = as_map(self.norm(tokens) if norm and index == last else tokens, stage.grid)
                maps.append(out if output_fmt == "NCHW" else out.permute(0, 2, 3, 1))
        if intermediates_only:
            return maps
        return self.tail(tokens) if index == last else tokens, maps

    def prune_intermediate_layers(
        self, indices: int | Sequence[int] | None = 1, prune_norm: bool = False, prune_head: bool = True
    ) -> list[int]:
        """Drops what `forward_intermediates` of these stages does not need, and returns them; timm's convention.

        Without the last stage, norm and head go as well: they are made for its width.

        Raises:
            ValueError: a stage that does not exist.
        """
        wanted = self._wanted(indices)
        cut = max(wanted) + 1 < len(self.stages)
        self.stages = self.stages[: max(wanted) + 1]
        if cut:
            self._stages()[-1].shrink = None
        if prune_norm or cut:
            self.norm = nn.Identity()
        if prune_head or cut:
            self.head, self.num_classes = nn.Identity(), 0
        return wanted

    def _wanted(self, indices: int | Sequence[int] | None) -> list[int]:
        """Numbers of the stages, ascending."""
        count = len(self.stages)
        if indices is None:
            return list(range(count))
        if isinstance(indices, int):
            if not 0 < indices <= count:
                raise ValueError(
                    f"{indices} last stages wanted, {self.info.name} has {count}; a list picks single ones"
                )
            return list(range(count - indices, count))
        if not indices:
            raise ValueError(f"no stage wanted; {self.info.name} has stages 0 to {count - 1}")
        for index in indices:
            if not -count <= index < count:
                raise ValueError(f"stage {index} does not exist, {self.info.name} has stages 0 to {count - 1}")
        return sorted({index % count for index in indices})

    def _stages(self) -> list[Stage]:
        return cast(list[Stage], list(self.stages))

    def _walk(self) -> Iterator[tuple[str, nn.Module]]:
        for i, stage in enumerate(self._stages()):
            yield from ((f"stages.{i}.blocks.{j}", block) for j, block in enumerate(stage.blocks))
            if stage.shrink is not None:
                yield f"stages.{i}.shrink", stage.shrink


def init_linear(module: nn.Module) -> None:
    """Truncated normal weights of deviation 0.02 and zero biases; the official start of every family with stages."""
    if isinstance(module, nn.Linear):
        nn.init.trunc_normal_(module.weight, std=0.02)
        if module.bias is not None:
            nn.init.zeros_(module.bias)


def halved(grid: tuple[int, int]) -> tuple[int, int]:
    """Grid after a convolution of stride 2 and padding 1."""
    return (grid[0] + 1) // 2, (grid[1] + 1) // 2
