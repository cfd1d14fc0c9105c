"""Compiles what numba compiles, before workers share the suite: `python -m tests.prime`, or `make prime`.

The code is kept beside its source, where every later process reads it. Without this each worker begins by compiling the same
functions as the others do, for a minute of a core and more.
"""

from __future__ import annotations

import sys
from collections.abc import Callable
from concurrent.futures import ProcessPoolExecutor
from functools import partial
from multiprocessing import get_context

import torch

from ouro.attention import attention_map, by_mixer
from ouro.gen import synthesize
from ouro.quant.apply import attach_calibration
from ouro.quant.calibrate import quantize
from ouro.quant.packed.lower import lower
from ouro.taps import record
from tests import zoo
from tests.testing import QUICK

NAME = "vim_tiny_patch16_224"
CALIBRATIONS = (
    ("ouro", "w4a4o8", "lin"), ("kscale", "w4a8", "full"), ("dynamic", "w4a8", "lin"), ("minmax", "w8a8", "lin"),
)  # fmt: skip


def main() -> None:
    with ProcessPoolExecutor(2, get_context("spawn")) as pool:
        # what others build on goes first, in pieces that keep both processes busy to the end
        for work in (
            partial(scans, torch.float32), partial(scans, torch.float64), *(partial(rounding, *one) for one in CALIBRATIONS), image,
        ):  # fmt: skip
            pool.submit(run, work)


def run(work: Callable[[], None]) -> None:
    torch.set_num_threads(1)
    try:
        work()
    except Exception as error:
        # the suite says so at length
        sys.stderr.write(f"not compiled beforehand: {error}\n")


def scans(dtype: torch.dtype) -> None:
    """Scans and the attention in them, forward and backward, with and without rounding."""
    model = zoo.small(NAME).to(dtype)
    images = zoo.inputs(model, 2).to(dtype).requires_grad_()
    with record(model, "*.scans.*", detach=False) as trace:
        logits = model(images)
    (scans, *_) = by_mixer(trace.scans).values()
    maps = [attention_map(scans, source, "received", window=3).weights for source in ("h", "h_p")]
    torch.autograd.grad(sum(map(torch.sum, maps), logits.square().sum()), images)
    attach_calibration(model, quantize(model, images.detach(), method="minmax", scope="rec", bits="w32a32h8"))
    model(images).square().sum().backward()


def rounding(method: str, bits: str, scope: str) -> None:
    """Outliers, searches, whole numbers."""
    model = zoo.small(NAME)
    images = zoo.inputs(model, 2)
    attach_calibration(model, quantize(model, images, method=method, bits=bits, scope=scope, **QUICK.get(method, {})))
    if scope == "lin":
        with torch.no_grad():
            lower(model)(images)


def image() -> None:
    """A generated image."""
    synthesize(zoo.small(NAME), method="ouro", num=1, steps=1, window=3, positives=4)


if __name__ == "__main__":
    main()
