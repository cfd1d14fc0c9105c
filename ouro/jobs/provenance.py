"""Where and with what a number was made: the `RunInfo` that every report carries."""

from __future__ import annotations

import os
import platform
import subprocess
import time
from functools import cache
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

import torch

from ouro.types import Report, RunInfo

_PACKAGES = {"ouro": "ouro-workbench", "torch": "torch", "numba": "numba", "triton": "triton"}


def run_info(seed: int, started: float, device: str | torch.device = "cpu") -> RunInfo:
    """This machine, these versions and this commit; `started` is the `time.perf_counter()` of the beginning."""
    versions = {"python": platform.python_version(), **{name: _version(package) for name, package in _PACKAGES.items()}}
    # its own word for it has the build: 2.13.0+cpu
    versions["torch"] = str(torch.__version__)
    return RunInfo(device_name(device), versions, commit(), seed, time.perf_counter() - started)


def device_name(device: str | torch.device = "cpu") -> str:
    """What did the work, by its own name: "NVIDIA H100 80GB HBM3", or "AMD EPYC 9575F, 2 threads"."""
    device = torch.device(device)
    if device.type == "cuda":
        return torch.cuda.get_device_name(device)
    if device.type == "cpu":
        return f"{_processor()}, {torch.get_num_threads()} threads"
    return str(device)


def values_of(report: Report) -> dict[str, Any]:
    """What a report says, with what made it."""
    made = report.run
    return dict(report.values) | {
        "device": made.device,
        "seconds": report.values.get("seconds", round(made.seconds, 2)),
        "seed": made.seed,
        "versions": dict(made.versions),
        "commit": made.commit,
    }


@cache
def commit() -> str:
    """Short hash of the checkout this package runs from, "-dirty" added where files differ from it; or "unknown".

    A copy of the checkout says where it comes from in OURO_COMMIT.
    """
    if copied := os.environ.get("OURO_COMMIT"):
        return copied
    root = Path(__file__).resolve().parents[2]
    # a folder installed into somebody else's repository must not report that repository's commit
    if not (root / ".git").exists():
        return "unknown"
    command = ["git", "-C", str(root), "describe", "--always", "--dirty", "--exclude=*"]
    try:
        return subprocess.run(command, capture_output=True, text=True, check=True, timeout=10).stdout.strip()
    except (OSError, subprocess.SubprocessError):
        return "unknown"


@cache
def _processor() -> str:
    try:
        lines = Path("/proc/cpuinfo").read_text("utf-8", errors="replace").splitlines()
    except OSError:
        lines = []
    named = (line.partition(":")[2].strip() for line in lines if line.startswith("model name"))
    return next(filter(None, named), platform.processor() or platform.machine() or "CPU")


@cache
def _version(package: str) -> str:
    try:
        return version(package)
    except PackageNotFoundError:
        return "not installed"
