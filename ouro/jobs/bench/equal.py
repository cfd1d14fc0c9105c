"""Methods at the same mean bits of activations: who is more accurate, once nobody has more bits than the others.

A method with outliers comes to a mean by its threshold: kappa is searched on the calibration images. One without mixes two
widths: the tensors that lose most by the narrow one get the wide one (`ouro.quant.search.budget`), which is the best that
is known of it. Both meet a target from below, within a hundredth of a bit where they can.
"""

from __future__ import annotations

import math
import os
import time
from collections.abc import Generator, Iterator, Mapping
from dataclasses import asdict, dataclass, replace
from itertools import combinations, product
from typing import Any

import torch
from torch import Tensor

from ouro.data.source import own_data
from ouro.evaluate.paired import difference, unpacked
from ouro.evaluate.widths import damages_by_width
from ouro.jobs.bench.compare import CompareSpec, cell_ci95, kept_cell, require_classifier, set_key
from ouro.jobs.calibration import calibration_set
from ouro.jobs.inputs import open_model, source_of
from ouro.jobs.provenance import run_info
from ouro.progress import finish
from ouro.quant.apply import attach_calibration, counting, detach, effective_bits
from ouro.quant.bits import FLOAT
from ouro.quant.calibrate import calibrating
from ouro.quant.search.budget import allocate
from ouro.registry import QUANTIZERS
from ouro.store import Store
from ouro.taps import taps
from ouro.types import ModelSource, Progress, Report
from ouro.vision import VisionModel

OUTLIER_BITS = 8
WEIGHT_BITS = 4
KAPPAS = (0.25, 8.0)
"""Between these the threshold is searched, in standard deviations."""
HALVINGS = 8
SENSED = 16
"""Images on which a threshold, or a tensor's damage at a width, is searched."""
CONSTANTS = "scan.A"
"""The one constant that 3 bits ruin: with `wide_A` every method has it at 8."""


@dataclass(frozen=True, slots=True)
class EqualSpec:
    """targets: mean bits of activations; outliers have 8. wide_A: also with A at 8 bits, in scopes that round it.

    Raises:
        ValueError: no method or no target, a target outside 2..8, or an unknown method.
    """

    model: ModelSource
    methods: tuple[str, ...] = ("ouro_plus", "ouro", "dynamic")
    targets: tuple[float, ...] = (3.25, 4.25)
    scopes: tuple[str, ...] = ("lin", "ssm")
    wide_A: bool = True
    calib: str = "real:64"
    seeds: tuple[int, ...] = (0, 1, 2)
    limit: int = 2000
    data: str = ""
    device: str = "auto"

    def __post_init__(self) -> None:
        object.__setattr__(self, "model", source_of(self.model))
        for name in ("methods", "targets", "scopes", "seeds"):
            if not getattr(self, name):
                raise ValueError(f"{name} is empty; a comparison needs at least one")
        for name in self.methods:
            QUANTIZERS.get(name)
        for target in self.targets:
            if not 2 <= target < 8:
                raise ValueError(f"a target is {target:g} bits, expected 2 to below 8")

    def pieces(self) -> list[EqualSpec]:
        """One per seed, scope, target and method."""
        return [
            replace(self, seeds=(seed,), scopes=(scope,), targets=(target,), methods=(method,))
            for seed, scope, target, method in product(self.seeds, self.scopes, self.targets, self.methods)
        ]


@dataclass(frozen=True, slots=True)
class _Setting:
    """How a method meets a target."""

    bits: str
    options: tuple[tuple[str, Any], ...] = ()
    site_bits: tuple[tuple[str, int], ...] = ()


def equal_bits(spec: EqualSpec, *, root: str | os.PathLike[str] | None = None) -> Generator[Progress, None, Report]:
    """The report has {model, data, n, calib, seeds, rows, pairs}.

    rows: {scope, wide_A, target, method, top1, ci95, bits (mean bits of activations on the held-out images), outlier_share,
    settings (one per seed), right (outcomes per seed, see `ouro.evaluate.paired`)}. pairs: {scope, wide_A, target, better,
    worse, difference, ci95, seen, won, lost} of the first method against each other one.

    Raises:
        RuntimeError: a quantized model whose audit has a hole.
    """
    started = time.perf_counter()
    model = open_model(spec.model, spec.device)
    require_classifier(model, "bench equal")
    store = Store(root)
    groups = list(_groups(spec))
    total = len(groups) * len(spec.methods) * len(spec.seeds)
    rows: list[dict[str, Any]] = []
    done = 0
    for scope, wide, target in groups:
        for method in spec.methods:
            cells, settings = [], []
            for seed in spec.seeds:
                yield Progress(done, total, f"{scope}, {target:g} bits, {method}, seed {seed}")
                images = calibration_set(spec.calib, spec.model, model, seed, root=root, device=spec.device).images
                setting = _setting(store, model, images, method, scope, wide, target, seed)
                chosen = CompareSpec(
                    spec.model, (method,), (setting.bits,), seeds=(seed,), scope=scope, limit=spec.limit,
                    options=((method, setting.options),) if setting.options else (), data=spec.data, device=spec.device,
                )  # fmt: skip
                sites = dict(setting.site_bits)
                cells.append(kept_cell(store, model, images, chosen, method, setting.bits, seed, site_bits=sites))
                settings.append({"bits": setting.bits, "options": dict(setting.options), "widened": _widened(setting)})
                done += 1
            rows.append(_row(cells, settings) | {"scope": scope, "wide_A": wide, "target": target, "method": method})
    values = {
        "model": spec.model.name, "data": own_data(spec.data, model.info), "n": rows[0]["n"], "calib": spec.calib,
        "seeds": list(spec.seeds), "rows": rows, "pairs": _pairs(rows), "spec": asdict(spec),
    }  # fmt: skip
    return Report("equal", values, run_info(spec.seeds[0], started, model.device))


