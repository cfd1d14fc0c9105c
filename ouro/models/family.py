"""What every family offers to whoever loads checkpoints: its official names, and a config read from tensors."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from torch import Tensor

from ouro.models.shapes import Shapes
from ouro.vision import VisionModel


@dataclass(frozen=True, slots=True)
class OfficialKey:
    """Where an official checkpoint has one of our tensors: under `key`, or the `part`-th of `parts` stacked there."""

    key: str
    part: int = 0
    parts: int = 1


class Family(VisionModel):
    """Base class of models that are made from (config, name), and whose checkpoints the official code writes too."""

    config: Any
    mark: str
    """One of the model's keys whose official name distinguishes its checkpoints from those of other families."""
    classifier: tuple[str, ...] = ("head.",)
    """How keys begin that a model with other classes has no use for."""
    answers: tuple[str, ...] = ("head.",)
    """How keys begin whose shapes hang on the number of classes."""
    whole: bool = False
    """Whether it is made of a checkpoint with all that is in it, not of the backbone in it alone."""

    @classmethod
    def official_name(cls, key: str) -> str:
        """The official key of one of ours, without the part it is of; an official key as the official code has it now."""
        return key

    @classmethod
    def config_from(cls, shapes: Shapes, config: Any) -> Any:
        """`config`, with all in it that a checkpoint says; what it does not say stays.

        Raises:
            ValueError: it belongs to a model of which more must be said, such as a grid that is no square.
        """
        return config

    @classmethod
    def foreign(cls, shapes: Shapes) -> str:
        """In what a checkpoint of this family differs from those of the official models; "" if in nothing."""
        return ""

    def official(self, key: str) -> OfficialKey:
        """Our state-dict key -> where the official checkpoint has it; one to one."""
        return OfficialKey(self.official_name(key))

    def from_official(self, state: dict[str, Tensor]) -> dict[str, Tensor]:
        """Renames an official state dict to our keys; keys it does not know stay, so that loading can name them."""
        renamed = dict(state)
        for key, wanted in self.state_dict().items():
            there = self.official(key)
            if there.key not in state:
                continue
            renamed.pop(there.key, None)
            value = state[there.key]
            if there.parts > 1 and value.dim() and len(value) % there.parts == 0:
                value = value.unflatten(0, (there.parts, -1))[there.part]
                # stacked with an axis of its own, or one after the other along the first
                value = value[0] if value.dim() > wanted.dim() else value
            renamed[key] = value
        return renamed
