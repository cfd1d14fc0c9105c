"""What a registered model name stands for."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Any

from ouro.models.family import Family
from ouro.types import ModelInfo


@dataclass(frozen=True, slots=True)
class Variant:
    """One name: how to build it, where its weights come from, how it wants its images.

    Args:
        build: the family, made from (config, name); it also reads configs from checkpoints.
        config: the family's frozen config.
        weights: a Hugging Face file "org/name:file" or "org/name:file@revision", a URL, or the file name of an embedded
            checkpoint.
        embedded: the weights lie in this package.
        data: the data set it was trained on; its test split is the default to evaluate on.
        top1: published ImageNet top-1 in percent, None where nobody published one (embedded models have a card).
    """

    build: type[Family]
    config: Any
    weights: str | None = None
    embedded: bool = False
    data: str = "folder"
    top1: float | None = None
    crop_pct: float = 0.875
    interpolation: str = "bicubic"
    license: str = "apache-2.0"

    def described(self, info: ModelInfo) -> ModelInfo:
        """The info of a model that was just built, with what its entry knows beside its config."""
        return replace(info, data=self.data, crop_pct=self.crop_pct, interpolation=self.interpolation)
