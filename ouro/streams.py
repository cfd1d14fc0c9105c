"""Random streams that depend on what they are for, so that no draw changes another one."""

from __future__ import annotations

import numpy as np


def stream(seed: int, purpose: int, index: int) -> np.random.Generator:
    """An independent random stream for each (seed, purpose, index).

    numpy mixes all three into its state; torch's CPU generator would only look at the low 32 bits of one number.
    """
    return np.random.default_rng((seed, purpose, index))
