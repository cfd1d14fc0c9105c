"""The command line: every command draws a job's progress on stderr and prints its result on stdout.

Exit codes: 0 done, 1 failure, 2 wrong use or bad input (one line that says what was given, what is allowed and what to
do). With --json stdout holds one JSON object and nothing else; its keys are listed in each command's help.
"""

from __future__ import annotations

import json
import os
from collections.abc import Callable, Generator, Iterator
from contextlib import ExitStack, contextmanager, redirect_stderr, redirect_stdout
from dataclasses import replace
from functools import partial, wraps
from pathlib import Path
from typing import Annotated, Any, TypeVar

import typer
from rich.console import Console
from rich.progress import BarColumn, TextColumn, TimeRemainingColumn
from rich.progress import Progress as Bar
from rich.table import Table

from ouro.registry import GENERATORS, QUANTIZERS

app = typer.Typer(
    name="ouro",
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
    help="Data-free quantization of Vision Mamba models: look, synthesize, quantize, evaluate.",
)
bench_app = typer.Typer(no_args_is_help=True, help="Speed, measured only behind a correctness gate.")
app.add_typer(bench_app, name="bench")

_out, _err = Console(), Console(stderr=True)
_Result = TypeVar("_Result")

Json = Annotated[bool, typer.Option("--json", help="Print one JSON object on stdout, nothing else.")]
Seed = Annotated[int, typer.Option(help="Seed of everything random.", min=0)]
Device = Annotated[str, typer.Option(help="auto or cpu; the jobs of this release run on the CPU.")]
Model = Annotated[str, typer.Argument(help="A model name; `ouro models` lists them.")]


def main() -> None:
    """Entry point of the `ouro` command; of several processes that torchrun started, the first one speaks."""
    # torchrun numbers its processes; what connects them imports torch, which --help does without
    if "RANK" not in os.environ:
        return app()
    from ouro.jobs.distributed import joined

    with ExitStack() as stack:
        if os.environ["RANK"] != "0":
            nowhere = stack.enter_context(open(os.devnull, "w"))
            stack.enter_context(redirect_stdout(nowhere))
            stack.enter_context(redirect_stderr(nowhere))
        stack.enter_context(joined())
        app()


def _guarded(command: Callable[..., None]) -> Callable[..., None]:
    """Turns bad input into exit code 2 and failures into 1, with one line each."""

    @wraps(command)
    def run(*args: Any, **kwargs: Any) -> None:
        try:
            if kwargs.get("device", "auto") not in ("auto", "cpu"):
                raise ValueError(f"device is {kwargs['device']!r}, allowed are auto and cpu; leave the option out")
            command(*args, **kwargs)
        except (ValueError, OSError) as error:
            _fail(error, 2)
        except RuntimeError as error:
            _fail(error, 1)
        except KeyboardInterrupt:
            _err.print("stopped; finished parts are kept, the same command goes on from there")
            raise typer.Exit(1) from None

    return run


def _fail(error: Exception, code: int) -> None:
    line = " ".join(str(error).split()) or type(error).__name__
    # not through rich, which would wrap the line and color what is in brackets
    typer.echo(f"error: {line}", err=True)
    raise typer.Exit(code) from error


@contextmanager
def _bar(title: str) -> Iterator[Callable[[int, int, str], None]]:
    columns = TextColumn("{task.fields[title]}"), BarColumn(), TimeRemainingColumn(), TextColumn("{task.description}")
    with Bar(*columns, console=_err, transient=True) as bar:
        task = bar.add_task("", total=None, title=title)
        yield lambda step, total, message: bar.update(task, completed=step, total=total, description=message)


def _follow(title: str, job: Generator[Any, None, _Result]) -> _Result:
    """Runs a job to its report, drawing its progress on stderr."""
    with _bar(title) as show:
        while True:
            try:
                beat = next(job)
            except StopIteration as end:
                return end.value
            show(beat.step, beat.total, beat.message)


def _print_json(values: Any) -> None:
    typer.echo(json.dumps(values, indent=2, allow_nan=False))


def _run_values(report: Any) -> dict[str, Any]:
    run = report.run
    return dict(report.values) | {
        "device": run.device,
        "seconds": report.values.get("seconds", round(run.seconds, 2)),
        "seed": run.seed,
        "versions": dict(run.versions),
        "commit": run.commit,
    }


def _handed_over(values: dict[str, Any], out: Path | None, json_: bool) -> bool:
    """Writes the values to `out`, if any, and prints them if JSON is asked for; whether that was all."""
    if out is not None:
        from ouro.store import write_json

        write_json(out, values)
    if json_:
        _print_json(values)
    return json_


def _percent(value: float | None) -> str:
    return "-" if value is None else f"{100 * value:.1f} %"


def _table(title: str, *columns: str) -> Table:
    table = Table(title=title, title_justify="left", header_style="bold")
    for column in columns:
        table.add_column(column, justify="left" if column in ("model", "name", "what") else "right")
    return table


def _options(pairs: list[str]) -> tuple[tuple[str, Any], ...]:
    """["window=5", "features=alpha_p"] -> (("window", 5), ("features", "alpha_p"))."""
    parsed = []
    for pair in pairs:
        key, equals, value = pair.partition("=")
        if not equals or not key:
            raise ValueError(f"option {pair!r} is not of the form name=value")
        try:
            parsed.append((key, json.loads(value)))
        except json.JSONDecodeError:
            parsed.append((key, value))
    return tuple(parsed)


@app.command()
@_guarded
def models(json_: Json = False) -> None:
    """List the models. JSON: [{name, family, data, input_size, parameters, weights, top1, top1_n}]."""
    from ouro.jobs.catalog import catalog

    rows = catalog()
    if json_:
        return _print_json(rows)
    table = _table("models", "name", "family", "input", "parameters", "weights", "top-1")
    for row in rows:
        size = "x".join(map(str, row["input_size"]))
        top1 = f"{row['top1']:.1f} %" if row["top1"] is not None else "-"
        table.add_row(row["name"], row["family"], size, f"{row['parameters']:,}", row["weights"], top1)
    _out.print(table)


