"""Methods x bits x calibration sets x seeds on one model: the table that a claim about a quantizer has to survive.

Every cell is kept as it is finished, so an interrupted table goes on where it stopped, and several processes may fill
one table together (each with its own seeds).
"""

from __future__ import annotations

import csv
import io
import itertools
import json
import math
import os
import time
from collections.abc import Generator, Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from typing import Any

import torch

from ouro.data import batches
from ouro.data.source import open_data, own_data
from ouro.evaluate.accuracy import outcomes
from ouro.evaluate.paired import between, interval, kept, resampled_interval, unpacked
from ouro.jobs.calibration import calibration_set
from ouro.jobs.inputs import data_key, open_model, source_of
from ouro.jobs.memory import PeakMemory
from ouro.jobs.provenance import run_info
from ouro.metrics import METRICS
from ouro.progress import finish
from ouro.quant.apply import attach_calibration, counting, detach, effective_bits, weights_digest
from ouro.quant.audit import require_sealed
from ouro.quant.bits import parse_bits
from ouro.quant.calibrate import calibrating, images_digest
from ouro.settings import check_counts
from ouro.store import Store
from ouro.tasks import task_of
from ouro.types import ModelSource, Progress, Report
from ouro.vision import VisionModel

_PLACE = ("method", "bits", "calib", "seed")
"""What a table says of a cell beside what was measured of it."""


@dataclass(frozen=True, slots=True)
class CompareSpec:
    """What the table spans. In `calibs` "{seed}" stands for the seed, so that every seed has its own synthetic set.

    options: of single methods, as (method, ((name, value), ...)).

    Raises:
        ValueError: nothing to compare, or a limit below 1.
    """

    model: ModelSource
    methods: tuple[str, ...] = ("minmax", "clipped", "dynamic", "ouro")
    bits: tuple[str, ...] = ("w8a8", "w4a8o16", "w4a4o8", "w4a3o8")
    calibs: tuple[tuple[str, str], ...] = (("noise", "noise:128"), ("real", "real:128"))
    seeds: tuple[int, ...] = (0, 1, 2)
    scope: str = "lin"
    limit: int = 1000
    batch: int = 64
    options: tuple[tuple[str, tuple[tuple[str, Any], ...]], ...] = ()
    data: str = ""
    device: str = "auto"

    def __post_init__(self) -> None:
        object.__setattr__(self, "model", source_of(self.model))
        for name in ("methods", "bits", "calibs", "seeds"):
            if not getattr(self, name):
                raise ValueError(f"{name} is empty; a table needs at least one")
        check_counts(self, "limit")

    def pieces(self) -> list[CompareSpec]:
        """One table per seed and set."""
        return [replace(self, seeds=(seed,), calibs=(calib,)) for seed in self.seeds for calib in self.calibs]


def compare(spec: CompareSpec, *, root: str | os.PathLike[str] | None = None) -> Generator[Progress, None, Report]:
    """Fills the table; the report has {model, data, metric, parameters, input_size, crop_pct, interpolation,
    scope, n, fp_top1, fp_ci95, rows, pairs, cells}; where `metric` is not top1, its name stands in the place of top1.

    `rows` are means over seeds: {method, bits, calib, top1, ci95, spread (standard deviation), effective_bits,
    calibration_seconds, peak_mb}; `cells` are the single runs, with the outcome of every image in `right`, or the scores
    of resampled images in `resampled`, see `ouro.evaluate.paired`. `pairs` are differences on the same images of what
    differs in the method or in the set alone:
    {bits, better: {method, calib}, worse: {method, calib}, difference, ci95, seen, won, lost}.

    Raises:
        RuntimeError: a quantized model whose audit has a hole.
    """
    started = time.perf_counter()
    model = open_model(spec.model, spec.device)
    store = Store(root)
    cells: list[dict[str, Any]] = []
    sets = list(itertools.product(spec.seeds, spec.calibs))
    total = 1 + len(sets) * len(spec.bits) * len(spec.methods)
    yield Progress(0, total, "float model")
    metric = task_of(model).metric
    exact = _once(store, _key(model, spec, "float"), metric, lambda: measured(model, spec))
    for seed, (label, calib) in sets:
        made = calibration_set(calib.format(seed=seed), spec.model, model, seed, root=root, device=spec.device)
        for bits, method in itertools.product(spec.bits, spec.methods):
            cell = kept_cell(store, model, made.images, spec, method, bits, seed, conditions=made.conditions)
            cells.append({"method": method, "bits": bits, "calib": label, "seed": seed} | cell)
            said = f"{label} {bits} {method} seed {seed}: {METRICS[metric].shown(cell[metric])}"
            yield Progress(len(cells) + 1, total, said, cells[-1])
    values = {
        "model": spec.model.name,
        "data": own_data(spec.data, model.info),
        "metric": metric,
        "parameters": sum(p.numel() for p in model.parameters()),
        "input_size": list(model.info.input_size),
        "crop_pct": model.info.crop_pct,
        "interpolation": model.info.interpolation,
        "scope": spec.scope,
        "n": exact["n"],
        "seeds": list(spec.seeds),
        f"fp_{metric}": exact[metric],
        "fp_ci95": exact["ci95"],
        "rows": _rows(cells, metric),
        "pairs": _pairs(cells, metric),
        "cells": cells,
        "spec": asdict(spec),
    }
    return Report("compare", values, run_info(spec.seeds[0], started, model.device))


