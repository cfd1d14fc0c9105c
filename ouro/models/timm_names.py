"""Registers our names with timm, so that `timm.create_model` and `timm.list_models` know them."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from ouro._torchvision_ops import declare_missing_ops
from ouro.models.download import is_url
from ouro.models.variant import Variant
from ouro.registry import MODELS
from ouro.vision import VisionModel

default_cfgs: dict[str, Any] = {}
"""Read by timm: name -> pretrained configuration."""


def register(create: Callable[..., VisionModel]) -> None:
    """Adds an entry point per model to timm's registry; `create` is `ouro.create_model`."""
    declare_missing_ops()
    # timm imports torchvision, which needs the line above first
    from timm.models import generate_default_cfgs, register_model

    default_cfgs.update(generate_default_cfgs({name: _pretrained_cfg(name) for name in MODELS}))
    for name in MODELS:
        entry_point = _entry_point(name, create)
        globals()[name] = entry_point
        register_model(entry_point)


def _entry_point(name: str, create: Callable[..., VisionModel]) -> Callable[..., VisionModel]:
    def build(
        pretrained: bool = False,
        pretrained_cfg: Any = None,
        pretrained_cfg_overlay: Any = None,
        cache_dir: str | None = None,
        **config: Any,
    ) -> VisionModel:
        for option, value in (("pretrained_cfg_overlay", pretrained_cfg_overlay), ("cache_dir", cache_dir)):
            if value is not None:
                raise ValueError(f"{name} takes no {option}; pass the file itself to ouro.load_checkpoint")
        model = create(name, pretrained, **config)
        cfg = default_cfgs[name].default if pretrained_cfg is None else pretrained_cfg
        # timm reads transforms from this dict; classes and size are those of the model that was built
        fitted = {"num_classes": model.num_classes, "input_size": model.info.input_size}
        model.pretrained_cfg = model.default_cfg = cfg.to_dict() | fitted
        return model

    build.__name__ = build.__qualname__ = name
    build.__module__ = __name__
    build.__doc__ = f"{name}; see ouro.create_model."
    return build


def _pretrained_cfg(name: str) -> dict[str, Any]:
    entry = MODELS.get(name)
    size = entry.config.image
    return _published(entry) | {
        "input_size": (3, size, size),
        "num_classes": entry.config.num_classes,
        "mean": entry.config.mean,
        "std": entry.config.std,
        "crop_pct": entry.crop_pct,
        "interpolation": entry.interpolation,
        "license": entry.license,
        "custom_load": True,
        "first_conv": "patch_embed.proj",
        "classifier": "head",
    }


def _published(entry: Variant) -> dict[str, str]:
    """Where the weights are, as timm names it; a hub id carries its revision behind an @ in timm, too."""
    if entry.weights is None or entry.embedded:
        return {}
    if is_url(entry.weights):
        return {"url": entry.weights}
    hub_id, _, file = entry.weights.partition(":")
    file, at, revision = file.partition("@")
    return {"hf_hub_id": hub_id + at + revision, "hf_hub_filename": file}
