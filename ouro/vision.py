"""What every model family offers to code that must not know the family: facts, and a walk over its blocks."""

from __future__ import annotations

from abc import ABC, abstractmethod
from typing import Any

from torch import Tensor, nn

from ouro.types import ModelInfo


class VisionModel(nn.Module, ABC):
    """Base class of all families. tail(blocks(stem(images))) are the features that `forward_head` classifies."""

    info: ModelInfo
    num_classes: int

    @abstractmethod
    def stem(self, images: Tensor) -> tuple[Any, ...]:
        """images [b 3 h w] -> the state that the first block takes.

        Raises:
            ValueError: the images do not have the model's input size.
        """

    @abstractmethod
    def blocks(self) -> dict[str, nn.Module]:
        """Path -> block, in order; each maps a state to the next one, whose first part is the block's own output."""

    @abstractmethod
    def tail(self, *state: Any) -> Tensor:
        """The last state -> normalised tokens [b l c]."""

    @abstractmethod
    def forward_head(self, tokens: Tensor, pre_logits: bool = False) -> Tensor:
        """Tokens -> pooled features [b c] or logits [b k]."""

    def from_official(self, state: dict[str, Tensor]) -> dict[str, Tensor]:
        """Renames an official state dict to our keys; keys it does not know stay, so that loading can name them."""
        return state

    def forward_features(self, images: Tensor) -> Tensor:
        """images [b 3 h w] -> normalised tokens [b l c]."""
        state = self.stem(images)
        for block in self.blocks().values():
            state = block(*state)
        return self.tail(*state)

    def forward(self, images: Tensor) -> Tensor:
        """images [b 3 h w] -> logits [b k]."""
        return self.forward_head(self.forward_features(images))
