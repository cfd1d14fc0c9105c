"""The embedded zoo: small models on data with ground truth and on CIFAR-10, their weights in this package.

`vim_nano_witness` has another seed and saw other images than `vim_nano`; it only judges what vim_nano synthesizes. So
does `vim_micro_cifar10_witness`, of another seed and a shorter training.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from ouro.data import cifar10, crowds, digits, scenes
from ouro.models.dense import DetectorConfig, SegmenterConfig
from ouro.models.detectors import LocalVMambaDetector, MambaVisionDetector, VimDetector, VMambaDetector
from ouro.models.family import Family
from ouro.models.localmamba import LocalVMamba, LocalVMambaConfig
from ouro.models.mambavision import MambaVision, MambaVisionConfig
from ouro.models.segmenters import LocalVMambaSegmenter, MambaVisionSegmenter, VimSegmenter, VMambaSegmenter
from ouro.models.variant import Variant
from ouro.models.vim import Vim, VimConfig
from ouro.models.vmamba import VMamba, VMambaConfig
from ouro.models.zigma import ZigMa, ZigMaConfig

_WEIGHTS = Path(__file__).parent / "weights"
_SCENES: dict[str, Any] = {
    "image": 56, "num_classes": len(scenes.CLASSES), "mean": scenes.MEAN, "std": scenes.STD,
    "class_names": scenes.CLASSES,
}  # fmt: skip
_DIGITS: dict[str, Any] = {
    "image": 56, "num_classes": 10, "mean": digits.MEAN, "std": digits.STD, "class_names": tuple("0123456789"),
}  # fmt: skip
_CIFAR10: dict[str, Any] = {
    "image": 32, "num_classes": 10, "mean": cifar10.MEAN, "std": cifar10.STD, "class_names": cifar10.CLASSES,
}  # fmt: skip
# 56 pixels in patches of 4: 14 x 14 patches and a class token are 197 time steps, as in Vim at 224
_VIM: dict[str, Any] = {"width": 96, "depth": 6, "patch": 4, "stride": 4}
# 8 x 8 patches and a class token: 65 time steps
_VIM_MICRO: dict[str, Any] = {"width": 128, "depth": 12, "patch": 4, "stride": 4}


def _embedded(build: type[Family], config: Any, name: str, data: str = "scenes") -> Variant:
    return Variant(build, config, f"{name}.safetensors", embedded=True, data=data, crop_pct=1.0)


vim_nano = _embedded(Vim, VimConfig(**_VIM, **_SCENES), "vim_nano")
vim_nano_witness = _embedded(Vim, VimConfig(**_VIM, **_SCENES), "vim_nano_witness")
vim_nano_digits = _embedded(Vim, VimConfig(**_VIM, **_DIGITS), "vim_nano_digits", "digits")
vmamba_nano = _embedded(VMamba, VMambaConfig(64, (2, 3), expand=2.0, **_SCENES), "vmamba_nano")
localvmamba_nano = _embedded(
    LocalVMamba,
    LocalVMambaConfig(48, (2, 2), (("h", "v_flip", "w2", "w7_flip"), ("h_flip", "v", "w2_flip", "w7")) * 2, **_SCENES),
    "localvmamba_nano",
)
# both stages scan, so that attention is seen on 14 x 14 patches as well
mambavision_nano = _embedded(
    MambaVision,
    MambaVisionConfig(64, 32, (4, 4), heads=(2, 4), windows=(14, 7), conv_stages=0, **_SCENES),
    "mambavision_nano",
)
# the backbones of the classifiers above, at 96 pixels; only vmamba_nano_seg comes with weights
_SEG: dict[str, Any] = {
    "channels": 64, "aux": 32, "pools": (1, 2, 3, 6), "image": 96, "num_classes": len(crowds.SEGMENTS),
    "mean": scenes.MEAN, "std": scenes.STD, "class_names": crowds.SEGMENTS,
}  # fmt: skip
vmamba_nano_seg = _embedded(
    VMambaSegmenter, SegmenterConfig(vmamba_nano.config, **_SEG), "vmamba_nano_seg", "scenes_seg"
)
localvmamba_nano_seg = Variant(
    LocalVMambaSegmenter, SegmenterConfig(localvmamba_nano.config, **_SEG), data="scenes_seg", crop_pct=1.0
)
mambavision_nano_seg = Variant(
    MambaVisionSegmenter, SegmenterConfig(mambavision_nano.config, **_SEG), data="scenes_seg", crop_pct=1.0
)
vim_nano_seg = Variant(
    VimSegmenter, SegmenterConfig(vim_nano.config, features=(1, 3, 5), scales=(2, 1, 0.5), **_SEG), data="scenes_seg",
    crop_pct=1.0,
)  # fmt: skip
# objects are 20 to 43 pixels: maps of stride 8 and 16 have their anchors, one of stride 4 would cost four times as much
_DET: dict[str, Any] = {
    "channels": 64, "more": 1, "scale": 2.5, "image": 96, "num_classes": len(scenes.CLASSES), "mean": scenes.MEAN,
    "std": scenes.STD, "class_names": scenes.CLASSES,
}  # fmt: skip
vmamba_nano_det = _embedded(
    VMambaDetector, DetectorConfig(vmamba_nano.config, features=(1,), **_DET), "vmamba_nano_det", "scenes_det"
)
localvmamba_nano_det = Variant(
    LocalVMambaDetector, DetectorConfig(localvmamba_nano.config, features=(1,), **_DET), data="scenes_det", crop_pct=1.0
)
mambavision_nano_det = Variant(
    MambaVisionDetector, DetectorConfig(mambavision_nano.config, features=(1,), **_DET), data="scenes_det", crop_pct=1.0
)
vim_nano_det = Variant(
    VimDetector, DetectorConfig(vim_nano.config, features=(5,), scales=(0.5,), **_DET), data="scenes_det",
    crop_pct=1.0,
)  # fmt: skip
vim_micro_cifar10 = _embedded(Vim, VimConfig(**_VIM_MICRO, **_CIFAR10), "vim_micro_cifar10", "cifar10")
vim_micro_cifar10_witness = _embedded(Vim, VimConfig(**_VIM_MICRO, **_CIFAR10), "vim_micro_cifar10_witness", "cifar10")

# 16 pixels in patches of 2: 8 x 8 tokens; each of the eight zigzag paths has a layer
zigma_nano = _embedded(
    ZigMa, ZigMaConfig(96, 8, 2, channels=3, guided=True, **_DIGITS | {"image": 16}), "zigma_nano", "digits"
)

WITNESSES = {
    "vim_nano": ("vim_nano_witness", "vmamba_nano"),
    "vmamba_nano": ("vim_nano", "localvmamba_nano"),
    "localvmamba_nano": ("vmamba_nano", "vim_nano"),
    "mambavision_nano": ("vim_nano", "vmamba_nano"),
    "vim_micro_cifar10": ("vim_micro_cifar10_witness",),
    "vim_micro_cifar10_witness": ("vim_micro_cifar10",),
}
"""Model -> the independently trained models that judge its synthetic images, the main one first."""


def embedded_path(file: str) -> Path:
    """Where an embedded checkpoint lies."""
    return _WEIGHTS / file


def card(name: str) -> dict[str, Any] | None:
    """The model card of an embedded checkpoint (data, seed, steps, time, device, accuracy), or None."""
    path = _WEIGHTS / f"{name}.json"
    return json.loads(path.read_text()) if path.exists() else None


def witnesses_of(name: str) -> list[str]:
    """The models that judge what `name` synthesizes, as far as their weights are at hand."""
    return [judge for judge in WITNESSES.get(name, ()) if embedded_path(f"{judge}.safetensors").exists()]
