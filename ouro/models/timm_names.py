"""Registers our names with timm, so that `timm.create_model` and `timm.list_models` know them."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any, cast

from torch import nn

from ouro._torchvision_ops import declare_missing_ops
from ouro.models.download import is_url
from ouro.models.features import Backbone
from ouro.models.variant import Variant
from ouro.registry import MODELS
from ouro.taps import taps
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


def _entry_point(name: str, create: Callable[..., VisionModel]) -> Callable[..., nn.Module]:
    def build(
        pretrained: bool = False,
        pretrained_cfg: Any = None,
        pretrained_cfg_overlay: Any = None,
        cache_dir: str | None = None,
        features_only: bool = False,
        out_indices: int | Sequence[int] | None = None,
        **config: Any,
    ) -> nn.Module:
        for option, value in (("pretrained_cfg_overlay", pretrained_cfg_overlay), ("cache_dir", cache_dir)):
            if value is not None:
                raise ValueError(f"{name} takes no {option}; pass the file itself to ouro.load_checkpoint")
        if out_indices is not None and not features_only:
            raise ValueError(f"out_indices chooses stages for features_only=True, which {name} was not given")
        model = create(name, pretrained, **config)
        cfg = default_cfgs[name].default if pretrained_cfg is None else pretrained_cfg
        # timm reads transforms from this dict; what depends on the options is that of the model that was built
        fitted = {"num_classes": model.num_classes, "input_size": model.info.input_size} | _ends(model)
        model.pretrained_cfg = model.default_cfg = cfg.to_dict() | fitted
        return _features(model, out_indices) if features_only else model

    build.__name__ = build.__qualname__ = name
    build.__module__ = __name__
    build.__doc__ = f"{name}; see ouro.create_model."
    return build


def _features(model: VisionModel, out_indices: int | Sequence[int] | None) -> nn.Module:
    """The model as timm's backbone: images [b 3 h w] -> a list of maps [b c h w]."""
    # imported late for the same reason as in `register`
    from timm.models._features import FeatureGetterNet

    if not isinstance(model, Backbone):
        raise ValueError(
            f"{model.info.name} hands out no features; features_only is for classifiers, such as vmamba_tiny"
        )
    wanted = len(model.feature_info) if out_indices is None else out_indices
    backbone: Any = FeatureGetterNet(model, wanted if isinstance(wanted, int) else tuple(wanted))
    whole = cast(dict[str, Any], model.pretrained_cfg)
    rest = {key: value for key, value in whole.items() if key not in ("num_classes", "classifier")}
    backbone.pretrained_cfg = backbone.default_cfg = rest
    return backbone.eval()


def _ends(model: VisionModel) -> dict[str, str | None]:
    """Paths of the first convolution and of the classifier."""
    convolution = next(path for path, module in model.named_modules() if isinstance(module, nn.Conv2d))
    classifiers = [path.rpartition(".")[0] for path, tap in taps(model) if tap.site == "head.in"]
    return {"first_conv": convolution, "classifier": classifiers[0] if model.num_classes else None}


def _pretrained_cfg(name: str) -> dict[str, Any]:
    entry = MODELS.get(name)
    return _published(entry) | {
        # what the input is has as many channels as a mean; a config only has classes where the model is a classifier
        "input_size": (len(entry.config.mean), *entry.config.size),
        "num_classes": getattr(entry.config, "num_classes", 0),
        "mean": entry.config.mean,
        "std": entry.config.std,
        "crop_pct": entry.crop_pct,
        "interpolation": entry.interpolation,
        "license": entry.license,
        "custom_load": True,
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
