"""Which part of the generation and of the quantizer is worth what: the paper's ablations, several seeds, one command.

A study makes synthetic sets, or quantizers, that differ in one thing, and says for every ordering that OuroMamba reports
whether it is seen here, with an interval over seeds and images. Sets and cells are kept, so a study goes on where it was
stopped.
Source: OuroMamba (arXiv 2503.10959), tables 5 and 6, figures 2 and 9.
"""

from __future__ import annotations

import os
import time
from collections.abc import Generator, Sequence
from dataclasses import asdict, dataclass, field, replace
from functools import partial
from statistics import fmean, stdev
from typing import Any

from torch import Tensor

from ouro.evaluate.paired import difference, unpacked
from ouro.gen.synthesize import recognized
from ouro.jobs.bench.compare import CompareSpec, kept_cell, require_classifier
from ouro.jobs.calibration import calibration_set
from ouro.jobs.inputs import open_model, source_of
from ouro.jobs.pool import in_processes
from ouro.jobs.provenance import run_info
from ouro.jobs.synthesize import SynthesisSpec, synthesize
from ouro.progress import finish
from ouro.quant.bits import parse_bits
from ouro.registry import GENERATORS, MODELS
from ouro.store import Store
from ouro.types import ModelSource, Progress, Report

Options = tuple[tuple[str, Any], ...]


@dataclass(frozen=True, slots=True)
class Part:
    """A quantizer that differs from a measure's: another method, options of it, or no outliers."""

    method: str = ""
    options: Options = ()
    outliers: bool = True


@dataclass(frozen=True, slots=True)
class Variant:
    """One kind of set. method: a generation method, or "real" for real images. num: images; 0 takes the spec's.

    within: its images are the first ones of a set of so many, which another variant may share; 0 for a set of its own.
    quantizer: what is not as the measure has it.
    """

    label: str
    method: str = "ouro"
    options: Options = ()
    num: int = 0
    within: int = 0
    quantizer: Part = field(default_factory=lambda: Part())


@dataclass(frozen=True, slots=True)
class Study:
    """Variants that differ in one thing; `claims` are pairs (better, worse) of labels, as the paper has them.

    of: the quantization method whose measures it takes, where its variants are parts of one; "" takes all measures.
    """

    title: str
    variants: tuple[Variant, ...]
    claims: tuple[tuple[str, str], ...]
    source: str
    of: str = ""


_SIZES = (8, 16, 32, 64, 128, 256)
_NOT_LEARNED: Options = (("steps_per_block", 0),)
"""Where parts of the quantizer are compared: learning would make up for some of what a part is worth."""
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
    "parts": Study(
        "Parts of the quantizer",
        (
            Variant("one static step", quantizer=Part("clipped")),
            Variant("a step per time step", quantizer=Part(options=_NOT_LEARNED, outliers=False)),
            Variant("dynamic outliers", quantizer=Part(options=_NOT_LEARNED)),
            Variant("thresholds fixed", quantizer=Part(options=(("theta", "calibrated"), *_NOT_LEARNED))),
            Variant(
                "a step per outlier channel", quantizer=Part(options=(("outlier_steps", "channel"), *_NOT_LEARNED))
            ),
            Variant("learned steps"),
        ),
        (
            ("a step per time step", "one static step"),
            ("dynamic outliers", "a step per time step"),
            ("learned steps", "dynamic outliers"),
            ("dynamic outliers", "thresholds fixed"),
            ("a step per outlier channel", "dynamic outliers"),
        ),
        "table 5",
        of="ouro",
    ),
    "refresh": Study(
        "Refresh period of the outlier list",
        tuple(
            Variant(str(steps), quantizer=Part(options=(("refresh", steps), *_NOT_LEARNED)))
            for steps in (1, 5, 10, 20, 1000)
        ),
        (("10", "1"), ("10", "5"), ("20", "10"), ("1000", "10")),
        "figure 9",
        of="ouro",
    ),
}
"""Study -> what it varies; a study more is an entry more."""


