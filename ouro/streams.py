"""Random streams that depend on what they are for, so that no draw changes another one."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from numbers import Integral

import numpy as np
import torch

from ouro.settings import brief

LARGEST = 2**53 - 1
"""Seed: what JSON carries without loss, and what torch takes a thousand times of."""


def stream(seed: int, purpose: int, index: int) -> np.random.Generator:
    """An independent random stream for each (seed, purpose, index).

    numpy mixes all three into its state; torch's CPU generator would only look at the low 32 bits of one number.

    Raises:
        ValueError: see `check_seed`.
    """
    return np.random.default_rng((check_seed(seed), purpose, index))


def generator(seed: int) -> torch.Generator:
    """torch's generator on the CPU for a seed.

    Raises:
        ValueError: see `check_seed`.
    """
    return torch.Generator().manual_seed(check_seed(seed))


@contextmanager
def drawing(seed: int) -> Iterator[None]:
    """While it lasts what torch makes and draws is on the CPU and follows the seed; the caller's streams stay as they were.

    Those of GPUs too, which `torch.manual_seed` begins anew, whether or not they have been used.

    Raises:
        ValueError: see `check_seed`.
    """
    with torch.random.fork_rng(devices=[]), torch.device("cpu"):
        torch.default_generator.manual_seed(check_seed(seed))
        yield


def check_seed(seed: int) -> int:
    """The seed, if it is one.

    Raises:
        ValueError: it is no whole number from 0 to LARGEST.
    """
    if not isinstance(seed, Integral) or isinstance(seed, bool) or not 0 <= seed <= LARGEST:
        raise ValueError(f"seed is {brief(seed)}, expected a whole number from 0 to 2^53 - 1")
    return int(seed)
