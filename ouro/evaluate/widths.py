"""What every site loses at every width it could have: what a budget of bits is spent by (`ouro.quant.search.budget`)."""

from __future__ import annotations

import copy
from collections.abc import Generator, Sequence
from dataclasses import replace
from typing import Any

import torch
from torch import Tensor

from ouro.evaluate.sensitivity import BATCH, Subsets, grouped
from ouro.progress import staged
from ouro.quant.apply import attach_calibration, counting, counts
from ouro.quant.calibrate import calibrating
from ouro.quant.plan import is_rounded, make_plan
from ouro.quant.quantizer import RECURRENT_SITES, WEIGHT_SITES
from ouro.quant.search.budget import Item
from ouro.taps import taps
from ouro.types import Calibration, Progress
from ouro.vision import VisionModel


def damages_by_width(
    model: VisionModel,
    images: Tensor,
    widths: Sequence[int],
    *,
    conditions: Sequence[Tensor] = (),
    by: str = "site",
    method: str,
    bits: str,
    scope: str,
    seed: int,
    **options: Any,
) -> Generator[Progress, None, list[Item]]:
    """What `ouro.quant.search.budget.allocate` chooses from: the isolated KL of every site, or group, at every width.

    Every width is calibrated once, with all sites at this width, and judged, on the same images. Sites inside the
    recurrence, and those that `bits` leave in floating point, are not to be chosen for.
    """
    _, plan = make_plan(model, method, bits, scope, seed, options)
    site_of = {path: tap.site for path, tap in taps(model)}
    chosen = {
        path: spec for path, spec in plan.sites.items() if is_rounded(spec) and site_of[path] not in RECURRENT_SITES
    }
    groups = grouped(model, replace(plan, sites=chosen), images[:1], by, [given[:1] for given in conditions])
    by_width: list[dict[int, float]] = [{} for _ in groups]
    sizes: dict[str, int] = {}
    for number, width in enumerate(widths):
        begin, middle, end = (place / (2 * len(widths)) for place in range(2 * number, 2 * number + 3))
        site_bits = dict.fromkeys(chosen, width)
        job = calibrating(
            model, images, conditions=conditions, method=method, bits=bits, scope=scope, seed=seed, site_bits=site_bits,
            **options,
        )  # fmt: skip
        calibration = yield from staged(job, begin, middle, f"{width} bits")
        subsets = Subsets(model, calibration, images, BATCH, conditions=conditions)
        measuring = subsets.outputs([(), *(group.paths for group in groups)])
        exact, *alone = yield from staged(measuring, middle, end, f"damage at {width} bits")
        for damages, rounded in zip(by_width, alone, strict=True):
            damages[width] = subsets.damage(exact, rounded).kl
        sizes = sizes or elements(model, calibration, images[:1])
    return [
        Item(
            group.name,
            group.paths,
            "weights" if site_of[group.paths[0]] in WEIGHT_SITES else "activations",
            sum(sizes[path] for path in group.paths),
            damages,
        )
        for group, damages in zip(groups, by_width, strict=True)
    ]


def elements(model: VisionModel, calibration: Calibration, image: Tensor) -> dict[str, int]:
    """Tap path -> elements that are rounded there for one image [1 3 h w]."""
    rounded = attach_calibration(copy.deepcopy(model).eval(), calibration)
    with torch.no_grad(), counting(rounded):
        rounded(image.to(model.device))
    return {path: int(counted.sum()) for path, counted in counts(rounded).items()}
