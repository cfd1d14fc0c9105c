"""Which part of the generation is worth what: the paper's ablations on embedded models, several seeds, one command.

A study makes synthetic sets that differ in one thing, calibrates the same quantizers on each, and says for every
ordering that OuroMamba reports whether it is seen here, with an interval over the seeds. Sets and cells are kept, so
a study goes on where it was stopped.
Source: OuroMamba (arXiv 2503.10959), table 6 and figures 2 and 9.
"""

from __future__ import annotations

import os
import time
from collections.abc import Generator, Sequence
from dataclasses import asdict, dataclass
from functools import partial
from statistics import fmean, stdev
from typing import Any

from ouro.gen.synthesize import recognized
from ouro.jobs.bench.compare import CompareSpec, kept_cell
from ouro.jobs.calibration import calibration_set
from ouro.jobs.inputs import open_model, source_of
from ouro.jobs.pool import in_processes
from ouro.jobs.provenance import run_info
from ouro.jobs.synthesize import SynthesisSpec, synthesize
from ouro.progress import finish
from ouro.registry import GENERATORS, MODELS
from ouro.store import Store
from ouro.types import ModelSource, Progress, Report

Options = tuple[tuple[str, Any], ...]

T_975 = {2: 12.706, 3: 4.303, 4: 3.182, 5: 2.776, 6: 2.571, 7: 2.447, 8: 2.365, 9: 2.306, 10: 2.262}
"""Number of seeds -> how many standard errors a mean's 95 % interval reaches (Student)."""


@dataclass(frozen=True, slots=True)
class Variant:
    """One kind of set. method: a generation method, or "real" for real images. num: images; 0 takes the spec's.

    within: its images are the first ones of a set of so many, which another variant may share; 0 for a set of its own.
    """

    label: str
    method: str = "ouro"
    options: Options = ()
    num: int = 0
    within: int = 0


@dataclass(frozen=True, slots=True)
class Study:
    """Variants that differ in one thing; `claims` are pairs (better, worse) of labels, as the paper has them."""

    title: str
    variants: tuple[Variant, ...]
    claims: tuple[tuple[str, str], ...]
    source: str


_SIZES = (8, 16, 32, 64, 128, 256)
STUDIES = {
    "losses": Study(
        "Terms of the loss",
        (
            Variant("L_O", "class"),
            Variant("PSE", "psaq", (("class_weight", 0.0),)),
            Variant("L_C", "ouro", (("class_weight", 0.0),)),
            Variant("PSE + L_O", "psaq"),
            Variant("L_C + L_O", "ouro"),
            Variant("PSE + L_C + L_O", "ouro", (("entropy_weight", 1.0),)),
        ),
        (("L_C + L_O", "L_O"), ("L_C + L_O", "L_C"), ("L_C + L_O", "PSE + L_O"), ("PSE + L_O", "PSE"), ("L_C", "PSE")),
        "table 6",
    ),
    "samples": Study(
        "Number of images",
        tuple(Variant(str(size), num=size, within=_SIZES[-1]) for size in _SIZES),
        (("128", "8"), ("128", "32"), ("256", "128")),
        "figure 9a",
    ),
    "window": Study(
        "Neighborhood and positives",
        tuple(
            # 5 x 5 and 12 are the method's own, so that the set is the one of the other studies
            Variant(f"{p}x{p}, {k}", options=() if (p, k) == (5, 12) else (("window", p), ("positives", k)))
            for p, k in ((3, 4), (5, 4), (5, 12), (7, 12), (7, 24))
        ),
        (("5x5, 12", "3x3, 4"), ("5x5, 12", "5x5, 4"), ("5x5, 12", "7x7, 24")),
        "figure 9b",
    ),
    "weights": Study(
        "Weights of the neighbors",
        (
            Variant("delta"),
            Variant("uniform", options=(("weights", "uniform"),)),
            Variant("no h_p", "clamp", (("window", 5), ("positives", 12))),
        ),
        (("delta", "uniform"), ("delta", "no h_p")),
        "figure 9c",
    ),
    "source": Study(
        "What is calibrated on",
        (
            Variant("noise", "noise"),
            Variant("class", "class"),
            Variant("psaq", "psaq"),
            Variant("clamp", "clamp"),
            Variant("ouro", "ouro"),
            Variant("real", "real"),
        ),
        (
            ("ouro", "noise"),
            ("ouro", "class"),
            ("ouro", "psaq"),
            ("ouro", "clamp"),
            ("psaq", "class"),
            ("real", "ouro"),
        ),
        "figure 2",
    ),
}
"""Study -> what it varies; a study more is an entry more."""


