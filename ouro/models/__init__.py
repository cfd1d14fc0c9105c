"""The model families, each in one file; importing this package also registers every name with timm."""

from __future__ import annotations

from dataclasses import fields, replace
from typing import Any

from ouro.models import timm_names
from ouro.models.checkpoint import load_checkpoint
from ouro.models.variant import Variant
from ouro.models.zoo import embedded_path
from ouro.registry import MODELS
from ouro.vision import VisionModel

__all__ = ["create_model", "load_checkpoint", "variant"]


def variant(name: str) -> Variant:
    """The entry behind a name.

    Raises:
        ValueError: unknown name; the message lists the known ones.
    """
    return MODELS.get(name)


def create_model(name: str, pretrained: bool | str = False, **config: Any) -> VisionModel:
    """Builds a model in eval mode.

    Args:
        pretrained: True for the published or embedded weights, or whatever `load_checkpoint` takes.
        config: fields of the family's config to replace, such as num_classes or image.

    Raises:
        ValueError: unknown name or option, or weights that do not fit.
    """
    entry = variant(name)
    known = [field.name for field in fields(entry.config)]
    unknown = [key for key in config if key not in known]
    if unknown:
        raise ValueError(f"{name} has no option {unknown[0]!r}; known: {', '.join(known)}")
    model = entry.build(replace(entry.config, **config), name)
    model.info = replace(model.info, data=entry.data, crop_pct=entry.crop_pct, interpolation=entry.interpolation)
    if pretrained is True:
        if entry.weights is None:
            raise ValueError(f"{name} has no published weights; pass pretrained='path/to/checkpoint'")
        load_checkpoint(model, embedded_path(entry.weights) if entry.embedded else entry.weights)
        # by its name: where this package is installed says nothing about the weights
        model.loaded_from = replace(model.loaded_from, source=entry.weights) if model.loaded_from else None
    elif pretrained:
        load_checkpoint(model, pretrained)
    return model.eval()


timm_names.register(create_model)