@dataclass(frozen=True, slots=True)
class AblationSpec:
    """What is studied. measures: (method, bits) calibrated on every set. limit: held-out images. num: images in a set.

    steps: of optimization. workers, engine: see `ouro.jobs.pool`. most: variants of more images are left out; 0 for none.

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
    engine: str = ""
    most: int = 0

    def __post_init__(self) -> None:
        object.__setattr__(self, "models", tuple(map(source_of, self.models)))
        for model in self.models:
            MODELS.get(model.name)
        for name in self.studies:
            if name not in STUDIES:
                raise ValueError(f"unknown study {name!r}; known: {', '.join(STUDIES)}")
        if not self.measures:
            raise ValueError("measures are empty; a study needs at least one (method, bits)")
        for name in self.studies:
            if not _measures(self, STUDIES[name]):
                raise ValueError(f"study {name!r} takes {STUDIES[name].of!r} apart, but no measure has that method")
        if self.seeds < 2:
            raise ValueError(f"seeds is {self.seeds}, expected 2 or more: an interval needs a spread")
        if self.most and self.num > self.most:
            raise ValueError(
                f"num is {self.num}, more than the {self.most} images that a variant has at most; give fewer"
            )
        for name in self.studies:
            if not _variants(self, STUDIES[name]):
                least = min(variant.num for variant in STUDIES[name].variants)
                raise ValueError(
                    f"study {name!r} begins at {least} images, but most is {self.most}; give {least} or more"
                )


@dataclass(frozen=True, slots=True)
class _Set:
    """What variants may share: one set, of which some use only the first images."""

    model: ModelSource
    method: str
    options: Options
    num: int
    seed: int


@dataclass(frozen=True, slots=True)
class _Cell:
    """What is calibrated on the first `num` images of a set: a measure, with what differs from it."""

    num: int
    measure: tuple[str, str]
    part: Part


@dataclass(frozen=True, slots=True)
class _Unit:
    """A set, and what is calibrated on it, in turn."""

    made: _Set
    cells: tuple[_Cell, ...]


def ablate(spec: AblationSpec, *, root: str | os.PathLike[str] | None = None) -> Generator[Progress, None, Report]:
    """The report has {studies: [{study, title, source, model, n, num, steps, rows, claims}], measures, seeds}.

    rows: {label, method, options, num, top1: {"METHOD BITS": {mean, spread, values}}, activation_bits: {"METHOD BITS":
    mean}, recognized: {mean, values}}, over seeds. claims: {better, worse, measure, difference, ci95, seen, won, lost}: the
    difference of top-1 in parts of 1 on the same seeds and images, and "yes" or "no" where its interval excludes zero, else
    "not resolved", see `ouro.evaluate.paired`.

    Raises:
        ValueError: a model without data of its own.
        RuntimeError: a cell failed; finished ones are kept.
    """
    started = time.perf_counter()
    wanted: dict[_Set, dict[_Cell, None]] = {}
    for model in spec.models:
        for study in map(STUDIES.__getitem__, spec.studies):
            for variant in _variants(spec, study):
                for seed in range(spec.seeds):
                    cells = wanted.setdefault(_set_of(spec, model, variant, seed), {})
                    cells |= {_cell_of(spec, variant, measure): None for measure in _measures(spec, study)}
    units = [_Unit(made, tuple(cells)) for made, cells in wanted.items()]
    yield Progress(0, len(units), f"{len(units)} sets in {spec.workers} processes")
    measured: dict[tuple[_Set, _Cell], dict[str, Any]] = {}
    for done, (unit, runs) in enumerate(
        in_processes(partial(_measure, spec=spec, root=root), units, spec.workers, spec.engine)
    ):
        measured |= {(unit.made, cell): each for cell, each in zip(unit.cells, runs, strict=True)}
        words = f"{unit.made.model} {unit.made.method} seed {unit.made.seed}: {100 * runs[-1]['top1']:.1f} %"
        yield Progress(done + 1, len(units), words, {"top1": runs[-1]["top1"]})
    studies = [_study(spec, model, name, measured) for model in spec.models for name in spec.studies]
    values = {"studies": studies, "measures": [" ".join(pair) for pair in spec.measures], "seeds": spec.seeds}
    return Report("ablation", values | {"workers": spec.workers, "spec": asdict(spec)}, run_info(0, started))


def _variants(spec: AblationSpec, study: Study) -> list[Variant]:
    """Those of a study that have no more images than the spec allows."""
    return [variant for variant in study.variants if not spec.most or variant.num <= spec.most]


def _set_of(spec: AblationSpec, model: ModelSource, variant: Variant, seed: int) -> _Set:
    shared = min(variant.within, spec.most or variant.within)
    return _Set(model, variant.method, variant.options, shared or variant.num or spec.num, seed)


def _measures(spec: AblationSpec, study: Study) -> list[tuple[str, str]]:
    """The (method, bits) that a study takes."""
    return [pair for pair in spec.measures if study.of in ("", pair[0])]


def _cell_of(spec: AblationSpec, variant: Variant, measure: tuple[str, str]) -> _Cell:
    return _Cell(variant.num or spec.num, measure, variant.quantizer)


def _measure(unit: _Unit, *, spec: AblationSpec, root: Any) -> list[dict[str, Any]]:
    """What `kept_cell` says of every cell, and {recognized} of its images."""
    made, labels = unit.made, None
    model = open_model(made.model, spec.device)
    require_classifier(model, "bench ablations")
    if made.method == "real":
        images = calibration_set(f"real:{made.num}", made.model, model, made.seed, device=spec.device).images
    else:
        steps = spec.steps if GENERATORS.get(made.method).optimizes else 0
        wanted = SynthesisSpec(
            made.model, made.method, made.num, steps, made.seed, options=made.options, device=spec.device
        )
        report = finish(synthesize(wanted, root=root))
        images, labels = report.arrays["images"], report.arrays["labels"]
    # image i depends on the seed and i alone, so the first ones are a smaller set
    shares = {
        num: None if labels is None else recognized(model, images[:num], labels[:num])
        for num in {cell.num for cell in unit.cells}
    }
    store, cells = Store(root), []
    for cell in unit.cells:
        method, bits = cell.part.method or cell.measure[0], cell.measure[1]
        bits = bits if cell.part.outliers else str(replace(parse_bits(bits), outliers=None))
        options = ((method, cell.part.options),) if cell.part.options else ()
        chosen = CompareSpec(
            made.model, (method,), (bits,), seeds=(made.seed,), scope=spec.scope, limit=spec.limit, options=options,
            data=spec.data, device=spec.device,
        )  # fmt: skip
        kept = kept_cell(store, model, images[: cell.num], chosen, method, bits, made.seed)
        cells.append(kept | {"recognized": shares[cell.num]})
    return cells


def _study(
    spec: AblationSpec, model: ModelSource, name: str, measured: dict[tuple[_Set, _Cell], dict[str, Any]]
) -> dict[str, Any]:
    study = STUDIES[name]
    rows: list[dict[str, Any]] = []
    right: dict[tuple[str, str], list[Tensor]] = {}
    for variant in _variants(spec, study):
        per_seed: dict[str, list[dict[str, Any]]] = {}
        for measure in _measures(spec, study):
            sets = [_set_of(spec, model, variant, seed) for seed in range(spec.seeds)]
            runs = [measured[made, _cell_of(spec, variant, measure)] for made in sets]
            per_seed[" ".join(measure)] = runs
            right[variant.label, " ".join(measure)] = [unpacked(each["right"], each["n"]) for each in runs]
        first = next(iter(per_seed.values()))
        shares = [each["recognized"] for each in first if each["recognized"] is not None]
        rows.append(
            {
                "label": variant.label,
                "method": variant.method,
                "options": dict(variant.options),
                "num": variant.num or spec.num,
                "quantizer": asdict(variant.quantizer),
                "top1": {key: summary([each["top1"] for each in runs]) for key, runs in per_seed.items()},
                "activation_bits": {
                    key: fmean(each["effective_bits"]["activations"] for each in runs) for key, runs in per_seed.items()
                },
                "recognized": {"mean": fmean(shares), "values": shares} if shares else None,
            }
        )
    claims = [
        {"better": better, "worse": worse, "measure": key} | difference(right[better, key], right[worse, key])
        for better, worse in study.claims
        for key in rows[0]["top1"]
        if (better, key) in right and (worse, key) in right
    ]
    facts = {"study": name, "title": study.title, "source": study.source, "model": model.name, "n": spec.limit}
    return facts | {"num": spec.num, "steps": spec.steps, "rows": rows, "claims": claims}


def summary(values: Sequence[float]) -> dict[str, Any]:
    """{mean, spread (standard deviation), values}."""
    return {"mean": fmean(values), "spread": stdev(values), "values": list(values)}
