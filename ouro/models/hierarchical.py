"""Models of several stages: tokens of a shrinking grid. A state is one tensor, the tokens [b l c] of the stage's grid."""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence
from typing import Any, cast

from torch import Tensor, nn

from ouro.models.features import Backbone

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


class HierarchicalModel(Backbone):
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
        # a grid that is rounded up has fewer cells than the stride says, so the stride is counted, not divided
        first = -(-self.info.input_size[1] // self.info.stages[0].grid[0])
        return [
            {"num_chs": stage.width, "reduction": first * 2**i, "module": f"stages.{i}.blocks.{len(stage.blocks) - 1}"}
            for i, stage in enumerate(self._stages())
        ]

    def feature_grid(self, index: int) -> tuple[int, int]:
        return self._stages()[index].grid

    def spatial(self, tokens: Tensor) -> Tensor:
        return tokens

    def normed(self, tokens: Tensor, index: int) -> Tensor:
        return self.norm(tokens) if index == len(self.info.stages) - 1 else tokens

    def keep(self, count: int) -> None:
        self.stages = self.stages[:count]
        self._stages()[-1].shrink = None

    def drop_ends(self, norm: bool, head: bool) -> None:
        self.norm = nn.Identity() if norm else self.norm
        self.head = nn.Identity() if head else self.head

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