@app.command()
@_guarded
def doctor(json_: Json = False) -> None:
    """Say what this machine can run, and why not. JSON: {ok, checks: [{name, ok, detail, fix, required}]}."""
    from ouro.jobs.doctor import doctor as examine

    found = examine()
    if json_:
        return _print_json(found)
    for check in found["checks"]:
        mark = "[green]ok[/]" if check["ok"] else "[red]no[/]" if check["required"] else "[yellow]--[/]"
        _out.print(f"{mark:>14} {check['name']}: {check['detail']}")
        if not check["ok"] and check["fix"]:
            _out.print(f"      {check['fix']}", style="dim")
    if not found["ok"]:
        raise typer.Exit(1)


@app.command()
@_guarded
def attention(
    model: Model,
    image: Annotated[str | None, typer.Option(help="An image file instead of a held-out scene.")] = None,
    sample: Annotated[int, typer.Option(help="Which held-out image to show.", min=0)] = 0,
    layer: Annotated[int | None, typer.Option(help="Layer to show; the last by default.")] = None,
    window: Annotated[int, typer.Option(help="Side of the neighborhood of h_p, odd.")] = 5,
    weights: Annotated[str, typer.Option(help="Weights inside the window: delta or uniform.")] = "delta",
    num: Annotated[int, typer.Option("--n", help="Also score the maps over this many held-out scenes.", min=0)] = 0,
    out: Annotated[Path | None, typer.Option(help="Write the picture here (.png or .svg).")] = None,
    seed: Seed = 0,
    device: Device = "auto",
    json_: Json = False,
) -> None:
    """Implicit attention of h and h_p, scored against the mask.

    JSON: {model, layer, window, n, auroc: {h, h_p}, pointing: {h, h_p}, ci95, table, ...}.
    """
    from ouro.figures.attention import attention_matplotlib
    from ouro.jobs.explain import ExplainSpec, explain
    from ouro.store import write_bytes

    spec = ExplainSpec(
        model,
        sample=None if image else sample,
        image=image,
        layer=layer,
        window=window,
        weights=weights,
        n=num,
        seed=seed,
    )
    report = _follow("attention", explain(spec))
    values = _run_values(report)
    if out is not None:
        from io import BytesIO

        suffix = out.suffix.lstrip(".")
        if suffix not in ("png", "svg", "pdf"):
            raise ValueError(f"cannot write a picture as {out.name!r}; use .png, .svg or .pdf")
        picture = BytesIO()
        attention_matplotlib(report).savefig(picture, format=suffix, dpi=160, bbox_inches="tight")
        write_bytes(out, picture.getvalue())
        values["path"] = str(out)
    if json_:
        return _print_json(values)
    table = _table(
        f"{model}: AUROC of maps against the mask, {values.get('n') or 1} held-out scene(s), window {window}",
        "layer", "direction", "what", "AUROC", "95 %", "pointing",
    )  # fmt: skip
    for row in values["table"]:
        interval = "-" if row["auroc_lo"] is None else f"{row['auroc_lo']:.3f}-{row['auroc_hi']:.3f}"
        table.add_row(
            str(row["layer"]), row["direction"], f"{row['source']} {row['reduction']}", f"{row['auroc']:.3f}", interval,
            f"{row['pointing']:.2f}",
        )  # fmt: skip
    _out.print(table)


@app.command()
@_guarded
def generate(
    model: Model,
    num: Annotated[int, typer.Option(help="How many images.")] = 128,
    steps: Annotated[int, typer.Option(help="Optimisation steps per image.")] = 160,
    method: Annotated[str, typer.Option(help="One of: " + ", ".join(GENERATORS) + ".")] = "ouro",
    batch: Annotated[int, typer.Option(help="Images optimised together; the unit that survives a kill.")] = 32,
    option: Annotated[list[str], typer.Option(help="Setting of the method, as name=value; repeatable.")] = [],
    out: Annotated[Path | None, typer.Option(help="Write the set here (.safetensors).")] = None,
    seed: Seed = 0,
    device: Device = "auto",
    json_: Json = False,
) -> None:
    """Synthesize calibration images from noise; stopped, the same command resumes.

    JSON: {model, method, num, steps, seconds, recognized: {self, other}, judges, path, ...}.
    """
    from ouro.jobs.synthesize import SynthesisSpec, synthesize

    if out is not None and out.suffix != ".safetensors":
        raise ValueError(f"the set is written as .safetensors, got {out.name!r}")
    spec = SynthesisSpec(
        model,
        method,
        num=num,
        steps=steps,
        seed=seed,
        batch=batch,
        options=_options(option),
        out=str(out) if out else None,
    )
    values = _run_values(_follow("generate", synthesize(spec)))
    if json_:
        return _print_json(values)
    seen = values["recognized"]
    _out.print(f"{num} images in {values['seconds']:.0f} s -> {values['path']}")
    _out.print(f"recognized as their target class: by {model} {_percent(seen['self'])}", end="")
    _out.print("".join(f", by {judge} {_percent(share)}" for judge, share in values["judges"].items()))