def kept_cell(
    store: Store,
    model: VisionModel,
    images: torch.Tensor,
    spec: CompareSpec,
    method: str,
    bits: str,
    seed: int,
    *,
    site_bits: Mapping[str, int] | None = None,
    conditions: Sequence[torch.Tensor] = (),
) -> dict[str, Any]:
    """{n, top1, ci95, right, effective_bits, calibration_seconds, peak_mb} of one method on one set, measured once.

    Raises:
        RuntimeError: the quantized model's audit has a hole.
    """
    key = _cell_key(model, images, spec, method, bits, seed, conditions)
    key |= {"site_bits": dict(site_bits)} if site_bits else {}
    metric = task_of(model).metric
    return _once(store, key, metric, lambda: _cell(model, images, spec, method, bits, seed, site_bits, conditions))


def take_over(
    spec: CompareSpec, values: Mapping[str, Any], *, root: str | os.PathLike[str] | None = None
) -> Generator[Progress, None, int]:
    """Keeps the cells of a stored table as if they had been measured here, so that `compare` adds what it lacks; how many.

    A cell is taken where model, data, images, scope and options are the spec's and the set has the same name and source.
    That the weights are the same is found out by the float model's score, which is measured and has to be the stored one.

    Raises:
        ValueError: a table of something else, or of other weights.
    """
    asks = _asked(values)
    asked = json.loads(json.dumps(asdict(spec)))
    for stored in asks:
        for name in ("model", "data", "limit", "scope", "options"):
            if asked[name] != stored[name]:
                raise ValueError(
                    f"the table's {name} is {stored[name]}, asked for is {asked[name]}; only a table of the same is extended"
                )
        for label, calib in stored["calibs"]:
            if dict(spec.calibs).get(label, calib) != calib:
                raise ValueError(
                    f"{label} is {calib} in the table, asked for is {dict(spec.calibs)[label]}; give one of them another label"
                )
    yield Progress(0, 1 + len(values["cells"]), "float model")
    model, store = open_model(spec.model, spec.device), Store(root)
    metric = task_of(model).metric
    exact = _once(store, _key(model, spec, "float"), metric, lambda: measured(model, spec))
    if (exact["n"], exact[metric]) != (values["n"], values.get(f"fp_{metric}")):
        raise ValueError(
            f"the float model has {exact[metric]} on {exact['n']} images, in the table {values.get(f'fp_{metric}')} on "
            f"{values['n']}: its weights or images are others; measure the table anew, without --extend"
        )
    taken = 0
    sources = {tuple(calib) for stored in asks for calib in stored["calibs"]} & set(spec.calibs)
    for (label, calib), seed in itertools.product(sorted(sources), spec.seeds):
        same = [cell for cell in values["cells"] if (cell["calib"], cell["seed"]) == (label, seed)]
        if not same:
            continue
        made = calibration_set(calib.format(seed=seed), spec.model, model, seed, root=root, device=spec.device)
        for cell in same:
            key = _cell_key(model, made.images, spec, cell["method"], cell["bits"], seed, made.conditions)
            if (run := store.open(key)).report() is None:
                run.save_report({name: value for name, value in cell.items() if name not in _PLACE})
            taken += 1
        yield Progress(1 + taken, 1 + len(values["cells"]), f"{label} seed {seed}: {len(same)} cells taken over")
    return taken


