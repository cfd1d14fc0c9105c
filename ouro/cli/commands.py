"""The journeys: look, explain, synthesize, quantize, evaluate, find out what hurts, train."""

from __future__ import annotations

from dataclasses import replace
from io import BytesIO
from pathlib import Path
from typing import Annotated

import typer

from ouro.cli import draw
from ouro.cli.options import (
    CALIB,
    Calib,
    Data,
    Device,
    Json,
    Limit,
    Options,
    Out,
    Scope,
    Seed,
    Source,
    labeled,
    numbers,
    pairs,
    takes_model,
)
from ouro.cli.tail import end, followed, guarded, picture_format, run, write_picture
from ouro.registry import GENERATORS, QUANTIZERS


@guarded
def models(json_: Json = False) -> None:
    """List the models.

    JSON: [{name, task, metric, family, data, input_size, parameters, weights, score, score_n, top1, top1_n}].
    """
    from ouro.jobs.catalog import catalog

    end(catalog(), draw.models, json_=json_)


@guarded
def inspect(
    file: Annotated[str, typer.Argument(help="A checkpoint: a file, a URL, or a hub file as org/name:file@revision.")],
    name: Annotated[str, typer.Option(help="Look at it as this model, not as the one it is nearest to.")] = "",
    json_: Json = False,
) -> None:
    """Say what a checkpoint holds, and for which model.

    JSON: {label, family, name, input_size, classes, parameters, matched, missing, unmatched, first_missing, first_unmatched,
    container, revision, digest, config, problem}.
    """
    from dataclasses import asdict

    from ouro.models import inspect as look

    values = asdict(look(file, name or None))
    end(values | {"config": dict(values["config"])}, draw.inspection, json_=json_)


@guarded
def doctor(json_: Json = False) -> None:
    """Say what this machine can run, and why not. JSON: {ok, checks: [{name, ok, detail, fix, required}]}."""
    from ouro.jobs.doctor import doctor as examine

    values = examine()
    end(values, draw.doctor, json_=json_)
    if not values["ok"] and not json_:
        raise typer.Exit(1)