@app.command()
@_guarded
def quantize(
    model: Model,
    method: Annotated[str, typer.Option(help="One of: " + ", ".join(QUANTIZERS) + ".")] = "ouro",
    bits: Annotated[str, typer.Option(help="Weights, activations, outliers: w8a8, w4a8o16, w4a4o8 ...")] = "w4a4o8",
    calib: Annotated[str, typer.Option(help="A generated set, noise[:N], real:N or synthetic:N.")] = "noise:128",
    scope: Annotated[str, typer.Option(help="What is quantized: lin, ssm, rec or full.")] = "lin",
    option: Annotated[list[str], typer.Option(help="Setting of the method, as name=value; repeatable.")] = [],
    budget: Annotated[float | None, typer.Option(help="Mean bits that a search spreads over the sites.")] = None,
    widths: Annotated[str, typer.Option(help="With --budget: what a site can get.")] = "3,4,6,8",
    by: Annotated[str, typer.Option(help="With --budget: a width per site, or per group (block and kind).")] = "site",
    packed: Annotated[bool, typer.Option("--packed", help="Write integer codes in place of the weights.")] = False,
    floats: Annotated[str, typer.Option(help="With --packed: fp32 or fp16 for what stays in floating point.")] = "fp32",
    out: Annotated[Path | None, typer.Option(help="Write the quantized model here (.safetensors).")] = None,
    seed: Seed = 0,
    device: Device = "auto",
    json_: Json = False,
) -> None:
    """Calibrate a quantized model.

    JSON: {model, method, bits, scope, calib, n, effective_bits, path, bytes, seconds, audit: {sites, sealed}, ...}; with
    --budget also {budget, mean_bits: {weights, activations}, predicted_kl, measured_kl}, with --packed {packed: {ratio,
    parts, load_seconds, agreement, max_error}}.
    """
    from ouro.jobs.quantize import QuantizeSpec
    from ouro.jobs.quantize import quantize as job

    spec = QuantizeSpec(
        model, method, bits, calib, scope, seed, out=str(out) if out else None, options=_options(option),
        budget=budget, widths=_numbers(widths, "widths"), by=by, packed=packed, floats=floats,
    )  # fmt: skip
    values = _run_values(_follow("quantize", job(spec)))
    if json_:
        return _print_json(values)
    audit = values["audit"]
    _out.print(
        f"{model} {bits} by {method}, scope {scope}, calibrated on {calib}: {audit['sites']} sites, "
        f"{'all verified' if audit['sealed'] else 'NOT all verified'}; {values['seconds']:.0f} s"
    )
    if budget is not None:
        mean = values["mean_bits"]
        _out.print(
            f"mean bits: weights {mean['weights']:.2f}, activations {mean['activations']:.2f}; KL predicted "
            f"{values['predicted_kl']:.4f}, measured {values['measured_kl']:.4f}"
        )
    if values.get("path"):
        _out.print(f"written to {values['path']} ({values['bytes']:,} bytes)")
    if packed:
        found = values["packed"]
        _out.print(
            f"packed: {found['ratio']:.2f}x smaller than float32, loads in {found['load_seconds']:.2f} s, same top-1 as "
            f"the simulated model on {_percent(found['agreement'])} of the calibration images"
        )


def _numbers(text: str, name: str) -> tuple[int, ...]:
    """What "3,4,6,8" says: (3, 4, 6, 8)."""
    parts = text.split(",")
    if not all(part.strip().isdecimal() for part in parts):
        raise ValueError(f"{name} {text!r} cannot be read; write whole numbers with commas, as in 3,4,6,8")
    return tuple(map(int, parts))


@app.command()
@_guarded
def sensitivity(
    model: Model,
    bits: Annotated[str, typer.Option(help="Weights, activations, outliers: w8a8, w4a4o8 ...")] = "w4a4o8",
    method: Annotated[str, typer.Option(help="As for quantize.")] = "ouro",
    calib: Annotated[str, typer.Option(help="A generated set, noise[:N], real:N or synthetic:N.")] = "noise:128",
    scope: Annotated[str, typer.Option(help="What is quantized: lin, ssm, rec or full.")] = "lin",
    mode: Annotated[str, typer.Option(help="isolated, cumulative or leave_one_float.")] = "isolated",
    by: Annotated[str, typer.Option(help="site, or group: the sites of a block that are of one kind.")] = "site",
    data: Annotated[
        str, typer.Option(help="scenes, digits, cifar10 or folder:PATH; the model's own set by default.")
    ] = "",
    limit: Annotated[int, typer.Option(help="Held-out images to measure on.", min=1)] = 200,
    option: Annotated[list[str], typer.Option(help="Setting of the method, as name=value; repeatable.")] = [],
    out: Annotated[Path | None, typer.Option(help="Also write the JSON here.")] = None,
    seed: Seed = 0,
    device: Device = "auto",
    json_: Json = False,
) -> None:
    """What rounding each site costs, ranked: KL from the float model in nats, drop of top-1, SQNR of the logits.

    JSON: {model, method, bits, scope, calib, data, n, mode, by, fp_top1, whole: {kl, top1_drop, sqnr_db}, rows: [{name,
    block, kind, sites, bits, kl, top1_drop, sqnr_db, isolated_kl}], seconds, device, seed, ...}.
    """
    from ouro.jobs.sensitivity import SensitivitySpec, measure_sensitivity

    spec = SensitivitySpec(
        model, method, bits, calib, scope, mode, by, data, limit, seed, options=_options(option)
    )  # fmt: skip
    values = _run_values(_follow("sensitivity", measure_sensitivity(spec)))
    if _handed_over(values, out, json_):
        return
    whole = values["whole"]
    title = (
        f"{model} {values['bits']} by {method}, scope {scope}, {mode}, n = {values['n']}; all rounded: KL "
        f"{whole['kl']:.3g}, top-1 {_percent(values['fp_top1'] - whole['top1_drop'])} of {_percent(values['fp_top1'])}"
    )
    table = _table(title, "name", "sites", "bits", "KL", "top-1 drop", "SQNR dB")
    for row in values["rows"]:
        sqnr = "-" if row["sqnr_db"] is None else f"{row['sqnr_db']:.1f}"
        widths = ", ".join(map(str, row["bits"]))
        table.add_row(row["name"], str(row["sites"]), widths, f"{row['kl']:.3g}", _percent(row["top1_drop"]), sqnr)
    _out.print(table)


@app.command()
@_guarded
def quality(
    model: Model,
    calib: Annotated[list[str], typer.Option("--set", help="LABEL=SET; repeatable.")] = [
        "noise=noise:128",
        "synthetic=synthetic:128",
        "real=real:128",
    ],
    reference: Annotated[str, typer.Option(help="Real images that sets are measured against.")] = "real:128",
    method: Annotated[list[str], typer.Option(help="Quantized with every set; repeatable.")] = ["clipped", "ouro"],
    bits: Annotated[list[str], typer.Option(help="Repeatable.")] = ["w4a4o8"],
    limit: Annotated[int, typer.Option(help="Held-out images for the accuracy.", min=1)] = 250,
    figures: Annotated[Path | None, typer.Option(help="Folder for one PDF per figure.")] = None,
    out: Annotated[Path | None, typer.Option(help="Also write the JSON here.")] = None,
    seed: Seed = 0,
    device: Device = "auto",
    json_: Json = False,
) -> None:
    """What sets of images are worth for calibration: recognition, spread, distance to real ones, ranges, accuracy.

    JSON: {model, reference, rows: [{label, calib, n, recognized, diversity, frechet, overlap, outside, ks, similarity,
    entropy, sites, density, accuracy}], ...}.
    """
    from ouro.jobs.quality import QualitySpec
    from ouro.jobs.quality import quality as job

    spec = QualitySpec(model, _labeled(calib, "--set"), reference, tuple(method), tuple(bits), limit, seed)
    values = _run_values(_follow("quality", job(spec)))
    if figures is not None:
        from ouro.figures.quality import ITEMS, paper

        figures.mkdir(parents=True, exist_ok=True)
        for item in ITEMS:
            paper(values, item).savefig(figures / f"{item}.pdf")
    if _handed_over(values, out, json_):
        return
    table = _table(f"{model}, against {values['n_reference']} real images", "what", "n", "recognized", "by others",
                   "distance", "Fréchet", "overlap", "KS", *(f"{m} {b}" for m in method for b in bits))  # fmt: skip
    for row in values["rows"]:
        own, *others = [_percent(share) for share in row["recognized"].values()] or ["-"]
        found = [_percent(row["accuracy"][f"{m} {b}"]) for m in method for b in bits]
        table.add_row(
            row["label"], str(row["n"]), own, ", ".join(others) or "-", f"{row['diversity']['pairwise']:.3f}",
            f"{row['frechet']:.3g}", _percent(row["overlap"]), f"{row['ks']:.3f}", *found,
        )  # fmt: skip
    _out.print(table)


