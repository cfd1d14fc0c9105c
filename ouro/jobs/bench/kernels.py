"""Kernels: a gate against the definition in float64 first, then times on a GPU beside floors and peers.

Without a CUDA device the gate runs in Triton's interpreter, in a process of its own, and nothing is timed.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Generator, Iterator, Mapping, Sequence
from dataclasses import dataclass
from importlib.metadata import version
from typing import Any

import torch

from ouro.jobs.bench.interpreter import interleaved, interpreted_rows, rows_of
from ouro.jobs.bench.peers import Peer, peers_of
from ouro.jobs.bench.timing import ceilings, cold, quantiles, replayed, rotated
from ouro.jobs.provenance import run_info
from ouro.kernels import NAMES, kernel
from ouro.kernels.ceilings import least_ms
from ouro.kernels.gate import check, inputs_of, rows, stumbled
from ouro.kernels.launch import Case, Kernel, interpreted
from ouro.settings import check_counts
from ouro.types import Progress, Report

GROUPS = {
    "scan": ("bidirectional_scan", "selective_scan"),
    "gemm": ("quantized_linear",),
    "rows": ("causal_conv", "norm_quantize", "outlier_quantizer"),
}
NOT_MEASURED = "not measured: no CUDA device"
OURS = "ouro"


@dataclass(frozen=True, slots=True)
class KernelBenchSpec:
    """Which kernels, by name or group; none means all. words: that a measured case's name has to have.

    peers: also measure what others offer. repeats: replays that percentiles are taken of.

    Raises:
        ValueError: an unknown kernel, no case with these words, or fewer than one repeat.
    """

    kernels: tuple[str, ...] = ()
    words: tuple[str, ...] = ()
    peers: bool = True
    repeats: int = 20
    seed: int = 0

    def __post_init__(self) -> None:
        check_counts(self, "repeats")
        for name in self.kernels:
            if name not in NAMES and name not in GROUPS:
                raise ValueError(f"unknown kernel {name!r}; known: {', '.join((*GROUPS, *NAMES))}")
        if not any(self.cases(name) for name in self.names):
            known = dict.fromkeys(
                word for n in self.names for c in kernel(n).cases if c.bench for word in c.name.split()
            )
            given = " and ".join(map(repr, self.words))
            raise ValueError(f"no measured case has {given} in its name; known words: {', '.join(known)}")

    @property
    def names(self) -> tuple[str, ...]:
        """The kernels themselves, in the order of the registry."""
        wanted = {part for name in self.kernels or NAMES for part in GROUPS.get(name, (name,))}
        return tuple(name for name in NAMES if name in wanted)

    def cases(self, name: str) -> list[Case]:
        """What is measured of a kernel. A word is a whole word of the case's name, or a whole one before a dash."""
        chosen = []
        for case in kernel(name).cases:
            parts = {part for word in case.name.split() for part in (word, word.split("-")[-1])}
            if case.bench and set(self.words) <= parts:
                chosen.append(case)
        return chosen


@dataclass(frozen=True, slots=True)
class GateSpec:
    """Which kernels are checked, by name. processes: side by side, most of whose time is the compiler's.

    Raises:
        ValueError: an unknown kernel, or none, or no process.
    """

    kernels: tuple[str, ...] = NAMES
    seed: int = 0
    processes: int = 1

    def __post_init__(self) -> None:
        check_counts(self, "processes")
        for name in self.kernels:
            kernel(name)
        if not self.kernels:
            raise ValueError("no kernel is given, there is nothing to check")


def check_kernels(spec: GateSpec) -> Generator[Progress, None, Report]:
    """The gate alone: {op, gate, gates, interpreted}. Every `Progress` has the `gates` so far."""
    started = time.perf_counter()
    device = _device()
    gates = yield from _gated(spec.kernels, device, spec.seed, 0, spec.processes)
    values: dict[str, Any] = {"op": "kernels", "gate": _passed(gates), "gates": gates, "rows": []}
    values |= {"interpreted": device.type != "cuda" or interpreted(), "packages": {"triton": version("triton")}}
    return Report("gate", values, run_info(spec.seed, started, device))


def _device() -> torch.device:
    return torch.device("cuda" if torch.cuda.is_available() else "cpu")


def _gated(
    names: Sequence[str], device: torch.device, seed: int, more: int, processes: int = 1
) -> Generator[Progress, None, list[dict[str, Any]]]:
    """Rows of the gate of these kernels; `more` steps come after it."""
    tests = [f"{name}, {case.name}" for name in names for case in kernel(name).cases if not case.bench]
    gates: list[dict[str, Any]] = []
    # every so many-th name: neighbors in the alphabet are no neighbors in time
    parts = [part for first in range(processes) if (part := names[first::processes])]
    if device.type != "cuda":
        checked = interleaved([_interpreted_gates(part) for part in parts])
    elif len(parts) > 1:
        checked = interleaved([rows_of("ouro.kernels.gate", *part, environment={}) for part in parts])
    else:
        checked = rows(names, device, seed)
    for row in checked:
        if row is not None:
            gates.append(row)
        now = tests[min(len(gates), len(tests) - 1)]
        yield Progress(len(gates), len(tests) + more, f"gate: {now}", {"gates": list(gates)})
    return sorted(gates, key=lambda row: names.index(row["kernel"]))