def with_cells_of(values: Mapping[str, Any], stored: Mapping[str, Any]) -> dict[str, Any]:
    """A table with all cells of a stored one of the same images, so that it need be no rectangle; the stored come first.

    `spec` stays what was asked last, `specs` has all that were asked, the oldest first.
    """
    asked = {tuple(cell[name] for name in _PLACE) for cell in values["cells"]}
    more = [cell for cell in stored["cells"] if tuple(cell[name] for name in _PLACE) not in asked]
    if not more:
        return dict(values)
    cells = [*more, *values["cells"]]
    whole = {
        "seeds": sorted({cell["seed"] for cell in cells}),
        "rows": _rows(cells, values["metric"]),
        "pairs": _pairs(cells, values["metric"]),
        "cells": cells,
        "specs": [*_specs(stored), values["spec"]],
    }
    return {**values, **whole}


def _specs(values: Mapping[str, Any]) -> list[Any]:
    """What a table was asked, the oldest first."""
    return list(values.get("specs") or [values.get("spec")])


def _asked(values: Mapping[str, Any]) -> list[dict[str, Any]]:
    """What a stored table was asked, field by field of a `CompareSpec`; an older table says less, and the rest is as usual.

    Raises:
        ValueError: it says nothing of that, or holds something else than cells.
    """
    cells = values.get("cells")
    # the model first: of what it is not, nothing else has to be found out
    if not isinstance(cells, list) or not all(isinstance(spec, dict) and "model" in spec for spec in _specs(values)):
        raise ValueError(
            "the table says no spec and cells, so it cannot be extended; it is no result of `ouro bench quantization`"
        )
    for number, cell in enumerate(cells):
        missing = [name for name in _PLACE if not isinstance(cell, dict) or name not in cell]
        why = f"it has no {missing[0]}" if missing else _flaw(cell, str(values.get("metric", "top1")), quantized=True)
        if why:
            raise ValueError(f"cell {number} of the table cannot be extended: {why}")
    asks, usual = [], asdict(CompareSpec(ModelSource("")))
    for spec in _specs(values):
        # a name alone is what older tables say of a model
        model = {"model": asdict(source_of(spec["model"]))} if isinstance(spec["model"], str) else {}
        asks.append(json.loads(json.dumps({**usual, **spec, **model})))
        calibs = asks[-1]["calibs"]
        if not (isinstance(calibs, list) and all(isinstance(one, list) and len(one) == 2 for one in calibs)):
            raise ValueError(f"the table's calibs are {str(calibs)[:60]}, expected pairs of a label and a set")
    return asks


def require_classifier(model: VisionModel, what: str) -> None:
    """Refuses a model whose score is no mean over images, for what pairs answers image by image.

    Raises:
        ValueError: the message says what to do.
    """
    if (task := task_of(model)).name != "classification":
        raise ValueError(
            f"{what} pairs right answers image by image, {model.info.name} is for {task.name}; take a classifier, or "
            "`ouro bench quantization`, which resamples images"
        )


def set_key(model: VisionModel, images: torch.Tensor) -> dict[str, Any]:
    """What a result hangs on that was made of a model and a set alone."""
    return {"model": model.info.name, "weights": weights_digest(model), "set": images_digest(images)}


def _key(model: VisionModel, spec: CompareSpec, method: str) -> dict[str, Any]:
    key: dict[str, Any] = {
        "job": "paired compare",
        "model": spec.model.name,
        "weights": weights_digest(model),
        "scope": spec.scope,
    }
    key |= {"config": dict(spec.model.config)} if spec.model.config else {}
    # they say which class of a data set is which of the model's
    key |= {"class_names": list(spec.model.class_names)} if spec.model.class_names else {}
    key |= {} if model.device.type == "cpu" else {"device": model.device.type}
    return key | data_key(spec.data, model.info) | {"limit": spec.limit, "method": method}


def _cell_key(
    model: VisionModel,
    images: torch.Tensor,
    spec: CompareSpec,
    method: str,
    bits: str,
    seed: int,
    conditions: Sequence[torch.Tensor],
) -> dict[str, Any]:
    key = _key(model, spec, method) | {"bits": bits, "seed": seed, "set": images_digest(images, *conditions)}
    return key | ({"options": dict(chosen)} if (chosen := dict(spec.options).get(method)) else {})