def _labeled(pairs: list[str], option: str) -> tuple[tuple[str, str], ...]:
    """LABEL=SET -> (label, set)."""
    split = tuple((label, rest) for label, _, rest in (item.partition("=") for item in pairs))
    if not all(rest for _, rest in split):
        raise ValueError(f"{option} {pairs} has an entry without a set; write LABEL=SET, as in real=real:128")
    return split


@app.command()
@_guarded
def evaluate(
    model: Annotated[str, typer.Argument(help="A model name or a quantized file.")],
    data: Annotated[
        str, typer.Option(help="scenes, digits, cifar10 or folder:PATH; the model's own set by default.")
    ] = "",
    limit: Annotated[int | None, typer.Option(help="At most this many images.", min=1)] = None,
    weights: Annotated[str, typer.Option(help="Checkpoint file, URL or hub file instead of the published one.")] = "",
    batch: Annotated[int, typer.Option(help="Images per forward; does not change the result.", min=1)] = 64,
    seed: Seed = 0,
    device: Device = "auto",
    json_: Json = False,
) -> None:
    """Top-1 with its 95 % interval; on several processes as torchrun --nproc-per-node 2 -m ouro evaluate ...

    JSON: {model, method, bits, scope, data, n, top1, ci95, fp_top1, effective_bits, seconds, device, seed, transform,
    weights: {source, container, revision}, ranks}.
    """
    from ouro.jobs.evaluate import EvaluateSpec
    from ouro.jobs.evaluate import evaluate as job

    spec = EvaluateSpec(model, data=data, limit=limit, batch=batch, seed=seed, weights=weights)
    values = _run_values(_follow("evaluate", job(spec)))
    if json_:
        return _print_json(values)
    low, high = values["ci95"]
    _out.print(f"{model} on {values['data']}: top-1 {_percent(values['top1'])} ({_percent(low)} to {_percent(high)}), "
               f"n = {values['n']}")  # fmt: skip
    if values.get("fp_top1") is not None and values.get("method"):
        _out.print(
            f"float model on the same images: {_percent(values['fp_top1'])}; effective bits {values['effective_bits']}"
        )
    taken, seen = values["weights"], values["transform"]
    if taken:
        _out.print(f"weights: {taken['source']}, {taken['container'] or 'no container'}, revision {taken['revision']}")
    if seen["crop_pct"]:
        size = "x".join(map(str, seen["input_size"]))
        _out.print(f"images: {seen['interpolation']}, center crop of {seen['crop_pct']}, {size}")


@app.command()
@_guarded
def train(
    name: Annotated[str, typer.Argument(help="An embedded checkpoint.")],
    out: Annotated[Path | None, typer.Option(help="Folder for the weights and the model card.")] = None,
    data: Annotated[str, typer.Option(help="In place of the recipe's own set: cifar10:PATH is all of CIFAR-10.")] = "",
    device: Device = "auto",
    json_: Json = False,
) -> None:
    """Rebuild an embedded checkpoint. JSON: its model card."""
    from ouro.jobs.train import RECIPES, train_job

    if name not in RECIPES:
        raise ValueError(f"no recipe for {name!r}; known: {', '.join(RECIPES)}")
    spec = replace(RECIPES[name], data=data or RECIPES[name].data, device=device)
    values = _run_values(_follow("train", train_job(spec, out or Path("out"))))
    if json_:
        return _print_json(values)
    _out.print(f"{name}: held-out top-1 {_percent(values['top1'])}, n = {values['n']} -> {values['path']}")


@bench_app.command("quantization")
@_guarded
def bench_quantization_command(
    model: Model,
    calib: Annotated[list[str], typer.Option(help="LABEL=SET, with {seed} for the seed in SET; repeatable.")] = [
        "noise=noise:128",
        "real=real:128",
    ],
    method: Annotated[list[str], typer.Option(help="Repeatable.")] = ["minmax", "clipped", "dynamic", "ouro"],
    bits: Annotated[list[str], typer.Option(help="Repeatable.")] = ["w8a8", "w4a8o16", "w4a4o8", "w4a3o8"],
    scope: Annotated[str, typer.Option(help="What is quantized: lin, ssm, rec or full.")] = "lin",
    seeds: Annotated[int, typer.Option(help="Seeds 0 .. seeds - 1.", min=1)] = 3,
    limit: Annotated[int, typer.Option(help="Held-out images per cell.", min=1)] = 1000,
    out: Annotated[Path | None, typer.Option(help="Also write JSON here, and the cells as CSV beside it.")] = None,
    device: Device = "auto",
    json_: Json = False,
) -> None:
    """Methods x bits x calibration sets x seeds on one model; stopped, the same command resumes.

    JSON: {model, data, scope, n, fp_top1, fp_ci95, rows: [{method, bits, calib, top1, spread, effective_bits}], cells}.
    """
    from ouro.jobs.compare import CompareSpec, as_csv, compare
    from ouro.store import write_bytes

    pairs = _labeled(calib, "--calib")
    spec = CompareSpec(model, tuple(method), tuple(bits), pairs, tuple(range(seeds)), scope, limit=limit)
    values = _run_values(_follow("compare", compare(spec)))
    if out is not None:
        write_bytes(out.with_suffix(".csv"), as_csv(values).encode())
    if _handed_over(values, out, json_):
        return
    low, high = values["fp_ci95"]
    title = (
        f"{model}, float {_percent(values['fp_top1'])} ({_percent(low)} to {_percent(high)}), n = {values['n']}, "
        f"{seeds} seed(s)"
    )
    table = _table(title, "what", "bits", "calibration", "top-1", "spread", "effective bits", "outliers")
    for row in values["rows"]:
        measured = row["effective_bits"]
        table.add_row(
            row["method"], row["bits"], row["calib"], _percent(row["top1"]), f"{100 * row['spread']:.1f}",
            f"{measured['activations']:.2f}", _percent(measured["outlier_share"]),
        )  # fmt: skip
    _out.print(table)