@guarded
@takes_model
def attention(
    source: Source,
    image: Annotated[str | None, typer.Option(help="An image file instead of a held-out image.")] = None,
    sample: Annotated[int, typer.Option(help="Which held-out image to show.", min=0)] = 0,
    data: Data = "",
    layer: Annotated[int | None, typer.Option(help="Layer to show; the last by default.")] = None,
    window: Annotated[int, typer.Option(help="Side of the neighborhood of h_p, odd.")] = 5,
    window_weights: Annotated[str, typer.Option(help="Weights inside the window: delta or uniform.")] = "delta",
    num: Annotated[int, typer.Option("--n", help="Also score the maps over this many held-out images.", min=0)] = 0,
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
    from ouro.jobs.provenance import values_of

    suffix = picture_format(out)
    spec = ExplainSpec(
        source, sample=None if image else sample, image=image, layer=layer, window=window, weights=window_weights, n=num,
        seed=seed, data=data, device=device,
    )  # fmt: skip
    report = followed("attention", explain(spec))
    values = values_of(report)
    if out is not None:
        values["path"] = write_picture(attention_matplotlib(report), out, suffix)
    end(values, draw.attention, json_=json_)


@guarded
@takes_model
def show(
    source: Source,
    image: Annotated[str | None, typer.Option(help="An image file instead of a held-out image.")] = None,
    sample: Annotated[int, typer.Option(help="Which held-out image to show.", min=0)] = 0,
    data: Data = "",
    beside: Annotated[str, typer.Option(help="A quantized file of the model, whose answer is shown beside.")] = "",
    steps: Annotated[int, typer.Option(help="Of the sampler of a denoiser.", min=1)] = 10,
    out: Annotated[Path | None, typer.Option(help="Write the picture here (.png, .svg or .pdf).")] = None,
    seed: Seed = 0,
    device: Device = "auto",
    json_: Json = False,
) -> None:
    """What a model, or a quantized file beside its model, answers to one image, whatever its task, beside the truth.

    JSON: {model, task, beside: {method, bits, scope, calib}, data, sample, image, classes, truth, answers: {float,
    quantized}, agreement, divergence, seconds, device, seed, path}.
    """
    from ouro.figures.tasks import paper
    from ouro.jobs.answers import AnswersSpec, answers
    from ouro.jobs.provenance import values_of

    suffix = picture_format(out)
    spec = AnswersSpec(
        source, beside, sample=None if image else sample, image=image, data=data, steps=steps, seed=seed, device=device
    )
    report = followed("show", answers(spec))
    values = values_of(report)
    if out is not None:
        values["path"] = write_picture(paper(report), out, suffix)
    end(values, draw.show, json_=json_)


@guarded
@takes_model
def generate(
    source: Source,
    num: Annotated[int, typer.Option(help="How many images.")] = 128,
    steps: Annotated[int, typer.Option(help="Optimization steps per image.")] = 160,
    method: Annotated[str, typer.Option(help="One of: " + ", ".join(GENERATORS) + ".")] = "ouro",
    batch: Annotated[int, typer.Option(help="Images optimized together.")] = 32,
    lr: Annotated[float, typer.Option(help="Learning rate of the images.")] = 0.2,
    option: Options = [],
    out: Annotated[Path | None, typer.Option(help="Write the set here (.safetensors).")] = None,
    report: Annotated[Path | None, typer.Option(help="Also write what --json prints here (.json).")] = None,
    seed: Seed = 0,
    device: Device = "auto",
    json_: Json = False,
) -> None:
    """Synthesize calibration images from noise; stopped or killed, the same command goes on from some seconds before, to the
    same images. Runs of one seed differ in their times alone, which the set's file has none of.

    JSON: {model, method, num, steps, seconds, recognized: {self, other}, judges, path, ...}.
    """
    from ouro.jobs.synthesize import SynthesisSpec, synthesize

    if out is not None and out.suffix != ".safetensors":
        raise ValueError(f"the set is written as .safetensors, got {out.name!r}")
    spec = SynthesisSpec(
        source, method, num=num, steps=steps, seed=seed, batch=batch, lr=lr, options=pairs(option),
        out=str(out) if out else None, device=device,
    )  # fmt: skip
    end(run("generate", synthesize(spec)), draw.generate, json_=json_, out=report)


@guarded
@takes_model
def quantize(
    source: Source,
    method: Annotated[str, typer.Option(help="One of: " + ", ".join(QUANTIZERS) + ".")] = "ouro",
    bits: Annotated[str, typer.Option(help="Weights, activations, outliers: w8a8, w4a4o16, w4a4o8 ...")] = "w4a4o8",
    calib: Calib = "noise:128",
    scope: Scope = "lin",
    option: Options = [],
    budget: Annotated[float | None, typer.Option(help="Mean bits that a search spreads over the sites.")] = None,
    widths: Annotated[str, typer.Option(help="With --budget: what a site can get.")] = "3,4,6,8",
    by: Annotated[str, typer.Option(help="With --budget: a width per site, or per group (block and kind).")] = "site",
    packed: Annotated[bool, typer.Option("--packed", help="Write integer codes in place of the weights.")] = False,
    floats: Annotated[str, typer.Option(help="With --packed: fp32 or fp16 for what stays in floating point.")] = "fp32",
    keep: Annotated[
        list[str],
        typer.Option(
            help="Bits of some sites, as REGEX=BITS, 32 to leave them in float: 'layers\\.0\\..*=32'; or of channels of "
            "activations, as REGEX:CHANNELS=BITS: 'layers\\.0\\..*in_proj\\.tap_in:61,17=8'; repeatable."
        ),
    ] = [],
    out: Annotated[Path | None, typer.Option(help="Write the quantized model here (.safetensors).")] = None,
    seed: Seed = 0,
    device: Device = "auto",
    json_: Json = False,
) -> None:
    """Calibrate a quantized model.

    JSON: {model, method, bits, scope, calib, n, effective_bits, path, bytes, seconds, audit: {sites, sealed}, ...}; with
    --budget also {budget, mean_bits: {weights, activations}, predicted_kl, measured_kl}, with --keep {keep: [{sites, bits,
    count, channels}]}, with --packed {packed: {ratio, parts, load_seconds, agreement, max_error}}.
    """
    from ouro.jobs.quantize import QuantizeSpec
    from ouro.jobs.quantize import quantize as job

    if out is not None and out.suffix != ".safetensors":
        raise ValueError(f"the quantized model is written as .safetensors, got {out.name!r}")
    spec = QuantizeSpec(
        source, method, bits, calib, scope, seed, out=str(out) if out else None, options=pairs(option), budget=budget,
        widths=numbers(widths, "widths"), by=by, packed=packed, floats=floats, device=device,
        keep=pairs(keep, "keep", last=True),
    )  # fmt: skip
    end(run("quantize", job(spec)), draw.quantize, json_=json_)


@guarded
@takes_model
def sensitivity(
    source: Source,
    bits: Annotated[str, typer.Option(help="Weights, activations, outliers: w8a8, w4a4o8 ...")] = "w4a4o8",
    method: Annotated[str, typer.Option(help="As for quantize.")] = "ouro",
    calib: Calib = "noise:128",
    scope: Scope = "lin",
    mode: Annotated[str, typer.Option(help="isolated, cumulative or leave_one_float.")] = "isolated",
    by: Annotated[str, typer.Option(help="site, or group: the sites of a block that are of one kind.")] = "site",
    data: Data = "",
    limit: Limit = 200,
    option: Options = [],
    out: Out = None,
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
        source, method, bits, calib, scope, mode, by, data, limit, seed, options=pairs(option), device=device
    )
    end(run("sensitivity", measure_sensitivity(spec)), draw.sensitivity, json_=json_, out=out)


@guarded
@takes_model
def quality(
    source: Source,
    calib: Annotated[
        list[str], typer.Option("--set", help=f"LABEL=SET, with SET as for --calib: {CALIB} Repeatable.")
    ] = [
        "noise=noise:128",
        "synthetic=synthetic:128",
        "real=real:128",
    ],
    reference: Annotated[str, typer.Option(help="Real images that sets are measured against.")] = "real:128",
    method: Annotated[list[str], typer.Option(help="Quantized with every set; repeatable.")] = ["clipped", "ouro"],
    bits: Annotated[list[str], typer.Option(help="Repeatable.")] = ["w4a4o8"],
    data: Data = "",
    limit: Limit = 250,
    figures: Annotated[Path | None, typer.Option(help="Folder for one PDF per figure.")] = None,
    out: Out = None,
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

    sets = labeled(calib, "--set")
    spec = QualitySpec(source, sets, reference, tuple(method), tuple(bits), limit, seed, data, device)
    values = run("quality", job(spec))
    if figures is not None:
        from ouro.figures.quality import ITEMS, paper

        figures.mkdir(parents=True, exist_ok=True)
        for item in ITEMS:
            paper(values, item).savefig(figures / f"{item}.pdf")
    end(values, draw.quality, json_=json_, out=out)


@guarded
@takes_model
def evaluate(
    source: Source,
    data: Data = "",
    limit: Annotated[int | None, typer.Option(help="At most this many images.", min=1)] = None,
    batch: Annotated[int, typer.Option(help="Images per forward; does not change the result.", min=1)] = 64,
    seed: Seed = 0,
    device: Device = "auto",
    json_: Json = False,
) -> None:
    """Top-1 with its 95 % interval, of a model or a quantized file; on several processes as torchrun --nproc-per-node 2 -m
    ouro evaluate ... Beside a quantized file, --weights says where the weights that it was made from lie now.

    JSON: {model, method, bits, scope, data, n, top1, ci95, fp_top1, effective_bits, seconds, device, seed, transform,
    weights: {source, container, revision}, ranks}.
    """
    from ouro.jobs.evaluate import EvaluateSpec
    from ouro.jobs.evaluate import evaluate as job

    spec = EvaluateSpec(source, data=data, limit=limit, batch=batch, seed=seed, device=device)
    end(run("evaluate", job(spec)), draw.evaluate, json_=json_)


@guarded
@takes_model
def sample(
    source: Source,
    num: Annotated[int, typer.Option(help="How many pictures.", min=1)] = 16,
    steps: Annotated[int, typer.Option(help="Steps of the sampler.", min=1)] = 20,
    sampler: Annotated[str, typer.Option(help="euler, or heun with two velocities per step.")] = "heun",
    guidance: Annotated[float, typer.Option(help="How far beyond the velocity without class; 1 is as trained.")] = 1.0,
    classes: Annotated[
        str, typer.Option(help="Classes of the pictures in turn, as 3 or 1,4,1,5; all by default.")
    ] = "",
    beside: Annotated[
        str, typer.Option(help="A quantized file of the model, drawn under it from the same noise.")
    ] = "",
    out: Annotated[Path | None, typer.Option(help="Write the pictures here (.png).")] = None,
    seed: Seed = 0,
    device: Device = "auto",
    json_: Json = False,
) -> None:
    """Pictures that a denoiser makes; of a quantized file, the float model's above its own.

    JSON: {model, method, bits, num, sampler, steps, guidance, classes, judge, recognized: {float, quantized}, difference,
    seconds, device, seed, path}.
    """
    from ouro.jobs.provenance import values_of
    from ouro.jobs.sample import SampleSpec, sheet
    from ouro.jobs.sample import sample as job
    from ouro.store import write_bytes

    if out is not None and out.suffix != ".png":
        raise ValueError(f"cannot write pictures as {out.name!r}; use .png")
    wanted = numbers(classes, "classes") if classes else ()
    spec = SampleSpec(source, beside, num, steps, sampler, guidance, wanted, seed, device)
    report = followed("sample", job(spec))
    values = values_of(report)
    if out is not None:
        picture = BytesIO()
        sheet(report.arrays).save(picture, format="png")
        write_bytes(out, picture.getvalue())
        values["path"] = str(out)
    end(values, draw.sample, json_=json_)


@guarded
@takes_model
def train(
    source: Source,
    out: Annotated[Path | None, typer.Option(help="Folder for the weights and the model card.")] = None,
    data: Annotated[
        str,
        typer.Option(
            help="In place of the recipe's own set: cifar10:PATH, folder:PATH, masks:PATH, coco:FILE.json. The head is made for its classes."
        ),
    ] = "",
    held_out: Annotated[str, typer.Option(help="The set to measure on; by default the test split of --data.")] = "",
    steps: Annotated[
        int | None, typer.Option(help="In place of the recipe's rounds: so many steps at full size.", min=1)
    ] = None,
    device: Device = "auto",
    json_: Json = False,
) -> None:
    """Rebuild an embedded checkpoint by its recipe, or train its model on other data, from new weights or those of --weights.

    JSON: its model card.
    """
    from ouro.jobs.recipes import RECIPES
    from ouro.jobs.train import for_data, train_job

    if source.name not in RECIPES:
        raise ValueError(f"no recipe for {source.name!r}; known: {', '.join(RECIPES)}")
    recipe = RECIPES[source.name]
    spec = replace(recipe, data=data or recipe.data, held_out=held_out, device=device)
    spec = for_data(spec if steps is None else spec.shortened(steps), source)
    end(run("train", train_job(spec, out or Path("out"))), draw.train, json_=json_)


@guarded
def export(
    data: Annotated[str, typer.Argument(help="A set with masks or boxes: scenes_seg, scenes_det.")],
    out: Annotated[Path, typer.Option(help="Folder to write into.")],
    num: Annotated[int, typer.Option(help="The first so many images.", min=1)] = 100,
    split: Annotated[str, typer.Option(help="train, calib or test.")] = "test",
    size: Annotated[int, typer.Option(help="Side of the images in pixels.", min=1)] = 96,
    seed: Seed = 0,
    json_: Json = False,
) -> None:
    """Write drawn scenes as files that other tools read: COCO's JSON for boxes, PNG masks for segments.

    JSON: {data, split, num, size, seed, classes, path, read_as}.
    """
    from ouro.jobs.export import ExportSpec
    from ouro.jobs.export import export as job

    end(run("export", job(ExportSpec(data, str(out), num, split, size, seed))), draw.export, json_=json_)


@guarded
@takes_model
def onnx(
    source: Source,
    out: Annotated[Path, typer.Option(help="Write the file here (.onnx).")],
    opset: Annotated[int, typer.Option(help="Version of ONNX's operators.")] = 21,
    fixed_batch: Annotated[bool, typer.Option("--fixed-batch", help="One image at a time, not any number.")] = False,
    limit: Annotated[int, typer.Option(help="Images of noise to compare both on.", min=1)] = 8,
    seed: Seed = 0,
    json_: Json = False,
) -> None:
    """Write a model or a quantized file as an ONNX file, and compare what ONNX Runtime makes of it; it needs no ouro there.

    JSON: {model, method, bits, scope, path, bytes, opset, fixed_batch, inputs, outputs, nodes: {Scan, QuantizeLinear,
    DequantizeLinear}, n, max_difference, largest, ...}.
    """
    from ouro.jobs.onnx import OnnxSpec
    from ouro.jobs.onnx import onnx as job

    if out.suffix != ".onnx":
        raise ValueError(f"cannot write a model as {out.name!r}; use .onnx")
    end(run("onnx", job(OnnxSpec(source, str(out), opset, fixed_batch, limit, seed))), draw.onnx, json_=json_)


COMMANDS = (
    models,
    inspect,
    doctor,
    attention,
    show,
    generate,
    quantize,
    sensitivity,
    quality,
    evaluate,
    sample,
    train,
    export,
    onnx,
)
"""In the order in which --help lists them."""
