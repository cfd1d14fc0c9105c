"""What `ouro bench` times, behind a gate, and what it holds against each other."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from ouro.cli import draw
from ouro.cli.options import Device, Json, Out, Seed, Source, numbers, takes_model
from ouro.cli.tail import end, guarded, run

CaseWords = Annotated[
    list[str], typer.Option("--case", help="A word of the case's name, as Vim-B or b=128; repeatable.")
]
Peers = Annotated[bool, typer.Option(help="Also measure what else is installed.")]
Replays = Annotated[int, typer.Option(help="Replays that percentiles are taken of.")]


@guarded
def scan(
    b: Annotated[int, typer.Option(help="Batch.")] = 8,
    e: Annotated[int, typer.Option(help="Channels.")] = 384,
    l: Annotated[int, typer.Option(help="Time steps.")] = 197,  # noqa: E741
    n: Annotated[int, typer.Option(help="States per channel.")] = 16,
    repeats: Annotated[int, typer.Option(help="Timed calls of the compiled scan.")] = 30,
    backend: Annotated[str, typer.Option(help="cpu, or triton: as `ouro bench kernels scan`.")] = "cpu",
    peers: Annotated[bool, typer.Option(help="Time what torch.compile makes of a scan as well; minutes.")] = True,
    out: Out = None,
    seed: Seed = 0,
    json_: Json = False,
) -> None:
    """The compiled scan against the loop over tokens, and against that loop and two parallel scans under torch.compile.

    JSON: {op, device, rows: [{case, backend, gate, max_error, p20_ms, p50_ms, p80_ms, ratio, peak_mb}], strongest: {op:
    {peer, p50_ms, ratio}}, ...}.
    """
    if backend == "triton":
        return _kernels(["scan"], [], peers, repeats, out, seed, json_)
    if backend != "cpu":
        raise ValueError(f"backend is {backend!r}, allowed are cpu and triton")
    from ouro.jobs.bench.scan import ScanBenchSpec, bench_scan

    job = bench_scan(ScanBenchSpec(b=b, e=e, l=l, n=n, repeats=repeats, peers=peers, seed=seed))
    end(run("bench", job), draw.scan, json_=json_, out=out)


@guarded
@takes_model
def model(
    source: Source,
    b: Annotated[str, typer.Option(help="Batch; with backend triton several, as in 1,8,32,128.")] = "8",
    backend: Annotated[str, typer.Option(help="cpu, or triton: the whole model on kernels, Vim only.")] = "cpu",
    formats: Annotated[str, typer.Option(help="With backend triton: fp32, fp16, bf16, w8a8, w4a8, w4a4o8.")] = (
        "fp16,w8a8,w4a8,w4a4o8"
    ),
    images: Annotated[int, typer.Option(help="With backend triton: images that pass the gate.")] = 1024,
    peers: Annotated[
        bool, typer.Option(help="Time the model under torch.compile as well; with backend triton the unfused one.")
    ] = True,
    repeats: Annotated[int, typer.Option(help="Timed forwards; 0 takes 5, or 50 with backend triton.")] = 0,
    out: Out = None,
    seed: Seed = 0,
    json_: Json = False,
) -> None:
    """A whole model's forward with the compiled scan against itself with the loop over tokens and compiled, or on kernels.

    JSON: {op, device, rows: [{case, backend, gate, max_error, p20_ms, p50_ms, p80_ms, ratio, peak_mb, ms_per_image}], ...}; with backend
    triton {op, model, device, gate: {passed, failed, formats}, gates: [{model, format, images, error, agreement, off, top1,
    yardstick, yardstick_top1, lost, won, chance, exact, passed, complaint}], rows: [{case, format, b, backend, replay, gate,
    p20_ms, p50_ms, p80_ms, images_per_second, speedup, speedup_over_graph, speedup_over}], missing, not_measured}.
    """
    batches = numbers(b, "b")
    if backend == "triton":
        from ouro.jobs.bench.fused import FusedBenchSpec, bench_fused

        fused = FusedBenchSpec(source, tuple(formats.split(",")), batches, images, peers, repeats or 50, seed)
        return end(run("bench", bench_fused(fused)), draw.fused, json_=json_, out=out)
    if backend != "cpu" or len(batches) > 1:
        raise ValueError(f"backend is {backend!r} and b {b!r}; backend cpu takes one batch size, triton takes several")
    from ouro.jobs.bench.model import ModelBenchSpec, bench_model

    spec = ModelBenchSpec(source, batch=batches[0], repeats=repeats or 5, peers=peers, seed=seed)
    end(run("bench", bench_model(spec)), draw.timed, json_=json_, out=out)


@guarded
@takes_model
def packed(
    source: Source,
    bits: Annotated[list[str], typer.Option(help="Repeatable.")] = ["w8a8", "w4a8"],
    b: Annotated[list[int], typer.Option(help="Batch; repeatable.")] = [1, 8],
    repeats: Annotated[int, typer.Option(help="Timed forwards of each.")] = 30,
    images: Annotated[int, typer.Option(help="Held-out images that pass the gate.")] = 64,
    out: Out = None,
    seed: Seed = 0,
    json_: Json = False,
) -> None:
    """A packed model's forward on the CPU against the same model in float32, and where the time goes.

    Weights of a model that is not embedded are made up, as for `bench model`.

    JSON: {op, model, weights, device, gate, rows: [{case, backend, gate, max_error, agreement, p20_ms, p50_ms, p80_ms,
    ratio, parts}]}.
    """
    from ouro.jobs.bench.packed import PackedBenchSpec, bench_packed

    spec = PackedBenchSpec(source, tuple(bits), tuple(b), repeats, images, seed=seed)
    end(run("bench", bench_packed(spec)), draw.packed, json_=json_, out=out)


@guarded
def alpha(
    e: Annotated[int, typer.Option(help="Channels.")] = 384,
    n: Annotated[int, typer.Option(help="States per channel.")] = 16,
    side: Annotated[int, typer.Option(help="Patches along a side of the image.")] = 14,
    window: Annotated[int, typer.Option(help="Side of the neighborhood.")] = 5,
    repeats: Annotated[int, typer.Option(help="Timed calls of the compiled form.")] = 10,
    out: Out = None,
    seed: Seed = 0,
    json_: Json = False,
) -> None:
    """Patched attention of one image, scan and block: compiled against the closed form and a triple loop over steps.

    JSON: {op, device, rows: [{op, case, backend, p20_ms, p50_ms, p80_ms, ratio}], gate, ...}.
    """
    from ouro.jobs.bench.alpha import AlphaBenchSpec, bench_alpha

    spec = AlphaBenchSpec(e=e, n=n, side=side, window=window, repeats=repeats, seed=seed)
    end(run("bench", bench_alpha(spec)), draw.timed, json_=json_, out=out)


@guarded
def kernels(
    names: Annotated[list[str] | None, typer.Argument(help="Kernels, or scan, gemm, rows; none means all.")] = None,
    case: CaseWords = [],
    peers: Peers = True,
    repeats: Replays = 20,
    out: Out = None,
    seed: Seed = 0,
    json_: Json = False,
) -> None:
    """Triton kernels: a gate against float64 first, then times beside floors and peers; without a GPU the gate only.

    JSON: {op, device, gate: {passed, failed, cases}, gates: [{kernel, case, passed, max_error, share, counts, complaint}], rows:
    [{kernel, case, backend, p20_ms, p50_ms, p80_ms, cold_p50_ms, floor_ms, bound, achieved, speedup}], ceilings, missing,
    not_measured}.
    """
    _kernels(names or [], case, peers, repeats, out, seed, json_)


@guarded
def gates(
    names: Annotated[list[str] | None, typer.Argument(help="Kernels; none means all.")] = None,
    processes: Annotated[int, typer.Option(help="Side by side.")] = 1,
    out: Out = None,
    seed: Seed = 0,
    json_: Json = False,
) -> None:
    """Whether every kernel computes what its reference does, on this GPU or in Triton's interpreter; nothing is timed.

    JSON: {op, device, gate: {passed, failed, cases}, gates: [{kernel, case, passed, max_error, share, counts, complaint}],
    interpreted}.
    """
    from ouro.jobs.bench.kernels import GateSpec, check_kernels

    spec = GateSpec(tuple(names), seed, processes) if names else GateSpec(seed=seed, processes=processes)
    end(run("bench", check_kernels(spec)), draw.gates, json_=json_, out=out)


@guarded
def gemm(
    case: CaseWords = [],
    peers: Peers = True,
    repeats: Replays = 20,
    out: Out = None,
    seed: Seed = 0,
    json_: Json = False,
) -> None:
    """The quantized linear layers, as `ouro bench kernels gemm`. JSON: the same keys."""
    _kernels(["gemm"], case, peers, repeats, out, seed, json_)


def _kernels(
    names: list[str], words: list[str], peers: bool, repeats: int, out: Path | None, seed: int, json_: bool
) -> None:
    from ouro.jobs.bench.kernels import KernelBenchSpec, bench_kernels

    spec = KernelBenchSpec(tuple(names), tuple(words), peers, repeats, seed)
    end(run("bench", bench_kernels(spec)), draw.kernels, json_=json_, out=out)


@guarded
def compare(
    before: Annotated[Path, typer.Argument(help="A file that `ouro bench ... --out` wrote.")],
    after: Annotated[Path, typer.Argument(help="Another one.")],
    json_: Json = False,
) -> None:
    """Two result files side by side; a row is the same where its ranges from p20 to p80 overlap.

    JSON: {device, same_device, commit, rows: [{what, case, backend, before_ms, after_ms, speedup, verdict}], only_before,
    only_after}.
    """
    from ouro.jobs.bench.diff import compare_benchmarks

    end(compare_benchmarks(before, after), draw.compared, json_=json_)


@guarded
@takes_model
def devices(
    source: Source,
    device: Device = "auto",
    out: Out = None,
    seed: Seed = 0,
    json_: Json = False,
) -> None:
    """Whether a device gives what the CPU gives, part by part: forward, attention, generation, calibration, sensitivity.

    JSON: {model, device, gate: {passed, failed}, rows: [{part, max_error, tolerance, passed, note}], ...}.
    """
    from ouro.jobs.bench.devices import DeviceSpec, compare_devices

    end(run("devices", compare_devices(DeviceSpec(source, device, seed))), draw.devices, json_=json_, out=out)


COMMANDS = {
    "devices": devices,
    "scan": scan,
    "model": model,
    "packed": packed,
    "alpha": alpha,
    "kernels": kernels,
    "gates": gates,
    "gemm": gemm,
    "compare": compare,
}
"""Name behind `ouro bench` -> command."""
