"""What the configs of all families have in common: the images a model takes, and its classes.

A family's own fields come first and may be given by position; these are named.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, fields
from typing import Annotated, TypeAlias

from ouro.settings import Least, Most, check_fields
from ouro.types import ModelInfo, StageInfo

IMAGENET_MEAN = (0.485, 0.456, 0.406)
IMAGENET_STD = (0.229, 0.224, 0.225)

Size: TypeAlias = Annotated[int, Least(1), Most(2**20)]
"""Of anything that there has to be some of: channels, pixels, states."""
Depth: TypeAlias = Annotated[int, Least(0), Most(1024)]
"""So many blocks."""
Ratio: TypeAlias = Annotated[float, Least(0), Most(2**10)]
"""So many times as many channels."""


@dataclass(frozen=True, slots=True, kw_only=True)
class InputConfig:
    """The input. image: pixels a side, or (height, width); `size` is always the latter. mean, std: per channel."""

    image: int | tuple[int, int] = 224
    mean: tuple[float, ...] = IMAGENET_MEAN
    std: tuple[float, ...] = IMAGENET_STD

    def __post_init__(self) -> None:
        sides = self.image if isinstance(self.image, (tuple, list)) else (self.image, self.image)
        if len(sides) != 2 or not all(type(side) is int and side > 0 for side in sides):
            raise ValueError(f"image is {self.image!r}, expected pixels: one number, or (height, width)")
        values = {one.name: getattr(self, one.name) for one in fields(self)}
        check_fields(type(self), values)
        if not self.mean or len(self.mean) != len(self.std) or not min(self.std) > 0:
            raise ValueError(
                f"mean is {self.mean} and std {self.std}, expected a number for each channel, those of std above 0"
            )
        for name, value in values.items():
            # a list, as JSON has it, would make the config unhashable
            object.__setattr__(self, name, _frozen(value))

    @property
    def size(self) -> tuple[int, int]:
        """Height and width in pixels."""
        return (self.image, self.image) if isinstance(self.image, int) else self.image


def _frozen(value: object) -> object:
    """Lists as tuples."""
    return tuple(map(_frozen, value)) if isinstance(value, list) else value


@dataclass(frozen=True, slots=True, kw_only=True)
class ClassifierConfig(InputConfig):
    """An image classifier. class_names: one for each class, or none at all."""

    num_classes: int = 1000
    class_names: tuple[str, ...] = ()

    def info(self, name: str, family: str, stages: Sequence[StageInfo], cls_index: int | None = None) -> ModelInfo:
        """Facts of a model with this config.

        Raises:
            ValueError: the names are not one for each class.
        """
        names = self.class_names
        if len(self.mean) != 3:
            raise ValueError(f"mean is {self.mean}, {name} sees red, green and blue; give three numbers")
        if isinstance(names, str) or (names and len(names) != self.num_classes):
            given = repr(names) if isinstance(names, str) else f"{len(names)} names"
            raise ValueError(
                f"class_names is {given}, {name} has {self.num_classes} classes; give one name for each class"
            )
        return ModelInfo(
            name=name, family=family, stages=tuple(stages), cls_index=cls_index, input_size=(3, *self.size),
            mean=self.mean, std=self.std, num_classes=self.num_classes, class_names=tuple(names),
        )  # fmt: skip
