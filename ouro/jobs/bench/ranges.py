"""Why one calibration set is better than another for static ranges: how wide they are, what they clip, what they round.

A static method takes its ranges from the calibration images. Wide ones clip nothing and have coarse steps; at few bits
narrower ones can be better, whatever they were taken from. Beside every set stands the counterfactual: the ranges of real
images, all made narrower by one factor. If that does as well, the set's images had nothing to say but "narrower".
"""

from __future__ import annotations

import os
import time
from collections.abc import Generator, Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from statistics import median
from typing import Any, cast

import torch
from torch import Tensor

from ouro.data import batches
from ouro.data.source import open_data, own_data
from ouro.evaluate.paired import difference, unpacked
from ouro.jobs.bench.compare import CompareSpec, cell_ci95, measured, require_classifier, set_key
from ouro.jobs.calibration import calibration_set
from ouro.jobs.inputs import data_key, open_model, source_of
from ouro.jobs.provenance import run_info
from ouro.progress import finish
from ouro.quant.apply import attach_calibration, detach
from ouro.quant.calibrate import calibrating
from ouro.quant.grid import asymmetric
from ouro.quant.modules import TensorQuantizer
from ouro.quant.quantizer import WEIGHT_SITES
from ouro.registry import QUANTIZERS
from ouro.store import Store
from ouro.taps import record, taps
from ouro.types import Calibration, ModelSource, Progress, Report
from ouro.vision import VisionModel

REAL = "real"
"""The set whose ranges are made narrower."""
FACTORS = (0.85, 0.7, 0.55, 0.4, 0.3)
_AT_ONCE = 8


@dataclass(frozen=True, slots=True)
class RangeSpec:
    """calibs: (label, set), with one labelled "real". factors: what the ranges of that one are multiplied by.

    looked_at: held-out images on which errors are split. limit: those on which accuracy is measured.

    Raises:
        ValueError: no set of real images, a factor outside 0..1, or a method whose activations have no static range.
    """

    model: ModelSource
    method: str = "minmax"
    bits: tuple[str, ...] = ("w4a4", "w4a8")
    calibs: tuple[tuple[str, str], ...] = (("noise", "noise:64"), ("synthetic", "synthetic:64"), (REAL, "real:64"))
    factors: tuple[float, ...] = FACTORS
    seeds: tuple[int, ...] = (0, 1, 2)
    looked_at: int = 64
    limit: int = 2000
    data: str = ""
    device: str = "auto"

    def __post_init__(self) -> None:
        object.__setattr__(self, "model", source_of(self.model))
        if REAL not in dict(self.calibs):
            raise ValueError(f"calibs are {', '.join(dict(self.calibs)) or 'none'}; one has to be named {REAL!r}")
        if bad := [factor for factor in self.factors if not 0 < factor < 1]:
            raise ValueError(f"a factor is {bad[0]:g}, expected above 0 and below 1")
        QUANTIZERS.get(self.method)

    def pieces(self) -> list[RangeSpec]:
        """One per width and seed."""
        return [replace(self, bits=(bits,), seeds=(seed,)) for bits in self.bits for seed in self.seeds]


def static_ranges(spec: RangeSpec, *, root: str | os.PathLike[str] | None = None) -> Generator[Progress, None, Report]:
    """The report has {model, data, method, n, seeds, rows, pairs}.

    rows: {bits, calib, factor, top1, ci95, width (median over tensors of range / range of real images), clipped (share of
    the activations), clipping, rounding (parts of the tensors' sums of squares, medians), right}. pairs: every other row
    of the same bits against real images at their full ranges: {bits, better: {calib, factor}, difference, ci95, seen, won,
    lost}.

    Raises:
        ValueError: a method whose activations have no single static range.
    """
    started = time.perf_counter()
    model = open_model(spec.model, spec.device)
    require_classifier(model, "bench ranges")
    store = Store(root)
    wanted = [(calib, 1.0) for calib in dict(spec.calibs)] + [(REAL, factor) for factor in spec.factors]
    total = len(spec.bits) * len(spec.seeds) * len(wanted)
    cells: dict[tuple[str, str, float], list[dict[str, Any]]] = {}
    done = 0
    for bits in spec.bits:
        for seed in spec.seeds:
            made = {
                label: calibration_set(calib, spec.model, model, seed, root=root, device=spec.device).images
                for label, calib in spec.calibs
            }
            known: dict[str, Calibration] = {}
            for label, factor in wanted:
                yield Progress(done, total, f"{bits}, seed {seed}: {label}, ranges times {factor:g}")
                key = set_key(model, made[label]) | {
                    "job": "ranges", "method": spec.method, "bits": bits, "seed": seed, "factor": factor,
                    "looked_at": spec.looked_at, "limit": spec.limit, "real": set_key(model, made[REAL])["set"],
                    **data_key(spec.data, model.info),
                }  # fmt: skip
                run = store.open(key)
                cell = run.report()
                if cell is None:
                    for name in {label, REAL} - set(known):
                        job = calibrating(model, made[name], method=spec.method, bits=bits, scope="lin", seed=seed)
                        known[name] = finish(job)
                    cell = _cell(model, spec, bits, narrowed(known[label], factor), known[REAL])
                    run.save_report(cell)
                cells.setdefault((bits, label, factor), []).append(cell)
                done += 1
    values = {
        "model": spec.model.name, "data": own_data(spec.data, model.info), "method": spec.method, "seeds": list(spec.seeds),
        "n": next(iter(cells.values()))[0]["n"], "rows": [_row(*key, same) for key, same in cells.items()],
        "pairs": _pairs(cells), "spec": asdict(spec),
    }  # fmt: skip
    return Report("ranges", values, run_info(spec.seeds[0], started, model.device))


