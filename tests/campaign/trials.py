"""All kinds of trials: importing this registers them."""

from __future__ import annotations

from tests.campaign import containers, disks, folders, kills, options, pictures, workbench
from tests.campaign.registry import KINDS

__all__ = ["KINDS", "containers", "disks", "folders", "kills", "options", "pictures", "workbench"]