@bench_app.command("alpha")
@_guarded
def bench_alpha_command(
    e: Annotated[int, typer.Option(help="Channels.")] = 384,
    n: Annotated[int, typer.Option(help="States per channel.")] = 16,
    side: Annotated[int, typer.Option(help="Patches along a side of the image.")] = 14,
    window: Annotated[int, typer.Option(help="Side of the neighborhood.")] = 5,
    repeats: Annotated[int, typer.Option(help="Timed calls of the compiled form.")] = 10,
    out: Annotated[Path | None, typer.Option(help="Also write the JSON here.")] = None,
    seed: Seed = 0,
    device: Device = "auto",
    json_: Json = False,
) -> None:
    """Patched attention of one image, scan and block: compiled against the closed form and a triple loop over steps.

    JSON: {op, device, rows: [{op, case, backend, p20_ms, p50_ms, p80_ms, ratio}], gate, ...}.
    """
    from ouro.jobs.bench_alpha import AlphaBenchSpec, bench_alpha

    spec = AlphaBenchSpec(e=e, n=n, side=side, window=window, repeats=repeats, seed=seed)
    _tell_bench(_run_values(_follow("bench", bench_alpha(spec))), "", out, json_)


@bench_app.command("attention")
@_guarded
def bench_attention_command(
    model: Annotated[list[str], typer.Option(help="Repeatable; every embedded family by default.")] = [],
    windows: Annotated[str, typer.Option(help="Sides of the neighborhood, separated by commas.")] = "1,3,5,7",
    n: Annotated[int, typer.Option(help="Held-out images per model.", min=2)] = 500,
    workers: Annotated[int, typer.Option(help="Processes that share the cores.", min=1)] = 2,
    out: Annotated[Path | None, typer.Option(help="Also write the JSON here.")] = None,
    seed: Seed = 0,
    device: Device = "auto",
    json_: Json = False,
) -> None:
    """Is h_p a better map than h? Families x layers x reductions x windows x weights against masks.

    JSON: {n, windows, weights, models: [{model, data, scored, rows: [{layer, source, reduction, auroc, pointing, leakage,
    gain: {mean, ci95, seen}}], best}]}.
    """
    from ouro.jobs.neighborhoods import NeighborhoodSpec, survey_neighborhoods

    chosen = {"models": tuple(model)} if model else {}
    spec = NeighborhoodSpec(windows=_numbers(windows, "windows"), n=n, seed=seed, workers=workers, **chosen)
    values = _run_values(_follow("attention", survey_neighborhoods(spec)))
    if _handed_over(values, out, json_):
        return
    for one in values["models"]:
        table = _table(f"{one['model']}, {one['scored']} images of {one['data']}", "what", "layers where h_p is better",
                       "worse", "not resolved", "best AUROC", "where")  # fmt: skip
        for source, best in one["best"].items():
            gains = [row["gain"]["seen"] for row in one["rows"] if row["source"] == source and row["gain"]]
            counts = [str(gains.count(word)) if gains else "-" for word in ("better", "worse", "not resolved")]
            where = f"layer {best['layer']}, {best['reduction']}"
            table.add_row(source, *counts, f"{best['auroc']['mean']:.3f}", where)
        _out.print(table)


@bench_app.command("ablations")
@_guarded
def bench_ablations_command(
    model: Annotated[list[str], typer.Option(help="Repeatable.")] = ["vim_nano"],
    study: Annotated[
        list[str], typer.Option(help="losses, samples, window, weights or source; repeatable, all by default.")
    ] = [],
    seeds: Annotated[int, typer.Option(help="Seeds 0 .. seeds - 1.", min=2)] = 3,
    num: Annotated[int, typer.Option(help="Images in a set, where the study does not vary it.", min=1)] = 32,
    steps: Annotated[int, typer.Option(help="Of optimization.", min=1)] = 160,
    measure: Annotated[list[str], typer.Option(help="METHOD:BITS calibrated on every set; repeatable.")] = [
        "clipped:w4a4o8",
        "ouro:w4a4o8",
        "ouro:w4a3o8",
    ],
    scope: Annotated[str, typer.Option(help="What is quantized: lin, ssm, rec or full.")] = "lin",
    limit: Annotated[int, typer.Option(help="Held-out images per cell.", min=1)] = 500,
    workers: Annotated[int, typer.Option(help="Processes that share the cores.", min=1)] = 2,
    figures: Annotated[Path | None, typer.Option(help="Folder for one PDF per study.")] = None,
    out: Annotated[Path | None, typer.Option(help="Also write the JSON here.")] = None,
    device: Device = "auto",
    json_: Json = False,
) -> None:
    """The paper's ablations of the generation, and whether its orderings are seen; stopped, the same command resumes.

    JSON: {studies: [{study, title, source, model, n, rows: [{label, num, top1, recognized}], claims: [{better, worse,
    measure, difference, ci95, seen}]}], measures, seeds, ...}.
    """
    from ouro.jobs.ablation import STUDIES, AblationSpec, ablate

    pairs = tuple((method, bits) for method, _, bits in (item.partition(":") for item in measure))
    if not all(bits for _, bits in pairs):
        raise ValueError(f"--measure {measure} has an entry without bits; write METHOD:BITS, as in clipped:w4a4")
    chosen = tuple(study) or tuple(STUDIES)
    spec = AblationSpec(tuple(model), chosen, seeds, num, steps, pairs, scope, limit, workers)
    values = _run_values(_follow("ablations", ablate(spec)))
    if figures is not None:
        from ouro.figures.ablation import paper

        figures.mkdir(parents=True, exist_ok=True)
        for one in values["studies"]:
            paper(one).savefig(figures / f"ablation_{one['model']}_{one['study']}.pdf")
    if _handed_over(values, out, json_):
        return
    for one in values["studies"]:
        title = f"{one['model']}: {one['title']}, top-1 in %, {seeds} seeds, n = {one['n']}"
        table = _table(title, "what", "images", *values["measures"])
        for row in one["rows"]:
            cells = [f"{100 * cell['mean']:.1f} ± {100 * cell['spread']:.1f}" for cell in row["top1"].values()]
            table.add_row(row["label"], str(row["num"]), *cells)
        _out.print(table)
        for claim in one["claims"]:
            low, high = (100 * end for end in claim["ci95"])
            _out.print(
                f"{claim['better']} over {claim['worse']}, {claim['measure']}: {claim['seen']} "
                f"({100 * claim['difference']:+.1f}, {low:+.1f} to {high:+.1f})"
            )


