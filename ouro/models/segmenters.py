"""Segmentation models: every backbone with UPerNet, and the official configuration of VMamba on ADE20K.

Source: MzeroMiko/VMamba (segmentation/configs/vssm1, on mmsegmentation's upernet_swin): 512 pixels, 150 classes, features
of all four stages. Vim's features come from three of its layers and are made a pyramid, as mmsegmentation does for ViTs.
"""

from __future__ import annotations

from typing import Any

from ouro.models.dense import Segmenter, SegmenterConfig
from ouro.models.localmamba import LocalVMamba
from ouro.models.mambavision import MambaVision
from ouro.models.variant import Variant
from ouro.models.vim import Vim
from ouro.models.vmamba import VMamba, vmamba_small, vmamba_tiny


class VMambaSegmenter(Segmenter):
    """VMamba with UPerNet."""

    body = VMamba


class LocalVMambaSegmenter(Segmenter):
    """LocalVMamba with UPerNet."""

    body = LocalVMamba


class MambaVisionSegmenter(Segmenter):
    """MambaVision with UPerNet."""

    body = MambaVision


class VimSegmenter(Segmenter):
    """Vim with UPerNet."""

    body = Vim


def _ade20k(body: Variant) -> Variant:
    config: Any = SegmenterConfig(body.config, image=512, num_classes=150)
    return Variant(VMambaSegmenter, config, data="ade20k", crop_pct=1.0, interpolation="bilinear", license="mit")


vmamba_tiny_ade20k = _ade20k(vmamba_tiny)
vmamba_small_ade20k = _ade20k(vmamba_small)