@dataclass(frozen=True, slots=True)
class AblationSpec:
    """What is studied. measures: (method, bits) calibrated on every set. limit: held-out images. num: images in a set.

    steps: of optimization. workers: processes that share the cores.

    Raises:
        ValueError: an unknown model or study, no measures, or fewer than two seeds.
    """

    models: tuple[ModelSource, ...] = (ModelSource("vim_nano"),)
    studies: tuple[str, ...] = tuple(STUDIES)
    seeds: int = 3
    num: int = 32
    steps: int = 160
    measures: tuple[tuple[str, str], ...] = (("clipped", "w4a4o8"), ("ouro", "w4a4o8"), ("ouro", "w4a3o8"))
    scope: str = "lin"
    limit: int = 500
    workers: int = 2
    data: str = ""
    device: str = "auto"

    def __post_init__(self) -> None:
        object.__setattr__(self, "models", tuple(map(source_of, self.models)))
        for model in self.models:
            MODELS.get(model.name)
        for name in self.studies:
            if name not in STUDIES:
                raise ValueError(f"unknown study {name!r}; known: {', '.join(STUDIES)}")
        if not self.measures:
            raise ValueError("measures are empty; a study needs at least one (method, bits)")
        if not 2 <= self.seeds <= max(T_975):
            raise ValueError(f"seeds is {self.seeds}, expected 2 to {max(T_975)}: an interval needs a spread")


@dataclass(frozen=True, slots=True)
class _Set:
    """What variants may share: one set, of which some use only the first images."""

    model: ModelSource
    method: str
    options: Options
    num: int
    seed: int


@dataclass(frozen=True, slots=True)
class _Unit:
    """A set, and how many of its images quantizers are calibrated on, in turn."""

    made: _Set
    nums: tuple[int, ...]


def ablate(spec: AblationSpec, *, root: str | os.PathLike[str] | None = None) -> Generator[Progress, None, Report]:
    """The report has {studies: [{study, title, source, model, n, num, steps, rows, claims}], measures, seeds}.

    rows: {label, method, options, num, top1: {"METHOD BITS": {mean, spread, values}}, recognized: {mean, values}}, over
    seeds. claims: {better, worse, measure, difference, ci95, seen}: the difference of top-1 in parts of 1, paired by
    seed, and "yes" or "no" where its interval excludes zero, else "not resolved".

    Raises:
        ValueError: a model without data of its own.
        RuntimeError: a cell failed; finished ones are kept.
    """
    started = time.perf_counter()
    wanted: dict[_Set, dict[int, None]] = {}
    for model in spec.models:
        for study in spec.studies:
            for variant in STUDIES[study].variants:
                for seed in range(spec.seeds):
                    wanted.setdefault(_set_of(spec, model, variant, seed), {})[variant.num or spec.num] = None
    units = [_Unit(made, tuple(nums)) for made, nums in wanted.items()]
    yield Progress(0, len(units), f"{len(units)} sets in {spec.workers} processes")
    cells: dict[tuple[_Set, int], dict[str, Any]] = {}
    for done, (unit, measured) in enumerate(in_processes(partial(_measure, spec=spec, root=root), units, spec.workers)):
        cells |= {(unit.made, each["num"]): each for each in measured}
        scores = ", ".join(f"{name} {100 * top1:.1f}" for name, top1 in measured[-1]["top1"].items())
        words = f"{unit.made.model} {unit.made.method} seed {unit.made.seed}: {scores}"
        yield Progress(done + 1, len(units), words, measured[-1])
    studies = [_study(spec, model, name, cells) for model in spec.models for name in spec.studies]
    values = {"studies": studies, "measures": [" ".join(pair) for pair in spec.measures], "seeds": spec.seeds}
    return Report("ablation", values | {"workers": spec.workers, "spec": asdict(spec)}, run_info(0, started))


