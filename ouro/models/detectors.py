"""Detection models: every backbone with RetinaNet."""

from __future__ import annotations

from ouro.models.dense import Detector
from ouro.models.localmamba import LocalVMamba
from ouro.models.mambavision import MambaVision
from ouro.models.vim import Vim
from ouro.models.vmamba import VMamba


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