def _passed(gates: Sequence[Mapping[str, Any]]) -> dict[str, Any]:
    failed = sorted({row["kernel"] for row in gates if not row["passed"]})
    return {"passed": not failed, "failed": failed, "cases": len(gates)}


def bench_kernels(spec: KernelBenchSpec) -> Generator[Progress, None, Report]:
    """Gate of every kernel, then every case that is asked for, ours first and its peers behind."""
    started = time.perf_counter()
    device = _device()
    measures = device.type == "cuda"
    cases = [(kernel(name), case) for name in spec.names for case in spec.cases(name)]
    gates = yield from _gated(spec.names, device, spec.seed, len(cases) * measures)
    gate, total = _passed(gates), len(gates) + len(cases)
    failed = set(gate["failed"])
    peers = {peer.name: peer for name in spec.names for peer in peers_of(name)} if spec.peers else {}
    values: dict[str, Any] = {
        "op": "kernels",
        "gate": gate,
        "gates": gates,
        "rows": [],
        "ceilings": None,
        "missing": [{"peer": peer.name, "why": peer.missing} for peer in peers.values() if peer.missing],
        "not_measured": None if measures else NOT_MEASURED,
        "packages": {"triton": version("triton")},
    }
    if measures:
        yield Progress(len(gates), total, "ceilings of this device")
        values["ceilings"] = ceilings(device)
        values["packages"] |= {peer.name: peer.version for peer in peers.values() if not peer.missing}
        for done, (tested, case) in enumerate(cases):
            yield Progress(len(gates) + done, total, f"{tested.name}, {case.name}")
            values["rows"] += list(_measured(tested, case, device, spec, values["ceilings"], tested.name in failed))
        slipped = {row["kernel"] for row in values["rows"] if row.get("gate", "passed") != "passed"}
        values["gate"] |= {"passed": not failed | slipped, "failed": sorted(failed | slipped)}
    return Report("bench", values, run_info(spec.seed, started, device))


def _interpreted_gates(names: Sequence[str]) -> Iterator[dict[str, Any] | None]:
    return interpreted_rows("ouro.kernels.gate", *names)


def _measured(
    tested: Kernel,
    case: Case,
    device: torch.device,
    spec: KernelBenchSpec,
    rates: Mapping[str, float],
    failed: bool,
) -> Iterator[dict[str, Any]]:
    """Rows of one case: ours, behind a gate at this very size, and each peer's, with how many times faster ours is.

    Where that gate or the kernel's others failed, ours is "unverified": its time is there to be looked at.
    """
    row: dict[str, Any] = {"kernel": tested.name, "case": case.name, "backend": OURS}
    try:
        verdict = check(tested, case, device, spec.seed)
    except Exception as error:  # a compiler's or a device's, and the next case goes on
        yield row | {"max_error": None, "gate": "failed", "complaint": stumbled(error)}
        return
    row |= {"max_error": verdict.finite_error, "gate": "passed" if verdict.passed and not failed else "unverified"}
    row |= {} if verdict.passed else {"complaint": verdict.complaint}
    cache = torch.cuda.get_device_properties(device).L2_cache_size
    sets = rotated(inputs_of(case, device, spec.seed), cache)

    def ours(inputs: Mapping[str, Any]) -> Callable[[], object]:
        return lambda: tested.op(**inputs, backend="triton")

    times = _times([ours(inputs) for inputs in sets], spec.repeats)
    floor, bound = least_ms(tested.floor(case), dict(rates))
    share = round(floor / times["p50_ms"], 4)
    yield row | {"floor_ms": round(floor, 5), "bound": bound, "achieved": share} | times
    for peer in peers_of(tested.name) if spec.peers else []:
        theirs = _peer_row(peer, sets, spec.repeats)
        if theirs is not None:
            ratio = {"speedup": round(theirs["p50_ms"] / times["p50_ms"], 3)} if "p50_ms" in theirs else {}
            yield {"kernel": tested.name, "case": case.name, "backend": peer.name, "note": peer.note} | theirs | ratio


def _peer_row(peer: Peer, sets: list[dict[str, Any]], repeats: int) -> dict[str, Any] | None:
    """Times of a peer, or what it stumbled over; None where it is not installed or not made for such operands."""
    if peer.missing:
        return None
    try:
        with torch.no_grad():
            calls = peer.make(sets)
            return None if calls is None else _times(calls, repeats)
    except Exception as error:  # whatever a package of others raises is its result
        return {"failed": stumbled(error)}


def _times(calls: list[Callable[[], object]], repeats: int) -> dict[str, Any]:
    """Percentiles of replays, of calls from a cold cache as cold_p20_ms and so on, and how it was replayed."""
    warm, how = replayed(calls, repeats)
    from_cold = quantiles(cold(calls[0], repeats))
    return quantiles(warm) | {"replay": how} | {f"cold_{name}": value for name, value in from_cold.items()}