@bench_app.command("methods")
@_guarded
def bench_methods_command(
    quick: Annotated[bool, typer.Option("--quick", help="One model, one scope, one seed, two widths.")] = False,
    limit: Annotated[
        int | None, typer.Option(help="Held-out images per cell; 250, or 100 with --quick.", min=1)
    ] = None,
    workers: Annotated[int, typer.Option(help="Processes that share the cores.", min=1)] = 2,
    out: Annotated[Path | None, typer.Option(help="Write the cells here (.csv), and the JSON beside it.")] = None,
    device: Device = "auto",
    json_: Json = False,
) -> None:
    """Every method on every calibration set, over widths, scopes, models and seeds; stopped, the same command resumes.

    JSON: {tables: [{model, scope, n, fp_top1, fp_ci95, rows: [{method, bits, calib, top1, spread, seeds, effective_bits,
    calibration_seconds, peak_mb}], cells}], csv, workers, ...}.
    """
    from ouro.jobs.table import FULL, QUICK, TableSpec, table
    from ouro.store import write_bytes, write_json

    if out is not None and out.suffix != ".csv":
        raise ValueError(f"the table is written as .csv, got {out.name!r}")
    spec = TableSpec(QUICK if quick else FULL, limit=limit or (100 if quick else 250), workers=workers)
    values = _run_values(_follow("methods", table(spec)))
    if out is not None:
        write_bytes(out, values["csv"].encode())
        # the cells are in the CSV
        slim = [{key: x for key, x in one.items() if key != "cells"} for one in values["tables"]]
        write_json(out.with_suffix(".json"), {key: x for key, x in values.items() if key != "csv"} | {"tables": slim})
    if json_:
        return _print_json(values)
    for one in values["tables"]:
        _out.print(_methods_table(one))


def _methods_table(values: dict[str, Any]) -> Table:
    """One model and scope: a row per method and width, a column per calibration set."""
    calibs = list(dict.fromkeys(row["calib"] for row in values["rows"]))
    title = f"{values['model']}, scope {values['scope']}: top-1 in %, float {_percent(values['fp_top1'])}, n = {values['n']}"
    drawn = _table(title, "what", "bits", *calibs, "activation bits", "seconds")
    cells = {(row["method"], row["bits"], row["calib"]): row for row in values["rows"]}
    for method, bits in dict.fromkeys((row["method"], row["bits"]) for row in values["rows"]):
        rows = [cells[method, bits, calib] for calib in calibs]
        drawn.add_row(
            method, bits, *(f"{100 * row['top1']:.1f} ± {100 * row['spread']:.1f}" for row in rows),
            f"{rows[-1]['effective_bits']['activations']:.2f}", f"{rows[-1]['calibration_seconds']:.0f}",
        )  # fmt: skip
    return drawn


@bench_app.command("state")
@_guarded
def bench_state_command(
    model: Model,
    bits: Annotated[list[int], typer.Option(help="Width of h; repeatable.")] = [8, 6],
    calib: Annotated[str, typer.Option(help="Images that steps and factors come from.")] = "real:32",
    out: Annotated[Path | None, typer.Option(help="Also write the JSON here.")] = None,
    seed: Seed = 0,
    device: Device = "auto",
    json_: Json = False,
) -> None:
    """What rounding the hidden state inside the recurrence costs: per tensor, per step, with rank-1 factors.

    JSON: {model, calib, bits, n, rows: [{layer, path, bits, rule, h_error, y_error}], means, ...}.
    """
    from ouro.jobs.state import StateSpec, state_errors

    values = _run_values(_follow("state", state_errors(StateSpec(model, tuple(bits), calib, seed))))
    if _handed_over(values, out, json_):
        return
    table = _table(f"{model}: error of h inside the recurrence, {values['n']} images", "what", "bits", "h error",
                   "1 - cos y", "better than step")  # fmt: skip
    for row in values["means"]:
        table.add_row(
            row["rule"], str(row["bits"]), f"{row['h_error']:.4f}", f"{row['y_error']:.1e}",
            f"{row['layers_better_than_step']} of {row['layers']} layers",
        )  # fmt: skip
    _out.print(table)


@bench_app.command("scan")
@_guarded
def bench_scan_command(
    b: Annotated[int, typer.Option(help="Batch.")] = 8,
    e: Annotated[int, typer.Option(help="Channels.")] = 384,
    l: Annotated[int, typer.Option(help="Time steps.")] = 197,  # noqa: E741
    n: Annotated[int, typer.Option(help="States per channel.")] = 16,
    repeats: Annotated[int, typer.Option(help="Timed calls of the compiled scan.")] = 30,
    backend: Annotated[str, typer.Option(help="cpu, or triton: as `ouro bench kernels scan`.")] = "cpu",
    out: Annotated[Path | None, typer.Option(help="Also write the JSON here.")] = None,
    seed: Seed = 0,
    device: Device = "auto",
    json_: Json = False,
) -> None:
    """The compiled scan against the loop over tokens.

    JSON: {op, device, rows: [{case, backend, gate, max_error, p20_ms, p50_ms, p80_ms, ratio, peak_mb}], ...}.
    """
    if backend == "triton":
        return _bench_kernels(["scan"], [], True, repeats, out, seed, json_)
    if backend != "cpu":
        raise ValueError(f"backend is {backend!r}, allowed are cpu and triton")
    from ouro.jobs.bench import ScanBenchSpec, bench_scan

    values = _run_values(_follow("bench", bench_scan(ScanBenchSpec(b=b, e=e, l=l, n=n, repeats=repeats, seed=seed))))
    words = f"; exponential within {values['exp_max_ulp']:.2f} ulp; operands {values['inputs_mb']} MB"
    _tell_bench(values, words, out, json_)