def narrowed(calibration: Calibration, factor: float) -> Calibration:
    """The calibration with the ranges of its activations multiplied; zero points stay, for both ends move alike."""
    kept = {
        path: {name: x * factor if name == "scale" and "zero" in state else x for name, x in state.items()}
        for path, state in calibration.state.items()
    }
    return replace(calibration, state=kept)


def _cell(
    model: VisionModel, spec: RangeSpec, bits: str, calibration: Calibration, real: Calibration
) -> dict[str, Any]:
    attach_calibration(model, calibration)
    try:
        chosen = CompareSpec(spec.model, (spec.method,), (bits,), limit=spec.limit, data=spec.data, device=spec.device)
        quantizers = _quantizers(model, spec.method)
        accuracy = measured(model, chosen)
    finally:
        detach(model)
    widths = [float(calibration.state[path]["scale"] / real.state[path]["scale"]) for path in quantizers]
    return accuracy | {"width": median(widths)} | _errors(model, quantizers, spec)


def _quantizers(model: VisionModel, method: str) -> dict[str, TensorQuantizer]:
    """Those of activations, on a model that has them.

    Raises:
        ValueError: one without a single static range.
    """
    chosen = {
        path: tap.quantizer for path, tap in taps(model) if tap.quantizer is not None and tap.site not in WEIGHT_SITES
    }
    for path, quantizer in chosen.items():
        if not isinstance(quantizer, TensorQuantizer):
            raise ValueError(f"{method} has no single static range at {path!r}; take minmax or clipped")
    return cast(dict[str, TensorQuantizer], chosen)


def _errors(model: VisionModel, quantizers: Mapping[str, TensorQuantizer], spec: RangeSpec) -> dict[str, float]:
    """What held-out images lose in each tensor by being clipped, and by being rounded, as parts of its sum of squares."""
    info = model.info
    sums = {path: torch.zeros(4, dtype=torch.float64) for path in quantizers}
    dataset = open_data(spec.data, "test", info)
    for images, _ in batches(dataset, _AT_ONCE, limit=spec.looked_at, mean=info.mean, std=info.std):
        with torch.no_grad(), record(model, *quantizers) as trace:
            model(images.to(model.device))
        for path, quantizer in quantizers.items():
            sums[path] += _split(trace.tensors[path], quantizer)
    parts = [(one[:2] / one[2].clamp(min=1e-30)).tolist() for one in sums.values()]
    clipped = sum(float(one[3]) for one in sums.values())
    counted = spec.looked_at * sum(trace.tensors[path].numel() // len(images) for path in quantizers)
    return {
        "clipped": clipped / counted,
        "clipping": median(part[0] for part in parts),
        "rounding": median(part[1] for part in parts),
    }


def _split(x: Tensor, quantizer: TensorQuantizer) -> Tensor:
    """[4]: squared errors of what lies outside the range and of what lies inside, sum of squares, how many lie outside."""
    with torch.no_grad():
        high = asymmetric(quantizer.spec.bits).high
        low, top = -quantizer.zero * quantizer.scale, (high - quantizer.zero) * quantizer.scale
        # what is rounded to the last code is not clipped
        outside = (x < low - quantizer.scale / 2) | (x > top + quantizer.scale / 2)
        squares = (quantizer.rounded(x) - x).double().square()
        clipping, rounding = squares[outside].sum(), squares[~outside].sum()
        return torch.stack([clipping, rounding, x.double().square().sum(), outside.sum().double()]).cpu()


def _row(bits: str, calib: str, factor: float, cells: Sequence[Mapping[str, Any]]) -> dict[str, Any]:
    means = {
        key: sum(cell[key] for cell in cells) / len(cells)
        for key in ("top1", "width", "clipped", "clipping", "rounding")
    }
    ends = {"ci95": cell_ci95(cells), "right": [cell["right"] for cell in cells]}
    return {"bits": bits, "calib": calib, "factor": factor, "n": cells[0]["n"], **means, **ends}


def _pairs(cells: Mapping[tuple[str, str, float], Sequence[Mapping[str, Any]]]) -> list[dict[str, Any]]:
    pairs = []
    for (bits, calib, factor), same in cells.items():
        if (calib, factor) != (REAL, 1.0):
            sides = [[unpacked(cell["right"], cell["n"]) for cell in side] for side in (same, cells[bits, REAL, 1.0])]
            pairs.append({"bits": bits, "better": {"calib": calib, "factor": factor}, **difference(*sides)})
    return pairs