def _groups(spec: EqualSpec) -> Iterator[tuple[str, bool, float]]:
    for scope, target in product(spec.scopes, spec.targets):
        yield scope, False, target
        if spec.wide_A and scope != "lin":
            yield scope, True, target


def _setting(
    store: Store, model: VisionModel, images: Tensor, method: str, scope: str, wide: bool, target: float, seed: int
) -> _Setting:
    """How the method meets the target in this scope; searched once per set."""
    key = set_key(model, images) | {
        "job": "equal bits", "method": method, "scope": scope, "wide_A": wide, "target": target, "seed": seed,
    }  # fmt: skip
    run = store.open(key)
    kept = run.report()
    if kept is None:
        narrow = math.floor(target)
        fixed = {path: 8 for path, tap in taps(model) if wide and tap.site == CONSTANTS}
        if QUANTIZERS.get(method).has_outliers:
            kept = _by_threshold(model, images[:SENSED], method, scope, target, seed, narrow, fixed)
        else:
            kept = _by_widths(model, images[:SENSED], method, scope, target, seed, narrow, fixed)
        run.save_report(kept)
    return _Setting(kept["bits"], tuple(kept["options"].items()), tuple(kept["site_bits"].items()))


def _by_threshold(
    model: VisionModel, images: Tensor, method: str, scope: str, target: float, seed: int, narrow: int,
    fixed: Mapping[str, int],
) -> dict[str, Any]:  # fmt: skip
    """The smallest kappa (and so the most outliers) that stays within the target."""
    bits = f"w{WEIGHT_BITS}a{narrow}o{OUTLIER_BITS}"
    low, high = KAPPAS
    for _ in range(HALVINGS):
        kappa = round((low + high) / 2, 4)
        # how often a threshold is passed does not hang on steps that learn
        options: dict[str, Any] = {**_rule(method, kappa), "steps_per_block": 0}
        job = calibrating(
            model, images, method=method, bits=bits, scope=scope, seed=seed, site_bits=fixed or None, **options
        )
        low, high = (low, kappa) if _mean_bits(model, images, finish(job)) <= target else (kappa, high)
    return {"bits": bits, "options": _rule(method, round(high, 4)), "site_bits": dict(fixed)}


def _rule(method: str, kappa: float) -> dict[str, float]:
    """The raw step size has a threshold of its own, a third wider, in the method that knows one."""
    names = QUANTIZERS.get(method).__dataclass_fields__
    return {"kappa": kappa} | ({"kappa_delta": round(kappa * 4 / 3, 4)} if "kappa_delta" in names else {})


def _by_widths(
    model: VisionModel, images: Tensor, method: str, scope: str, target: float, seed: int, narrow: int,
    fixed: Mapping[str, int],
) -> dict[str, Any]:  # fmt: skip
    """Tensors at `narrow` or one bit more, so that the damages measured one by one add up to the least."""
    bits = f"w{WEIGHT_BITS}a{narrow}"
    job = damages_by_width(
        model, images, (narrow, narrow + 1), method=method, bits=f"w{FLOAT}a{narrow}", scope=scope, seed=seed
    )
    items = [item for item in finish(job) if not set(item.paths) & set(fixed)]
    return {"bits": bits, "options": {}, "site_bits": {**allocate(items, target).site_bits, **fixed}}


def _mean_bits(model: VisionModel, images: Tensor, calibration: Any) -> float:
    attach_calibration(model, calibration)
    try:
        with torch.no_grad(), counting(model):
            for chunk in images.split(32):
                model(chunk.to(model.device))
        return effective_bits(model)["activations"]
    finally:
        detach(model)


def _widened(setting: _Setting) -> int:
    return sum(width > int(setting.bits.partition("a")[2][0]) for _, width in setting.site_bits)


def _row(cells: list[dict[str, Any]], settings: list[dict[str, Any]]) -> dict[str, Any]:
    effective = [cell["effective_bits"] for cell in cells]
    return {
        "n": cells[0]["n"],
        "top1": sum(cell["top1"] for cell in cells) / len(cells),
        "ci95": cell_ci95(cells),
        "bits": sum(one["activations"] for one in effective) / len(cells),
        "outlier_share": sum(one["outlier_share"] for one in effective) / len(cells),
        "settings": settings,
        "right": [cell["right"] for cell in cells],
    }


def _pairs(rows: list[dict[str, Any]]) -> list[dict[str, Any]]:
    place = ("scope", "wide_A", "target")
    pairs = []
    for one, other in combinations(rows, 2):
        if all(one[key] == other[key] for key in place) and one["method"] == rows[0]["method"]:
            sides = [[unpacked(text, row["n"]) for text in row["right"]] for row in (one, other)]
            named = {"better": one["method"], "worse": other["method"]}
            pairs.append({key: one[key] for key in place} | named | difference(*sides))
    return pairs