def _cell(
    model: VisionModel,
    images: torch.Tensor,
    spec: CompareSpec,
    method: str,
    bits: str,
    seed: int,
    site_bits: Mapping[str, int] | None = None,
    conditions: Sequence[torch.Tensor] = (),
) -> dict[str, Any]:
    """Calibrates, audits and measures one cell; the model is as it was afterwards."""
    options = dict(dict(spec.options).get(method, ()))
    begun = time.perf_counter()
    with PeakMemory() as memory:
        job = calibrating(
            model, images, conditions=conditions, method=method, bits=bits, scope=spec.scope, seed=seed,
            site_bits=site_bits, **options,
        )  # fmt: skip
        calibration = finish(job)
    costs = {"calibration_seconds": round(time.perf_counter() - begun, 2), "peak_mb": round(memory.mb, 1)}
    attach_calibration(model, calibration)
    try:
        require_sealed(model, images[:2].to(model.device), calibration.plan)
        return measured(model, spec) | costs
    finally:
        detach(model)


def _once(store: Store, key: Mapping[str, Any], metric: str, work: Any) -> dict[str, Any]:
    """The stored report of this key, or the work's result, stored.

    Raises:
        ValueError: what is stored is no cell.
    """
    run = store.open(key)
    report = run.report()
    if report is None:
        report = work()
        run.save_report(report)
    elif why := _flaw(report, metric, quantized="bits" in key):
        raise ValueError(
            f"{run.path / 'report.json'} is no cell of a table: {why}; remove it, and it is measured again"
        )
    return report


def _flaw(report: Any, metric: str, *, quantized: bool) -> str:
    """In what a stored report differs from what `measured` and `_cell` make, "" where it does not."""
    cell: Mapping[str, Any] = report if isinstance(report, dict) else {}
    outcomes = "right" if "right" in cell else "resampled"
    n, bits, ci95 = (cell.get(name) for name in ("n", "effective_bits", "ci95"))
    # older cells have no peak
    costs = [cell.get("calibration_seconds"), cell.get("peak_mb", 0.0)] if quantized else []
    low, high = ci95 if isinstance(ci95, list) and len(ci95) == 2 else (None, None)
    if not (isinstance(n, int) and not isinstance(n, bool) and n > 0):
        return f"n is {_short(n)}, expected a number of images"
    if not _numbers(low, cell.get(metric), high) or not low <= cell[metric] <= high:
        return f"{metric} is {_short(cell.get(metric))} and ci95 {_short(ci95)}, expected a score within its interval"
    if METRICS[metric].share and not 0 <= cell[metric] <= 1:
        return f"{metric} is {_short(cell[metric])}, expected a part of 1"
    if not isinstance(bits, dict) or set(bits) != set(_BITS) or not _numbers(*bits.values()):
        return f"effective_bits is {_short(bits)}, expected numbers for {', '.join(_BITS)}"
    if not _numbers(*costs):
        return f"calibration_seconds and peak_mb are {_short(costs)}, expected numbers"
    try:
        if outcomes == "right":
            unpacked(cell["right"], n)
        elif not _numbers(*cell["resampled"]) or not cell["resampled"]:
            return f"resampled is {_short(cell['resampled'])}, expected scores"
    except (KeyError, TypeError, ValueError) as error:
        return f"{outcomes} cannot be read ({_short(error)})"
    return ""


_BITS = ("weights", "activations", "outlier_share", "states")


def _numbers(*values: Any) -> bool:
    return all(isinstance(x, int | float) and not isinstance(x, bool) and math.isfinite(x) for x in values)


def _short(value: Any) -> str:
    """A value as it is shown where it is wrong."""
    return repr(value)[:60]


def measured(model: VisionModel, spec: CompareSpec) -> dict[str, Any]:
    """{n, top1, ci95, right, effective_bits} of a model as it is, on the held-out images of a spec."""
    task, data = task_of(model), open_data(spec.data, "test", model.info)
    task.require(data, own_data(spec.data, model.info), model.info)
    chosen = batches(data, spec.batch, limit=spec.limit, mean=model.info.mean, std=model.info.std)
    with counting(model):
        right = torch.cat(list(outcomes(model, chosen)))
    return task.score(right) | kept(right, task.resampled) | {"effective_bits": effective_bits(model)}