@bench_app.command("model")
@_guarded
def bench_model_command(
    model: Model,
    b: Annotated[str, typer.Option(help="Batch; with backend triton several, as in 1,8,32,128.")] = "8",
    backend: Annotated[str, typer.Option(help="cpu, or triton: the whole model on kernels, Vim only.")] = "cpu",
    formats: Annotated[str, typer.Option(help="With backend triton: fp32, fp16, bf16, w8a8, w4a8, w4a4o8.")] = (
        "fp16,w8a8,w4a8,w4a4o8"
    ),
    images: Annotated[int, typer.Option(help="With backend triton: images that pass the gate.")] = 1024,
    peers: Annotated[bool, typer.Option(help="With backend triton: time the unfused model as well.")] = True,
    repeats: Annotated[int, typer.Option(help="Timed forwards; 0 takes 5, or 50 with backend triton.")] = 0,
    out: Annotated[Path | None, typer.Option(help="Also write the JSON here.")] = None,
    seed: Seed = 0,
    device: Device = "auto",
    json_: Json = False,
) -> None:
    """A whole model's forward with the compiled scan against the same model with the loop over tokens, or on kernels.

    JSON: {op, device, rows: [{case, backend, gate, max_error, p20_ms, p50_ms, p80_ms, ratio, peak_mb}], ...}; with backend
    triton {op, model, device, gate: {passed, failed, formats}, gates: [{format, images, error, agreement, off, top1,
    yardstick, yardstick_top1, exact, passed, complaint}], rows: [{case, format, b, backend, replay, p20_ms, p50_ms, p80_ms,
    images_per_second, speedup, speedup_over_graph, speedup_over}], missing, not_measured}.
    """
    try:
        batches = tuple(int(part) for part in b.split(","))
    except ValueError:
        raise ValueError(f"b is {b!r}, expected whole numbers with commas between them") from None
    if backend == "triton":
        return _bench_fused(model, tuple(formats.split(",")), batches, images, peers, repeats or 50, out, seed, json_)
    if backend != "cpu" or len(batches) > 1:
        raise ValueError(f"backend is {backend!r} and b {b!r}; backend cpu takes one batch size, triton takes several")
    from ouro.jobs.bench import ModelBenchSpec, bench_model

    spec = ModelBenchSpec(model, batch=batches[0], repeats=repeats or 5, seed=seed)
    values = _run_values(_follow("bench", bench_model(spec)))
    _tell_bench(values, "", out, json_)


def _bench_fused(
    model: str, formats: tuple[str, ...], batches: tuple[int, ...], images: int, peers: bool, repeats: int,
    out: Path | None, seed: int, json_: bool,
) -> None:  # fmt: skip
    from ouro.jobs.fused_bench import FusedBenchSpec, bench_fused

    spec = FusedBenchSpec(model, formats, batches, images, peers, repeats, seed)
    values = _run_values(_follow("bench", bench_fused(spec)))
    _tell_gated(values, partial(_print_fused, values), out, json_)


def _print_fused(values: dict[str, Any]) -> None:
    what = "a tiny variant" if values["not_measured"] else values["model"]
    title = f"gate against the simulated model, {what}, {values['device']}"
    table = _table(title, "what", "images", "block in float32", "error", "same top-1", "passed")
    for row in values["gates"]:
        distances = [f"{row[key]:.1e}" for key in ("exact", "error")]
        passed = "yes" if row["passed"] else "NO"
        table.add_row(row["format"], f"{row['images']}", *distances, _percent(row["agreement"]), passed)
    _out.print(table)
    for row in (*values["gates"], *values["rows"]):
        if problem := row.get("complaint") or row.get("failed"):
            _out.print(f"{row.get('case', row['format'])}: {problem}", highlight=False)
    if values["not_measured"]:
        return _out.print(values["not_measured"], highlight=False)
    table = _table(
        values["model"], "what", "backend", "p20 ms", "p50 ms", "p80 ms", "images/s", "ours is", "than graphed"
    )
    for row in values["rows"]:
        if "p50_ms" in row:
            times = [f"{row[key]:.3f}" for key in ("p20_ms", "p50_ms", "p80_ms")]
            ratios = [f"{row[key]:.2f}x" if key in row else "" for key in ("speedup", "speedup_over_graph")]
            table.add_row(row["case"], row["backend"], *times, f"{row['images_per_second']:.0f}", *ratios)
    _out.print(table)
    for row in values["missing"]:
        _out.print(f"missing: {row['peer']} ({row['why']})", highlight=False)


@bench_app.command("packed")
@_guarded
def bench_packed_command(
    model: Model,
    bits: Annotated[list[str], typer.Option(help="Repeatable.")] = ["w8a8", "w4a8"],
    b: Annotated[list[int], typer.Option(help="Batch; repeatable.")] = [1, 8],
    repeats: Annotated[int, typer.Option(help="Timed forwards of each.")] = 30,
    images: Annotated[int, typer.Option(help="Held-out images that pass the gate.")] = 64,
    out: Annotated[Path | None, typer.Option(help="Also write the JSON here.")] = None,
    seed: Seed = 0,
    device: Device = "auto",
    json_: Json = False,
) -> None:
    """A packed model's forward against the same model in float32, and where the time goes.

    Weights of a model that is not embedded are made up, as for `bench model`.

    JSON: {op, model, weights, device, gate, rows: [{case, backend, gate, max_error, agreement, p20_ms, p50_ms, p80_ms,
    ratio, parts}]}.
    """
    from ouro.jobs.pack import PackedBenchSpec, bench_packed

    spec = PackedBenchSpec(model, tuple(bits), tuple(b), repeats, images, seed=seed)
    values = _run_values(_follow("bench", bench_packed(spec)))
    shares = [row["agreement"] for row in values["rows"]]
    told = (
        "; weights are made up"
        if None in shares
        else f"; same top-1 as simulated on {_percent(min(shares))} of {images}"
    )
    _tell_bench(values, told, out, json_)


CaseWords = Annotated[
    list[str], typer.Option("--case", help="A word of the case's name, as Vim-B or b=128; repeatable.")
]
Peers = Annotated[bool, typer.Option(help="Also measure what else is installed.")]
Replays = Annotated[int, typer.Option(help="Replays that percentiles are taken of.")]


