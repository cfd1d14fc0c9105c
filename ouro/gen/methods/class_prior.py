"""Only the class prior: images that the model takes for their class, and nothing asked of their patches.

The control that says what looking at patches is worth.
"""

from __future__ import annotations

from ouro.gen.objective import Objective


class ClassPrior(Objective):
    """Loss terms: class and smoothness, see `Objective`."""

    title = "Class loss only"
