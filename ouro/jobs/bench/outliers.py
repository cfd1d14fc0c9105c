"""Whether outlier channels move from time step to time step: every tensor of one layer, over held-out images.

Source: OuroMamba (arXiv 2503.10959), figure 4, of which the paper shows layer 3.
"""

from __future__ import annotations

import time
from collections.abc import Generator, Sequence
from dataclasses import asdict, dataclass, replace
from statistics import fmean, stdev
from typing import Any

from ouro.jobs.inputs import open_model, source_of
from ouro.jobs.outliers import TENSORS, OutlierSpec, outliers, static_list
from ouro.jobs.provenance import run_info
from ouro.progress import finish
from ouro.types import ModelSource, Progress, Report

MEASURES = ("jaccard", "missed_by_static", "share_raw", "share_dynamic", "share_static")
"""Of the values of `ouro.jobs.outliers.outliers`; the mean over images is taken of each."""


@dataclass(frozen=True, slots=True)
class OutlierBenchSpec:
    """One layer (the last one, where there are fewer), its tensors, `n` held-out images, and `calib` behind the static list.

    Raises:
        ValueError: an unknown tensor, or fewer than two images: an interval needs a spread.
    """

    model: ModelSource
    layer: int = 3
    tensors: tuple[str, ...] = tuple(TENSORS)
    n: int = 32
    calib: int = 32
    kappa: float = 3.0
    seed: int = 0
    data: str = ""
    device: str = "auto"

    def __post_init__(self) -> None:
        object.__setattr__(self, "model", source_of(self.model))
        for name in self.tensors:
            if name not in TENSORS:
                raise ValueError(f"unknown tensor {name!r}; known: {', '.join(TENSORS)}")
        if self.n < 2:
            raise ValueError(f"n is {self.n}, expected 2 or more")


def moving_outliers(spec: OutlierBenchSpec) -> Generator[Progress, None, Report]:
    """{model, layer, n, kappa, rows: [{tensor, jaccard, missed_by_static, share_raw, share_dynamic, share_static}]}.

    Each but the tensor is {mean, ci95, n}, over the images on which there is any outlier; None where there is none.
    `jaccard` is the overlap of the outliers of neighboring steps, `missed_by_static` the part that the static list lacks.
    """
    started = time.perf_counter()
    model = open_model(spec.model, spec.device)
    layer = min(spec.layer, len(model.mixers()) - 1)
    rows: list[dict[str, Any]] = []
    for number, tensor in enumerate(spec.tensors):
        chosen = OutlierSpec(
            spec.model,
            layer,
            tensor,
            n=spec.calib,
            kappa=spec.kappa,
            seed=spec.seed,
            data=spec.data,
            device=spec.device,
        )
        seen, static = [], None
        for sample in range(spec.n):
            yield Progress(number * spec.n + sample, len(spec.tensors) * spec.n, f"{tensor}, image {sample}")
            static = static_list(chosen, model) if static is None else static
            seen.append(finish(outliers(replace(chosen, sample=sample), model, static)).values)
        rows.append({"tensor": tensor} | {key: _mean([values[key] for values in seen]) for key in MEASURES})
    values = {
        "model": spec.model.name,
        "layer": layer,
        "n": spec.n,
        "kappa": spec.kappa,
        "rows": rows,
        "seed": spec.seed,
    }
    return Report("outliers", values | {"spec": asdict(spec)}, run_info(spec.seed, started, model.device))


def _mean(values: Sequence[float | None]) -> dict[str, Any] | None:
    """Mean and 95 % interval over images, by the normal approximation."""
    known = [value for value in values if value is not None]
    if len(known) < 2:
        return None
    middle, half = fmean(known), 1.96 * stdev(known) / len(known) ** 0.5
    return {"mean": middle, "ci95": [middle - half, middle + half], "n": len(known)}
