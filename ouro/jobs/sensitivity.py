"""Model + calibration set + held-out images -> what rounding each of its sites costs, ranked."""

from __future__ import annotations

import os
import time
from collections.abc import Generator
from dataclasses import dataclass
from math import isfinite
from typing import Any

import torch

from ouro.data import batches
from ouro.data.source import open_data, own_data
from ouro.evaluate.sensitivity import BATCH, GROUPINGS, MODES, Damage, Row, grouped, sensitivity
from ouro.jobs.calibration import calibration_set
from ouro.jobs.inputs import identity, open_model, source_of
from ouro.jobs.provenance import run_info
from ouro.progress import staged
from ouro.quant.calibrate import calibrating
from ouro.quant.plan import make_plan
from ouro.settings import check_counts
from ouro.store import Store
from ouro.tasks import task_of
from ouro.types import ModelSource, Progress, Report
from ouro.vision import VisionModel


@dataclass(frozen=True, slots=True)
class SensitivitySpec:
    """What is rounded (as in `QuantizeSpec`), and how its sites are looked at (as in `ouro.evaluate.sensitivity`).

    data: "" is the set that the model was trained on. limit: the first so many images of its test split.
    labels: False measures KL alone, as it is without labels; True refuses those of other classes than the model's.
    batch: images per forward; does not change the result.
    """

    model: ModelSource
    method: str = "ouro"
    bits: str = "w4a4o8"
    calib: str = "real:128"
    scope: str = "lin"
    mode: str = "isolated"
    by: str = "site"
    data: str = ""
    limit: int = 200
    seed: int = 0
    batch: int = BATCH
    options: tuple[tuple[str, Any], ...] = ()
    device: str = "auto"
    labels: bool = True

    def __post_init__(self) -> None:
        object.__setattr__(self, "model", source_of(self.model))
        check_counts(self, "limit", "batch")
        for name, known in (("mode", MODES), ("by", GROUPINGS)):
            if getattr(self, name) not in known:
                raise ValueError(f"{name} is {getattr(self, name)!r}; known: {', '.join(known)}")


def measure_sensitivity(
    spec: SensitivitySpec, *, root: str | os.PathLike[str] | None = None
) -> Generator[Progress, None, Report]:
    """Calibrates once and measures the sites in the mode that was asked for.

    The report has {model, method, bits, scope, calib, data, n, mode, by, fp_top1, whole: {kl, top1_drop, sqnr_db}, rows:
    [{name, block, kind, sites, bits, kl, top1_drop, sqnr_db, isolated_kl}], seconds, seed}. KL in nats, top-1 as a part
    of 1, None without labels; `sqnr_db` is None where the logits are the float model's, `isolated_kl` where it was not
    measured.

    Args:
        root: where runs are stored; `ouro.store.default_root()` by default.

    Raises:
        ValueError: unknown names, bits, options, mode or grouping, or a limit or batch below 1.
        RuntimeError: logits that are NaN.
    """
    started = time.perf_counter()
    model = open_model(spec.model, spec.device)
    info, data, options = model.info, own_data(spec.data, model.info), dict(spec.options)
    make_plan(model, spec.method, spec.bits, spec.scope, spec.seed, options)
    dataset = open_data(data, "test", info)
    task = task_of(info)
    labelled = spec.labels and bool(dataset.classes)
    if labelled:
        task.require(dataset, data, info)
    yield Progress(0, 1000, f"calibration set {spec.calib}")
    made = calibration_set(spec.calib, spec.model, model, spec.seed, root=root, device=spec.device)
    run = Store(root).open(identity(spec, model, job="sensitivity", data=data, options=options))
    how: dict[str, Any] = {"method": spec.method, "bits": spec.bits, "scope": spec.scope, "seed": spec.seed, **options}
    job = calibrating(model, made.images, conditions=made.conditions, **how)
    calibration = yield from staged(job, 0, 0.3, "calibration")
    shown, labels = zip(*batches(dataset, spec.batch, limit=spec.limit, mean=info.mean, std=info.std), strict=True)
    known = torch.cat(labels) if labelled and labels[0] is not None else None
    inputs, conditions = task.calibration(torch.cat(shown), known, info, spec.seed)
    # what one forward puts out cannot be scored where the model makes images in many
    right = None if task.generates else known
    measuring = sensitivity(
        model, calibration, inputs, right, conditions=conditions, mode=spec.mode, by=spec.by, batch=spec.batch
    )
    measured = yield from staged(measuring, 0.3, 1, spec.mode)
    rows = [_row(row, task.metric) for row in measured.rows]
    values = {
        "model": spec.model.name,
        "method": spec.method,
        "bits": calibration.plan.bits,
        "scope": spec.scope,
        "calib": spec.calib,
        "data": data,
        "n": sum(map(len, shown)),
        "mode": spec.mode,
        "by": spec.by,
        f"fp_{task.metric}": measured.score,
        "whole": _damage(measured.whole, task.metric),
        "rows": rows,
        "seconds": round(time.perf_counter() - started, 2),
        "seed": spec.seed,
    }
    kept = ("kl",) if right is None else ("kl", f"{task.metric}_drop")
    arrays = {name: torch.tensor([row[name] for row in rows], dtype=torch.float64) for name in kept}
    run.save_tensors(arrays)
    run.save_report(values)
    return Report("sensitivity", values, run_info(spec.seed, started, model.device), arrays)


def parts(model: VisionModel, scope: str, by: str) -> dict[str, tuple[str, ...]]:
    """What counts as one -> the paths of its sites, in the order of the model; see `ouro.evaluate.sensitivity.grouped`.

    Raises:
        ValueError: unknown scope or grouping.
    """
    # which sites there are depends on no method and no width
    _, plan = make_plan(model, "minmax", "w8a8", scope, 0, {})
    blank = torch.zeros(1, *model.info.input_size, device=model.device)
    image, conditions = task_of(model).calibration(blank, None, model.info, 0)
    return {group.name: group.paths for group in grouped(model, plan, image, by, conditions)}


def _damage(damage: Damage, metric: str) -> dict[str, float | None]:
    # JSON has no infinity
    sqnr = damage.sqnr_db if isfinite(damage.sqnr_db) else None
    return {"kl": damage.kl, f"{metric}_drop": damage.drop, "sqnr_db": sqnr}


def _row(row: Row, metric: str) -> dict[str, Any]:
    group = row.group
    facts = {"name": group.name, "block": group.block, "kind": group.kind, "sites": len(group.paths)}
    return facts | {"bits": list(group.bits), **_damage(row.damage, metric), "isolated_kl": row.isolated_kl}
