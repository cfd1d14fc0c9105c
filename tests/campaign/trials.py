"""All kinds of trials: importing this registers them."""

from __future__ import annotations

from tests.campaign import containers
from tests.campaign.registry import KINDS

__all__ = ["KINDS", "containers"]
