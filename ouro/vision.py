"""What every model family offers to code that must not know the family: facts, and a walk over its blocks."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor, nn

from ouro.taps import ScanModule
from ouro.types import ModelInfo, ScanOrder, WeightsSource


@contextmanager
def judging(*models: nn.Module) -> Iterator[None]:
    """While it lasts the models are in eval mode, so that looking at one changes nothing; afterwards they are as they were."""
    learning = [module for model in models for module in model.modules() if module.training]
    for model in models:
        model.eval()
    try:
        yield
    finally:
        for module in learning:
            module.training = True


def matrices(model: nn.Module) -> dict[str, nn.Parameter]:
    """What weight decay is for, by path: matrices of layers, not norms, biases, tokens, A and D."""
    return {path: p for path, p in model.named_parameters() if path.rpartition(".")[2] == "weight" and p.dim() > 1}


class VisionModel(nn.Module, ABC):
    """Base class of all families. tail(blocks(stem(images))) are the features that `forward_head` classifies."""

    info: ModelInfo
    config: Any
    """The family's frozen config that it was built from."""
    num_classes: int
    loaded_from: WeightsSource | None = None
    untapped: str | None = None
    """Why the model has no taps, if it has none: to record, count or audit it is refused with this, see `ouro.taps`."""

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

    @property
    def device(self) -> torch.device:
        """Where its parameters are."""
        return next(self.parameters()).device

    @property
    def weights_dtype(self) -> torch.dtype:
        """Type of its parameters."""
        return next(self.parameters()).dtype

    def mixers(self) -> dict[str, list[ScanOrder]]:
        """Path of every mixer, in order -> the orders of its scans; layer k of a model is the k-th of these."""
        orders: dict[str, list[ScanOrder]] = {}
        for path, module in self.named_modules():
            if isinstance(module, ScanModule):
                orders.setdefault(path.rsplit(".", 2)[0], []).append(module.order)
        return orders

    def check_precision(self, what: str) -> None:
        """Refuses weights in less than float32; `what` is what needs them so.

        Raises:
            ValueError: the message has their type.
        """
        if self.weights_dtype not in (torch.float32, torch.float64):
            own = str(self.weights_dtype).removeprefix("torch.")
            raise ValueError(f"{self.info.name} is {own}, {what} takes float32 or float64; give model.float()")

    def check_images(self, images: Tensor) -> None:
        """Refuses images of another size or type, and none at all.

        Raises:
            ValueError: the message has both.
        """
        if tuple(images.shape[1:]) != self.info.input_size or images.shape[0] == 0:
            size = ", ".join(map(str, self.info.input_size))
            raise ValueError(f"images are {tuple(images.shape)}, {self.info.name} takes (b, {size}), one or more")
        if images.dtype != self.weights_dtype and not torch.is_autocast_enabled(images.device.type):
            given, own = (str(dtype).removeprefix("torch.") for dtype in (images.dtype, self.weights_dtype))
            raise ValueError(
                f"images are {given}, {self.info.name} is {own}; give images.to(torch.{own}), normalized as "
                "ouro.data.normalize does"
            )

    def forward_features(self, images: Tensor) -> Tensor:
        """images [b 3 h w] -> normalised tokens [b l c]."""
        state = self.stem(images)
        for block in self.blocks().values():
            state = block(*state)
        return self.tail(*state)

    def features(self, images: Tensor) -> Tensor:
        """images [b 3 h w] -> what the classifier looks at, [b c]."""
        return self.forward_head(self.forward_features(images), pre_logits=True)

    def forward(self, images: Tensor) -> Tensor:
        """images [b 3 h w] -> logits [b k]."""
        return self.forward_head(self.forward_features(images))
