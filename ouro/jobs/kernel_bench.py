"""Kernels: a gate against the definition in float64 first, then times on a GPU beside floors and peers.

Without a CUDA device the gate runs in Triton's interpreter, in a process of its own, and nothing is timed.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
import time
from collections.abc import Callable, Generator, Iterator, Mapping
from dataclasses import dataclass
from importlib.metadata import version
from typing import Any

import torch

from ouro.jobs.kernel_peers import Peer, peers_of
from ouro.jobs.kernel_timing import ceilings, cold, quantiles, replayed, rotated
from ouro.jobs.provenance import run_info
from ouro.kernels import NAMES, kernel
from ouro.kernels.ceilings import least_ms
from ouro.kernels.gate import check, inputs_of, rows
from ouro.kernels.launch import Case, Kernel, KernelError, can_run
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
        if self.repeats < 1:
            raise ValueError(f"repeats is {self.repeats}, expected 1 or more")
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
        found = []
        for case in kernel(name).cases:
            parts = {part for word in case.name.split() for part in (word, word.split("-")[-1])}
            if case.bench and set(self.words) <= parts:
                found.append(case)
        return found


def bench_kernels(spec: KernelBenchSpec) -> Generator[Progress, None, Report]:
    """Gate of every kernel, then every case that is asked for, ours first and its peers behind."""
    started = time.perf_counter()
    device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
    tests = {name: sum(not case.bench for case in kernel(name).cases) for name in spec.names}
    cases = [(kernel(name), case) for name in spec.names for case in spec.cases(name)]
    measures = device.type == "cuda"
    total = sum(tests.values()) + len(cases) * measures
    gates: list[dict[str, Any]] = []
    found = rows(spec.names, device, spec.seed) if measures else _interpreted_gates(spec.names)
    for row in found:
        gates.append(row)
        yield Progress(len(gates), total, f"gate: {row['kernel']}, {row['case']}", row)
    failed = {row["kernel"] for row in gates if not row["passed"]}
    peers = {peer.name: peer for name in spec.names for peer in peers_of(name)} if spec.peers else {}
    values: dict[str, Any] = {
        "op": "kernels",
        "gate": {"passed": not failed, "failed": sorted(failed), "cases": len(gates)},
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
            if tested.name not in failed:
                values["rows"] += list(_measured(tested, case, device, spec, values["ceilings"]))
        slipped = {row["kernel"] for row in values["rows"] if row.get("gate") == "failed"}
        values["gate"] |= {"passed": not failed | slipped, "failed": sorted(failed | slipped)}
    return Report("bench", values, run_info(spec.seed, started, device))


def _interpreted_gates(names: tuple[str, ...]) -> Iterator[dict[str, Any]]:
    """`ouro.kernels.gate` in a process that interprets kernels; this one may have imported them to be compiled."""
    refusal = can_run(torch.device("cpu"))
    if refusal is not None and "not installed" in refusal:
        raise KernelError(f"kernels cannot be checked here: {refusal}")
    command = [sys.executable, "-m", "ouro.kernels.gate", *names]
    environment = os.environ | {"TRITON_INTERPRET": "1"}
    with subprocess.Popen(command, env=environment, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True) as run:
        assert run.stdout is not None and run.stderr is not None
        for line in run.stdout:
            yield json.loads(line)
        complaint = run.stderr.read()
    if run.returncode:
        raise RuntimeError(f"the gate stopped with code {run.returncode}: {complaint.strip().splitlines()[-1:]}")


def _measured(
    tested: Kernel, case: Case, device: torch.device, spec: KernelBenchSpec, rates: Mapping[str, float]
) -> Iterator[dict[str, Any]]:
    """Rows of one case: ours, behind a gate at this very size, and each peer's, with how many times faster ours is."""
    verdict = check(tested, case, device, spec.seed)
    row = {"kernel": tested.name, "case": case.name, "backend": OURS, "max_error": verdict.finite_error}
    if not verdict.passed:
        yield row | {"gate": "failed", "complaint": verdict.complaint}
        return
    cache = torch.cuda.get_device_properties(device).L2_cache_size
    sets = rotated(inputs_of(case, device, spec.seed), cache)

    def ours(inputs: Mapping[str, Any]) -> Callable[[], object]:
        return lambda: tested.op(**inputs, backend="triton")

    times = _times([ours(inputs) for inputs in sets], spec.repeats)
    floor, bound = least_ms(tested.floor(case), dict(rates))
    share = round(floor / times["p50_ms"], 4)
    yield row | {"gate": "passed", "floor_ms": round(floor, 5), "bound": bound, "achieved": share} | times
    for peer in peers_of(tested.name) if spec.peers else []:
        found = _peer_row(peer, sets, spec.repeats)
        if found is not None:
            ratio = {"speedup": round(found["p50_ms"] / times["p50_ms"], 3)} if "p50_ms" in found else {}
            yield {"kernel": tested.name, "case": case.name, "backend": peer.name, "note": peer.note} | found | ratio


def _peer_row(peer: Peer, sets: list[dict[str, Any]], repeats: int) -> dict[str, Any] | None:
    """Times of a peer, or what it stumbled over; None where it is not installed or not made for such operands."""
    if peer.missing:
        return None
    try:
        with torch.no_grad():
            calls = peer.make(sets)
            return None if calls is None else _times(calls, repeats)
    except Exception as error:  # whatever a package of others raises is its result
        return {"failed": f"{type(error).__name__}: {' '.join(str(error).split())[:200]}"}


def _times(calls: list[Callable[[], object]], repeats: int) -> dict[str, Any]:
    """Percentiles of replays, of calls from a cold cache as cold_p20_ms and so on, and how it was replayed."""
    warm, how = replayed(calls, repeats)
    from_cold = quantiles(cold(calls[0], repeats))
    return quantiles(warm) | {"replay": how} | {f"cold_{name}": value for name, value in from_cold.items()}
