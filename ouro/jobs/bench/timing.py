"""How long a call takes: on a CPU as it is; on a GPU by replays of a graph over operands that exceed its cache, and cold."""

from __future__ import annotations

import os
import time
import tracemalloc
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any, cast

import torch
from torch import Tensor

from ouro.kernels.ceilings import probes

_FLUSH = 512 * 2**20
_LEAST_SETS, _MOST_SETS = 4, 256


def quantiles(times: Sequence[float]) -> dict[str, float]:
    """{"p20_ms", "p50_ms", "p80_ms"} of times in milliseconds."""
    at = torch.tensor(times, dtype=torch.float64).quantile(torch.tensor([0.2, 0.5, 0.8], dtype=torch.float64))
    return dict(zip(("p20_ms", "p50_ms", "p80_ms"), (round(x, 5) for x in at.tolist()), strict=True))


def rotated(inputs: Mapping[str, Any], cache_bytes: int) -> list[dict[str, Any]]:
    """Copies of the operands, so many that together they are twice what a cache holds; 4 at least, 256 at most."""
    tensors = [x for x in inputs.values() if isinstance(x, Tensor)]
    size = sum(x.numel() * x.element_size() for x in tensors)
    count = min(_MOST_SETS, max(_LEAST_SETS, -(-2 * cache_bytes // size)))
    # a clone keeps the strides of a dense tensor
    copies = [{n: x.clone() if isinstance(x, Tensor) else x for n, x in inputs.items()} for _ in range(count - 1)]
    return [dict(inputs), *copies]


def replayed(calls: Sequence[Callable[[], object]], repeats: int) -> tuple[list[float], str]:
    """(milliseconds per call of so many replays of a graph of all calls, "graph"); one after the other if none is made.

    Some peers allocate or synchronize in a way that no graph records; "eager" says so.
    """
    for call in calls:
        call()
    torch.cuda.synchronize()
    try:
        graph = torch.cuda.CUDAGraph()
        with torch.cuda.graph(graph):
            for call in calls:
                call()
        run, how = graph.replay, "graph"
    except RuntimeError:
        torch.cuda.synchronize()

        def run() -> None:
            for call in calls:
                call()

        how = "eager"
    run()
    return [time / len(calls) for time in timed(run, repeats)], how


def cold(call: Callable[[], object], repeats: int) -> list[float]:
    """Milliseconds of single calls, each after the cache was overwritten."""
    waste = torch.empty(_FLUSH, dtype=torch.int8, device="cuda")
    call()
    return timed(call, repeats, before=waste.zero_)


def ceilings(device: torch.device, repeats: int = 10) -> dict[str, float]:
    """Bytes, exponentials and operations per second of this device, measured; see `ouro.kernels.ceilings`."""
    rates = {}
    for kind, (work, call) in probes(device).items():
        for _ in range(3):
            call()
        rates[kind] = work / (quantiles(timed(call, repeats))["p50_ms"] * 1e-3)
    return rates


def timed(call: Callable[[], object], repeats: int, before: Callable[[], object] | None = None) -> list[float]:
    """Milliseconds of so many calls by the device's own clock; `before` each of them something else may run."""
    events = [[torch.cuda.Event(enable_timing=True) for _ in range(2)] for _ in range(repeats)]
    for begin, end in events:
        if before is not None:
            before()
        begin.record()
        call()
        end.record()
    torch.cuda.synchronize()
    return [begin.elapsed_time(end) for begin, end in events]


def percentiles(call: Callable[[], object], repeats: int, *, warm: bool = True) -> dict[str, float]:
    """{"p20_ms", "p50_ms", "p80_ms"} of so many calls."""
    if warm:
        call()
    seconds = []
    for _ in range(repeats):
        begun = time.perf_counter()
        call()
        seconds.append(time.perf_counter() - begun)
    at = torch.tensor(seconds, dtype=torch.float64).quantile(torch.tensor([0.2, 0.5, 0.8], dtype=torch.float64)) * 1e3
    return dict(zip(("p20_ms", "p50_ms", "p80_ms"), (round(x, 3) for x in at.tolist()), strict=True))


def peak_mb(call: Callable[[], object]) -> float:
    """Peak memory of one call beyond what was there: torch's allocations by its profiler, numpy's by tracemalloc.

    Scratch that kernels allocate themselves (a few tiles per thread) is not seen.
    """
    tracemalloc.start()
    profile = torch.profiler.profile(activities=[torch.profiler.ProfilerActivity.CPU], profile_memory=True)
    with _mute():
        profile.start()
    try:
        call()
    finally:
        with _mute():
            profile.stop()
    numpy_peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    held = peak = 0
    for event in cast(Any, profile.profiler).kineto_results.events():
        if event.name() == "[memory]":
            held += event.nbytes()
            peak = max(peak, held)
    return (peak + numpy_peak) / 1e6


@contextmanager
def _mute() -> Iterator[None]:
    """Without the file descriptor of stderr, where torch 2.13's profiler says that it starts and stops."""
    kept = os.dup(2)
    nowhere = os.open(os.devnull, os.O_WRONLY)
    try:
        os.dup2(nowhere, 2)
        yield
    finally:
        os.dup2(kept, 2)
        os.close(kept)
        os.close(nowhere)
