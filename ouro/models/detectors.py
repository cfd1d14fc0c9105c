"""Detection models: every backbone with RetinaNet, and the official configuration of VMamba with Mask R-CNN on COCO.

Source: MzeroMiko/VMamba (detection/configs/vssm1, on mmdetection's mask-rcnn_swin): features of all four stages, 80 classes,
pictures scaled to fit into 1333 x 800 and padded to multiples of 32.
"""

from __future__ import annotations

from typing import Any

from ouro.models.dense import Detector, MaskRCNN, MaskRCNNConfig
from ouro.models.localmamba import LocalVMamba
from ouro.models.mambavision import MambaVision
from ouro.models.variant import Variant
from ouro.models.vim import Vim
from ouro.models.vmamba import VMamba, vmamba_small, vmamba_tiny


class VMambaDetector(Detector):
    """VMamba with RetinaNet."""

    body = VMamba


class LocalVMambaDetector(Detector):
    """LocalVMamba with RetinaNet."""

    body = LocalVMamba


class MambaVisionDetector(Detector):
    """MambaVision with RetinaNet."""

    body = MambaVision


class VimDetector(Detector):
    """Vim with RetinaNet."""

    body = Vim


class VMambaMaskRCNN(MaskRCNN):
    """VMamba with Mask R-CNN."""

    body = VMamba


def _coco(body: Variant) -> Variant:
    config: Any = MaskRCNNConfig(body.config, image=(800, 1344), num_classes=80)
    return Variant(VMambaMaskRCNN, config, data="coco", crop_pct=1.0, interpolation="bilinear", license="mit")


vmamba_tiny_coco = _coco(vmamba_tiny)
vmamba_small_coco = _coco(vmamba_small)