def _rows(cells: Sequence[Mapping[str, Any]], metric: str) -> list[dict[str, Any]]:
    """Means over seeds, in the order in which the cells came."""
    rows = []
    for (calib, bits, method), same in _grouped(cells).items():
        scores = torch.tensor([cell[metric] for cell in same], dtype=torch.float64)
        effective = [cell["effective_bits"] for cell in same]
        rows.append(
            {
                "method": method,
                "bits": bits,
                "calib": calib,
                metric: scores.mean().item(),
                "ci95": cell_ci95(same),
                "spread": scores.std().item() if len(same) > 1 else 0.0,
                "seeds": len(same),
                "effective_bits": {key: sum(x[key] for x in effective) / len(same) for key in effective[0]},
                "calibration_seconds": sum(cell["calibration_seconds"] for cell in same) / len(same),
                "peak_mb": sum(cell.get("peak_mb", 0.0) for cell in same) / len(same),
            }
        )
    return rows


def _pairs(cells: Sequence[Mapping[str, Any]], metric: str) -> list[dict[str, Any]]:
    """Differences within the same bits, of the same set or the same method, where both have the same seeds."""
    groups = _grouped(cells)
    pairs = []
    for one, other in itertools.combinations(groups, 2):
        (calib, bits, method), (other_calib, other_bits, other_method) = one, other
        seeds, others = ({cell["seed"] for cell in groups[group]} for group in (one, other))
        if bits == other_bits and (calib == other_calib) != (method == other_method) and seeds == others:
            named = {
                "better": {"method": method, "calib": calib},
                "worse": {"method": other_method, "calib": other_calib},
            }
            pairs.append({"bits": bits, **named, **between(groups[one], groups[other], metric)})
    return pairs


def _grouped(cells: Sequence[Mapping[str, Any]]) -> dict[tuple[str, str, str], list[Mapping[str, Any]]]:
    """(calib, bits, method) -> its cells, one per seed."""
    groups: dict[tuple[str, str, str], list[Mapping[str, Any]]] = {}
    # outcomes are paired by seed
    for cell in sorted(cells, key=lambda cell: cell["seed"]):
        groups.setdefault((cell["calib"], cell["bits"], cell["method"]), []).append(cell)
    return groups


def cell_ci95(cells: Sequence[Mapping[str, Any]]) -> list[float]:
    """Of the score, over seeds and images; one seed has the interval of its images."""
    if len(cells) == 1:
        return list(cells[0]["ci95"])
    if "resampled" in cells[0]:
        metric = next(name for name in METRICS if name in cells[0])
        mean = sum(cell[metric] for cell in cells) / len(cells)
        return list(resampled_interval([torch.tensor(cell["resampled"]) for cell in cells], mean)[1:])
    low, high = interval(torch.stack([unpacked(cell["right"], cell["n"]) for cell in cells]))[1:]
    return [max(0.0, low), min(1.0, high)]


def as_csv(values: Mapping[str, Any]) -> str:
    """The cells as CSV: timm's columns first, then ours; accuracies in percent."""
    shared: dict[str, Any] = {
        "model": values["model"],
        "param_count": round(values["parameters"] / 1e6, 2),
        "img_size": values["input_size"][-1],
        "crop_pct": values["crop_pct"],
        "interpolation": values["interpolation"],
    }
    lines = io.StringIO()
    metric = values.get("metric", "top1")
    names = [
        "model",
        metric,
        *(["top1_err"] if metric == "top1" else []),
        "param_count",
        "img_size",
        "crop_pct",
        "interpolation",
    ]
    names += ["wbits", "abits", "obits", "hbits", "scope", "method", "calib", "seed", "n", "effective_abits"]
    names += ["outlier_share", "calibration_seconds", "peak_mb"]
    writer = csv.DictWriter(lines, names, lineterminator="\n")
    writer.writeheader()
    for cell in values["cells"]:
        bits = parse_bits(cell["bits"])
        score = round(100 * cell[metric], 2) if METRICS[metric].share else round(cell[metric], 5)
        own = {metric: score, "wbits": bits.weights, "abits": bits.activations}
        own |= {"top1_err": round(100 - score, 2)} if metric == "top1" else {}
        own |= {
            "obits": "" if bits.outliers is None else bits.outliers,
            "hbits": bits.recurrence if values["scope"] in ("rec", "full") else "",
            "scope": values["scope"],
            "method": cell["method"],
            "calib": cell["calib"],
            "calibration_seconds": cell["calibration_seconds"],
            "peak_mb": cell.get("peak_mb", ""),
        }
        own |= {"seed": cell["seed"], "n": cell["n"]}
        own |= {"effective_abits": round(cell["effective_bits"]["activations"], 3)}
        own |= {"outlier_share": round(cell["effective_bits"]["outlier_share"], 4)}
        writer.writerow(shared | own)
    return lines.getvalue()