def _set_of(spec: AblationSpec, model: ModelSource, variant: Variant, seed: int) -> _Set:
    return _Set(model, variant.method, variant.options, variant.within or variant.num or spec.num, seed)


def _measure(unit: _Unit, *, spec: AblationSpec, root: Any) -> list[dict[str, Any]]:
    """{num, recognized, top1: {"METHOD BITS": top-1}} for every number of images."""
    made, labels = unit.made, None
    model = open_model(made.model, spec.device)
    if made.method == "real":
        images = calibration_set(f"real:{made.num}", made.model, model, made.seed, device=spec.device).images
    else:
        steps = spec.steps if GENERATORS.get(made.method).optimizes else 0
        wanted = SynthesisSpec(
            made.model, made.method, made.num, steps, made.seed, options=made.options, device=spec.device
        )
        report = finish(synthesize(wanted, root=root))
        images, labels = report.arrays["images"], report.arrays["labels"]
    store, cells = Store(root), []
    for num in unit.nums:
        top1 = {}
        for method, bits in spec.measures:
            chosen = CompareSpec(
                made.model, (method,), (bits,), seeds=(made.seed,), scope=spec.scope, limit=spec.limit, data=spec.data,
                device=spec.device,
            )  # fmt: skip
            # image i depends on the seed and i alone, so the first ones are a smaller set
            cell = kept_cell(store, model, images[:num], chosen, method, bits, made.seed)
            top1[f"{method} {bits}"] = cell["top1"]
        share = None if labels is None else recognized(model, images[:num], labels[:num])
        cells.append({"num": num, "recognized": share, "top1": top1})
    return cells


def _study(
    spec: AblationSpec, model: ModelSource, name: str, cells: dict[tuple[_Set, int], dict[str, Any]]
) -> dict[str, Any]:
    study = STUDIES[name]
    rows: list[dict[str, Any]] = []
    for variant in study.variants:
        num = variant.num or spec.num
        per_seed = [cells[_set_of(spec, model, variant, seed), num] for seed in range(spec.seeds)]
        shares = [each["recognized"] for each in per_seed if each["recognized"] is not None]
        rows.append(
            {
                "label": variant.label,
                "method": variant.method,
                "options": dict(variant.options),
                "num": num,
                "top1": {key: summary([each["top1"][key] for each in per_seed]) for key in per_seed[0]["top1"]},
                "recognized": {"mean": fmean(shares), "values": shares} if shares else None,
            }
        )
    by_label = {row["label"]: row for row in rows}
    claims = [
        {"better": better, "worse": worse, "measure": key}
        | difference(by_label[better]["top1"][key]["values"], by_label[worse]["top1"][key]["values"])
        for better, worse in study.claims
        for key in rows[0]["top1"]
    ]
    facts = {"study": name, "title": study.title, "source": study.source, "model": model.name, "n": spec.limit}
    return facts | {"num": spec.num, "steps": spec.steps, "rows": rows, "claims": claims}


def summary(values: Sequence[float]) -> dict[str, Any]:
    """{mean, spread (standard deviation), values}."""
    return {"mean": fmean(values), "spread": stdev(values), "values": list(values)}


def difference(better: Sequence[float], worse: Sequence[float]) -> dict[str, Any]:
    """{difference, ci95, seen} of values that are paired by seed."""
    gaps = [a - b for a, b in zip(better, worse, strict=True)]
    mean = fmean(gaps)
    reach = T_975[len(gaps)] * stdev(gaps) / len(gaps) ** 0.5
    low, high = mean - reach, mean + reach
    return {"difference": mean, "ci95": [low, high], "seen": "yes" if low > 0 else "no" if high < 0 else "not resolved"}