@bench_app.command("kernels")
@_guarded
def bench_kernels_command(
    names: Annotated[list[str] | None, typer.Argument(help="Kernels, or scan, gemm, rows; none means all.")] = None,
    case: CaseWords = [],
    peers: Peers = True,
    repeats: Replays = 20,
    out: Annotated[Path | None, typer.Option(help="Also write the JSON here.")] = None,
    seed: Seed = 0,
    json_: Json = False,
) -> None:
    """Triton kernels: a gate against float64 first, then times beside floors and peers; without a GPU the gate only.

    JSON: {op, device, gate: {passed, failed, cases}, gates: [{kernel, case, passed, max_error, share, counts, complaint}], rows:
    [{kernel, case, backend, p20_ms, p50_ms, p80_ms, cold_p50_ms, floor_ms, bound, achieved, speedup}], ceilings, missing,
    not_measured}.
    """
    _bench_kernels(names or [], case, peers, repeats, out, seed, json_)


@bench_app.command("gemm")
@_guarded
def bench_gemm_command(
    case: CaseWords = [],
    peers: Peers = True,
    repeats: Replays = 20,
    out: Annotated[Path | None, typer.Option(help="Also write the JSON here.")] = None,
    seed: Seed = 0,
    json_: Json = False,
) -> None:
    """The quantized linear layers, as `ouro bench kernels gemm`. JSON: the same keys."""
    _bench_kernels(["gemm"], case, peers, repeats, out, seed, json_)


@bench_app.command("compare")
@_guarded
def bench_compare_command(
    before: Annotated[Path, typer.Argument(help="A file that `ouro bench ... --out` wrote.")],
    after: Annotated[Path, typer.Argument(help="Another one.")],
    json_: Json = False,
) -> None:
    """Two result files side by side; a row is the same where its ranges from p20 to p80 overlap.

    JSON: {device, same_device, commit, rows: [{what, case, backend, before_ms, after_ms, speedup, verdict}], only_before,
    only_after}.
    """
    from ouro.jobs.bench_diff import compare_benchmarks

    found = compare_benchmarks(before, after)
    if json_:
        return _print_json(found)
    if not found["same_device"]:
        _out.print(f"different devices: {' and '.join(map(str, found['device']))}", highlight=False)
    table = _table(
        f"{before.name} -> {after.name}", "what", "case", "backend", "before ms", "after ms", "speedup", "verdict"
    )
    for row in found["rows"]:
        times = [f"{row[key]:.4f}" for key in ("before_ms", "after_ms")]
        table.add_row(row["what"], row["case"], row["backend"], *times, f"{row['speedup']}", row["verdict"])
    _out.print(table)
    if alone := len(found["only_before"]) + len(found["only_after"]):
        _out.print(f"{alone} rows are in one of the two only", highlight=False)


def _bench_kernels(
    names: list[str], words: list[str], peers: bool, repeats: int, out: Path | None, seed: int, json_: bool
) -> None:
    from ouro.jobs.kernel_bench import KernelBenchSpec, bench_kernels

    spec = KernelBenchSpec(tuple(names), tuple(words), peers, repeats, seed)
    values = _run_values(_follow("bench", bench_kernels(spec)))
    _tell_gated(values, partial(_print_kernels, values), out, json_)


def _print_kernels(values: dict[str, Any]) -> None:
    table = _table(f"gate against float64, {values['device']}", "what", "cases", "passed")
    gates = values["gates"]
    for name in dict.fromkeys(row["kernel"] for row in gates):
        passed = [row["passed"] for row in gates if row["kernel"] == name]
        table.add_row(name, f"{len(passed)}", f"{sum(passed)}")
    _out.print(table)
    for row in (*gates, *values["rows"]):
        if problem := row.get("complaint") or row.get("failed"):
            _out.print(f"{row['kernel']}, {row['case']}, {row.get('backend', 'gate')}: {problem}", highlight=False)
    if values["not_measured"]:
        return _out.print(values["not_measured"], highlight=False)
    for name in dict.fromkeys(row["kernel"] for row in values["rows"]):
        table = _table(
            name, "what", "backend", "p20 ms", "p50 ms", "p80 ms", "cold ms", "floor ms", "bound", "of it", "ours is"
        )
        for row in values["rows"]:
            if row["kernel"] == name and "p50_ms" in row:
                times = [f"{row[key]:.4f}" for key in ("p20_ms", "p50_ms", "p80_ms", "cold_p50_ms")]
                floor = (
                    [f"{row['floor_ms']:.4f}", row["bound"], _percent(row["achieved"])] if "bound" in row else ["-"] * 3
                )
                table.add_row(
                    row["case"], row["backend"], *times, *floor, f"{row['speedup']:.2f}x" if "speedup" in row else ""
                )
        _out.print(table)
    for row in values["missing"]:
        _out.print(f"missing: {row['peer']} ({row['why']})", highlight=False)


def _tell_bench(values: dict[str, Any], words: str, out: Path | None, json_: bool) -> None:
    """The gate in a line and the timings in a table, or JSON; exit code 1 when the gate failed."""
    _tell_gated(values, partial(_print_bench, values, words), out, json_)


def _tell_gated(values: dict[str, Any], tell: Callable[[], None], out: Path | None, json_: bool) -> None:
    """What `tell` prints, or JSON; exit code 1 when the gate failed."""
    if not _handed_over(values, out, json_):
        tell()
    if not values["gate"]["passed"]:
        raise typer.Exit(1)


def _print_bench(values: dict[str, Any], words: str) -> None:
    gate = values["gate"]
    _out.print(
        f"gate {'passed' if gate['passed'] else 'FAILED'}: max relative error {gate['max_error']:.1e} "
        f"(allowed {gate['tolerance']:.0e}){words}"
    )
    if not values["rows"]:
        return
    table = _table(f"{values['rows'][0]['case']}, {values['threads']} threads", "what", "backend", "p20 ms", "p50 ms",
                   "p80 ms", "ratio", "peak MB")  # fmt: skip
    for row in values["rows"]:
        cells = [f"{row[key]:.2f}" if key in row else "-" for key in ("p20_ms", "p50_ms", "p80_ms", "ratio", "peak_mb")]
        table.add_row(row["op"], row["backend"], *cells)
    _out.print(table)
