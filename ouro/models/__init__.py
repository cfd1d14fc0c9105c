"""The model families, each in one file; importing this package also registers every name with timm."""

from __future__ import annotations

from dataclasses import asdict, replace
from typing import Any, cast

import torch

from ouro.models import timm_names
from ouro.models.checkpoint import Checkpoint, Source, read_checkpoint
from ouro.models.family import Family
from ouro.models.features import Backbone
from ouro.models.fit import load_checkpoint, verified
from ouro.models.identify import config_of, identify, skeleton, with_options
from ouro.models.inspection import Inspection, inspect
from ouro.models.variant import Variant
from ouro.models.zoo import embedded_path
from ouro.registry import MODELS
from ouro.settings import brief, first_line
from ouro.streams import drawing

HEAD_SEED = 0
"""That a head without weights is drawn from beside pretrained ones."""

__all__ = [
    "Checkpoint",
    "Inspection",
    "config_of",
    "create_model",
    "identify",
    "inspect",
    "load_checkpoint",
    "read_checkpoint",
    "variant",
]


def variant(name: str) -> Variant:
    """The entry behind a name.

    Raises:
        ValueError: unknown name; the message lists the known ones.
    """
    return MODELS.get(name)


def create_model(name: str, pretrained: bool | Source = False, **config: Any) -> Family:
    """Builds a model in eval mode; what a checkpoint says of its size is read from it.

    Args:
        pretrained: True for the published or embedded weights, or whatever `load_checkpoint` takes. The number of
            classes, the image size of a position embedding, width, depth and the like are those of the checkpoint.
        config: fields of the family's config to replace; they win over the checkpoint's. With another `num_classes`
            all but the head is loaded (it is drawn from seed 0, whatever was drawn before, and `model.loaded_from.fresh`
            lists its keys), with another `image` the position embedding is resized. A classifier of 0 classes has no head
            and gives pooled features [b c], as timm's models do.

    Raises:
        ValueError: unknown name or option, or weights that do not fit.
    """
    entry = variant(name)
    if config.get("num_classes") == 0 and issubclass(entry.build, Backbone):
        # classes have to be named for a head not to be asked for, and it is left out again
        model = create_model(name, pretrained, **config | {"num_classes": entry.config.num_classes})
        cast(Backbone, model).drop_head()
        return model
    options = with_options(name, **config)
    if pretrained is False or pretrained is None:
        return _built(entry, options, name).eval()
    checkpoint = _published(entry, name) if pretrained is True else read_checkpoint(pretrained)
    head = "fresh" if "num_classes" in config else "strict"
    if changes := config_of(name, checkpoint, **config):
        options = with_options(name, **changes, **config)
        # before anything is allocated at the size that a file claims
        verified(skeleton(entry.build, options, name), checkpoint, head)
    with drawing(HEAD_SEED):
        # of what is drawn only a fresh head stays: the same one every time, on every device
        model = _built(entry, options, name)
    return load_checkpoint(model.to(torch.get_default_device()), checkpoint, head=head).eval()


def _built(entry: Variant, options: Any, name: str) -> Family:
    """The model, with what its entry knows beside its config.

    Raises:
        ValueError: torch makes no layers of such sizes, or there is no memory for them.
    """
    try:
        model = entry.build(options, name)
    except (RuntimeError, MemoryError, OverflowError) as error:
        differs = {key: x for key, x in asdict(options).items() if x != asdict(entry.config).get(key)}
        reason = first_line(error)
        raise ValueError(f"{name} cannot be built with {brief(differs)}: {reason}") from error
    model.info = entry.described(model.info)
    return model


def _published(entry: Variant, name: str) -> Checkpoint:
    """The weights that come with a name."""
    if entry.weights is None:
        raise ValueError(f"{name} has no published weights; pass pretrained='path/to/checkpoint'")
    checkpoint = read_checkpoint(embedded_path(entry.weights) if entry.embedded else entry.weights)
    # by its name: where this package is installed says nothing about the weights
    return replace(checkpoint, source=entry.weights)


timm_names.register(create_model)
