"""Sweeps of `ouro bench`: methods, widths, sets, seeds, neighborhoods, parts of the generation; all of them resume."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Annotated

import typer

from ouro.cli import draw
from ouro.cli.options import (
    Calib,
    Data,
    Device,
    Engine,
    Json,
    Limit,
    Out,
    Scope,
    Seed,
    Source,
    Workers,
    labeled,
    model_source,
    numbers,
    takes_model,
)
from ouro.cli.tail import end, followed, guarded, run


@guarded
@takes_model
def quantization(
    source: Source,
    calib: Annotated[list[str], typer.Option(help="LABEL=SET, with {seed} for the seed in SET; repeatable.")] = [
        "noise=noise:128",
        "real=real:128",
    ],
    method: Annotated[list[str], typer.Option(help="Repeatable.")] = ["minmax", "clipped", "dynamic", "ouro"],
    bits: Annotated[list[str], typer.Option(help="Repeatable.")] = ["w8a8", "w4a8o16", "w4a4o8", "w4a3o8"],
    scope: Scope = "lin",
    seeds: Annotated[int, typer.Option(help="Seeds 0 .. seeds - 1.", min=1)] = 3,
    data: Data = "",
    limit: Limit = 1000,
    workers: Workers = 1,
    engine: Engine = "",
    extend: Annotated[
        Path | None,
        typer.Option(
            help="A table that this command wrote: its cells stand in the new one, and are not measured again."
        ),
    ] = None,
    out: Annotated[Path | None, typer.Option(help="Also write JSON here, and the cells as CSV beside it.")] = None,
    device: Device = "auto",
    json_: Json = False,
) -> None:
    """Methods x bits x calibration sets x seeds on one model; stopped, the same command resumes.

    JSON: {model, data, scope, n, fp_top1, fp_ci95, rows: [{method, bits, calib, top1, spread, effective_bits}], cells}.
    """
    from ouro.jobs.bench.compare import CompareSpec, as_csv, compare, take_over, with_cells_of
    from ouro.jobs.bench.spread import spread
    from ouro.store import read_object, write_bytes

    sets, over = labeled(calib, "--calib"), tuple(range(seeds))
    spec = CompareSpec(source, tuple(method), tuple(bits), sets, over, scope, limit=limit, data=data, device=device)
    stored = None if extend is None else read_object(extend)
    if stored is not None:
        followed("extend", take_over(spec, stored))
    values = run("compare", spread(compare, spec, workers, engine))
    if stored is not None:
        values = with_cells_of(values, stored)
    if out is not None:
        write_bytes(out.with_suffix(".csv"), as_csv(values).encode())
    end(values, draw.quantization, json_=json_, out=out)


@guarded
@takes_model
def state(
    source: Source,
    bits: Annotated[list[int], typer.Option(help="Width of h; repeatable.")] = [8, 6],
    calib: Calib = "real:32",
    data: Data = "",
    out: Out = None,
    seed: Seed = 0,
    device: Device = "auto",
    json_: Json = False,
) -> None:
    """What rounding the hidden state inside the recurrence costs: per tensor, per step, with rank-1 factors.

    JSON: {model, calib, bits, n, rows: [{layer, path, bits, rule, h_error, y_error}], means, ...}.
    """
    from ouro.jobs.bench.state import StateSpec, state_errors

    spec = StateSpec(source, tuple(bits), calib, seed, data, device)
    end(run("state", state_errors(spec)), draw.state, json_=json_, out=out)


@guarded
def attention(
    model: Annotated[list[str], typer.Option(help="Repeatable; every embedded family by default.")] = [],
    windows: Annotated[str, typer.Option(help="Sides of the neighborhood, separated by commas.")] = "1,3,5,7",
    n: Annotated[int, typer.Option(help="Held-out images per model.", min=2)] = 500,
    data: Data = "",
    workers: Workers = 2,
    engine: Engine = "",
    out: Out = None,
    seed: Seed = 0,
    device: Device = "auto",
    json_: Json = False,
) -> None:
    """Is h_p a better map than h? Families x layers x reductions x windows x weights against masks.

    JSON: {n, windows, weights, models: [{model, data, scored, rows: [{layer, source, reduction, auroc, pointing, leakage,
    gain: {mean, ci95, seen}}], best}]}.
    """
    from ouro.jobs.bench.neighborhoods import NeighborhoodSpec, survey_neighborhoods

    sides = numbers(windows, "windows")
    spec = NeighborhoodSpec(windows=sides, n=n, seed=seed, workers=workers, data=data, device=device, engine=engine)
    if model:
        spec = replace(spec, models=tuple(model_source(name) for name in model))
    end(run("attention", survey_neighborhoods(spec)), draw.neighborhoods, json_=json_, out=out)


@guarded
@takes_model
def ablations(
    source: Source,
    study: Annotated[
        list[str],
        typer.Option(help="losses, samples, window, weights, source, parts or refresh; repeatable, all by default."),
    ] = [],
    seeds: Annotated[int, typer.Option(help="Seeds 0 .. seeds - 1.", min=2)] = 3,
    num: Annotated[int, typer.Option(help="Images in a set, where the study does not vary it.", min=1)] = 32,
    most: Annotated[int, typer.Option(help="Variants of more images are left out; 0: none is.", min=0)] = 0,
    steps: Annotated[int, typer.Option(help="Of optimization.", min=1)] = 160,
    measure: Annotated[list[str], typer.Option(help="METHOD:BITS calibrated on every set; repeatable.")] = [
        "clipped:w4a4o8",
        "ouro:w4a4o8",
        "ouro:w4a3o8",
    ],
    scope: Scope = "lin",
    data: Data = "",
    limit: Limit = 500,
    workers: Workers = 2,
    engine: Engine = "",
    figures: Annotated[Path | None, typer.Option(help="Folder for one PDF per study.")] = None,
    out: Out = None,
    device: Device = "auto",
    json_: Json = False,
) -> None:
    """The paper's ablations of generation and quantizer, and whether its orderings are seen; stopped, the same command resumes.

    JSON: {studies: [{study, title, source, model, n, rows: [{label, num, top1, activation_bits, recognized}], claims:
    [{better, worse, measure, difference, ci95, seen, won, lost}]}], measures, seeds, ...}.
    """
    from ouro.jobs.bench.ablation import STUDIES, AblationSpec, ablate

    split = tuple((method, bits) for method, _, bits in (item.partition(":") for item in measure))
    if not all(bits for _, bits in split):
        raise ValueError(f"--measure {measure} has an entry without bits; write METHOD:BITS, as in clipped:w4a4")
    chosen = tuple(study) or tuple(STUDIES)
    spec = AblationSpec((source,), chosen, seeds, num, steps, split, scope, limit, workers, data, device, engine, most)
    values = run("ablations", ablate(spec))
    if figures is not None:
        from ouro.figures.ablation import paper

        figures.mkdir(parents=True, exist_ok=True)
        for one in values["studies"]:
            paper(one).savefig(figures / f"ablation_{one['model']}_{one['study']}.pdf")
    end(values, draw.ablations, json_=json_, out=out)


@guarded
def methods(
    quick: Annotated[bool, typer.Option("--quick", help="One model, one scope, one seed, two widths.")] = False,
    limit: Annotated[
        int | None, typer.Option(help="Held-out images per cell; 250, or 100 with --quick.", min=1)
    ] = None,
    workers: Workers = 2,
    engine: Engine = "",
    out: Annotated[Path | None, typer.Option(help="Write the cells here (.csv), and the JSON beside it.")] = None,
    device: Device = "auto",
    json_: Json = False,
) -> None:
    """Every method on every calibration set, over widths, scopes, models and seeds; stopped, the same command resumes.

    JSON: {tables: [{model, scope, n, fp_top1, fp_ci95, rows: [{method, bits, calib, top1, spread, seeds, effective_bits,
    calibration_seconds, peak_mb}], cells}], csv, workers, ...}.
    """
    from ouro.jobs.bench.table import FULL, QUICK, TableSpec, table
    from ouro.store import write_bytes, write_json

    if out is not None and out.suffix != ".csv":
        raise ValueError(f"the table is written as .csv, got {out.name!r}")
    parts, images = QUICK if quick else FULL, limit or (100 if quick else 250)
    values = run("methods", table(TableSpec(parts, limit=images, workers=workers, device=device, engine=engine)))
    if out is not None:
        write_bytes(out, values["csv"].encode())
        # the cells are in the CSV
        slim = [{key: x for key, x in one.items() if key != "cells"} for one in values["tables"]]
        write_json(out.with_suffix(".json"), {key: x for key, x in values.items() if key != "csv"} | {"tables": slim})
    end(values, draw.methods, json_=json_)


@guarded
@takes_model
def outliers(
    source: Source,
    layer: Annotated[int, typer.Option(help="The paper shows layer 3.", min=0)] = 3,
    tensor: Annotated[list[str], typer.Option(help="Repeatable; all by default.")] = [],
    n: Annotated[int, typer.Option(help="Held-out images.", min=2)] = 32,
    data: Data = "",
    out: Out = None,
    seed: Seed = 0,
    device: Device = "auto",
    json_: Json = False,
) -> None:
    """Do outlier channels move from time step to time step, and does a static list miss them? Every tensor of a layer.

    JSON: {model, layer, n, kappa, rows: [{tensor, jaccard: {mean, ci95, n}, missed_by_static, share_raw, share_dynamic,
    share_static}], ...}.
    """
    from ouro.jobs.bench.outliers import OutlierBenchSpec, moving_outliers
    from ouro.jobs.outliers import TENSORS

    spec = OutlierBenchSpec(source, layer, tuple(tensor) or tuple(TENSORS), n, seed=seed, data=data, device=device)
    end(run("outliers", moving_outliers(spec)), draw.outliers, json_=json_, out=out)


@guarded
@takes_model
def equal(
    source: Source,
    method: Annotated[list[str], typer.Option(help="Repeatable; the first is compared with each other one.")] = [
        "ouro_plus",
        "ouro",
        "dynamic",
    ],
    target: Annotated[list[float], typer.Option(help="Mean bits of activations; repeatable.")] = [3.25, 4.25],
    scope: Annotated[list[str], typer.Option(help="Repeatable.")] = ["lin", "ssm"],
    wide: Annotated[
        bool, typer.Option("--wide-a/--no-wide-a", help="Beside it with A at 8 bits, where A is rounded.")
    ] = True,
    calib: Calib = "real:64",
    seeds: Annotated[int, typer.Option(help="Seeds 0 .. seeds - 1.", min=1)] = 3,
    data: Data = "",
    limit: Limit = 2000,
    workers: Workers = 1,
    engine: Engine = "",
    out: Out = None,
    device: Device = "auto",
    json_: Json = False,
) -> None:
    """Methods at the same mean bits of activations, paired by image; stopped, the same command resumes.

    JSON: {model, data, n, calib, seeds, rows: [{scope, wide_A, target, method, top1, ci95, bits, outlier_share, settings,
    right}], pairs: [{scope, wide_A, target, better, worse, difference, ci95, seen, won, lost}]}.
    """
    from ouro.jobs.bench.equal import EqualSpec, equal_bits
    from ouro.jobs.bench.spread import spread

    spec = EqualSpec(
        source, tuple(method), tuple(target), tuple(scope), wide, calib, tuple(range(seeds)), limit, data, device
    )
    end(run("equal", spread(equal_bits, spec, workers, engine)), draw.equal, json_=json_, out=out)


@guarded
@takes_model
def ranges(
    source: Source,
    method: Annotated[
        str, typer.Option(help="One with a static range per tensor: minmax, percentile or clipped.")
    ] = "minmax",
    bits: Annotated[list[str], typer.Option(help="Repeatable.")] = ["w4a4", "w4a8"],
    calib: Annotated[list[str], typer.Option(help="LABEL=SET; repeatable, one is called real.")] = [
        "noise=noise:64",
        "synthetic=synthetic:64",
        "real=real:64",
    ],
    factor: Annotated[list[float], typer.Option(help="Of the ranges of real images; repeatable.")] = [
        0.85,
        0.7,
        0.55,
        0.4,
        0.3,
    ],
    seeds: Annotated[int, typer.Option(help="Seeds 0 .. seeds - 1.", min=1)] = 3,
    data: Data = "",
    limit: Limit = 2000,
    workers: Workers = 1,
    engine: Engine = "",
    out: Out = None,
    device: Device = "auto",
    json_: Json = False,
) -> None:
    """Why a set is better than another for static ranges: their width, what is clipped and rounded, and real ones narrowed.

    JSON: {model, data, method, n, seeds, rows: [{bits, calib, factor, top1, ci95, width, clipped, clipping, rounding,
    right}], pairs: [{bits, better: {calib, factor}, difference, ci95, seen, won, lost}]}.
    """
    from ouro.jobs.bench.ranges import RangeSpec, static_ranges
    from ouro.jobs.bench.spread import spread

    spec = RangeSpec(
        source, method, tuple(bits), labeled(calib, "--calib"), tuple(factor), tuple(range(seeds)), limit=limit, data=data,
        device=device,
    )  # fmt: skip
    end(run("ranges", spread(static_ranges, spec, workers, engine)), draw.ranges, json_=json_, out=out)


COMMANDS = {
    "quantization": quantization,
    "ranges": ranges,
    "equal": equal,
    "outliers": outliers,
    "state": state,
    "attention": attention,
    "ablations": ablations,
    "methods": methods,
}
"""Name behind `ouro bench` -> command."""
