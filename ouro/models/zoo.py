"""The embedded zoo: small models on data with ground truth, their weights in this package."""

from __future__ import annotations

from ouro.data import digits, scenes
from ouro.models.vim import VimConfig

_NANO = {"width": 96, "depth": 6, "image": 56, "patch": 4, "stride": 4}

TRAINED_ON = {"scenes": (scenes.MEAN, scenes.STD), "digits": (digits.MEAN, digits.STD)}
"""Data set -> the normalisation its models expect."""

CONFIGS = {
    "vim_nano": VimConfig(**_NANO, num_classes=12, mean=scenes.MEAN, std=scenes.STD, class_names=scenes.CLASSES),
    "vim_nano_witness": VimConfig(
        **_NANO, num_classes=12, mean=scenes.MEAN, std=scenes.STD, class_names=scenes.CLASSES
    ),
    "vim_nano_digits": VimConfig(
        **_NANO, num_classes=10, mean=digits.MEAN, std=digits.STD, class_names=tuple("0123456789")
    ),
}
